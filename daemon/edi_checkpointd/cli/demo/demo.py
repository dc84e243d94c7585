"""The demo: kill an editing session and its daemon, recover the session, and print each step.

The daemon, the publisher (`editor`) and the signals are real; the home is temporary. Losses are counted from
outside: the demo compares what the publisher printed before it died with what `edi-checkpoint`, in new processes, reads
at the end. It trusts no counter of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edi_checkpointd.cli.demo.editor import AT_STAKE, CUT_AT, Found, Heard, digest, find, told
from edi_checkpointd.cli.exits import Exit

SESSION = "demo"
SILENCE_S = 20.0  # the demo fails if a child prints nothing for this long
READERS = 4  # commands that read at the same time
LOG_LINES = 5  # last lines shown of a child that failed


class DemoFailed(Exception):
    """The demo cannot continue; the message is a sentence for the user."""


class Child:
    """A process of the demo, and its lines of output. It has its own process session: Ctrl-C reaches only the demo."""

    def __init__(self, what: str, module: str, *arguments: str, home: Path) -> None:
        """Start `python -m module`."""
        self.what = what
        self.popen = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=home, env=_environment(home), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=LOG_LINES)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as stream:
            for line in stream:
                if line.endswith("\n"):  # else the child was killed in the middle of a line
                    self._last.append(line.rstrip())
                    self._lines.put(line)
        self._lines.put(None)

    def lines(self) -> Iterator[str]:
        """Yield the lines that it prints, until it closes its output. Raises `DemoFailed` after `SILENCE_S`."""
        while True:
            try:
                line = self._lines.get(timeout=SILENCE_S)
            except queue.Empty:
                raise self.failed(f"printed nothing for {SILENCE_S:g} s") from None
            if line is None:
                return
            yield line

    def failed(self, fault: str) -> DemoFailed:
        """Return the error for a fault of this process, with its last lines."""
        return DemoFailed("\n  ".join([f"{self.what} (process {self.popen.pid}) {fault}", *self._last]))

    def wait(self) -> int:
        """Wait until the process ends, and return its exit code."""
        try:
            return self.popen.wait(SILENCE_S)
        except subprocess.TimeoutExpired:
            raise self.failed(f"did not end within {SILENCE_S:g} s") from None


class Demo:
    """The demo in one home; `close` ends its processes."""

    def __init__(self, home: Path, *, silent: bool) -> None:
        """Prepare the demo; no process runs yet."""
        self._home = home
        self._children: list[Child] = []
        self._tell: Callable[..., None] = (lambda text, style="": None) if silent else _voice()

    def run(self) -> tuple[Found, int]:
        """Run and print all steps; return what was found of EDI's entries, and the number of checkpoint files."""
        self._tell("Kill an editing session in the middle of its work, and recover all of it.", "bold")
        daemon = self._daemon()
        editor = self._editor()
        self._tell(f"\n1. A daemon (process {daemon.popen.pid}) and a simulated EDI (process {editor.popen.pid}) run:")
        before = self._watch(editor, kill_at=CUT_AT)
        self._tell(f"\n2. kill -9 {editor.popen.pid}: EDI dies while it draws that picture.", "red")
        daemon.popen.kill()
        daemon.wait()
        self._tell(f"   kill -9 {daemon.popen.pid}: the daemon dies, too.", "red")
        self._tell(f"   Without checkpoints, lost: {AT_STAKE}.")
        self._tell_what_is_left()
        daemon = self._daemon()
        rows = self._ask("sessions").get("sessions", [])
        listed = next((f"{row['condition']} in {row['stage']}" for row in rows if row["session_id"] == SESSION), "gone")
        self._tell(f"\n4. A new daemon (process {daemon.popen.pid}) lists it: {listed}.")
        editor = self._editor()
        self._tell(f"   A new EDI (process {editor.popen.pid}) opens it and resumes:")
        after = self._watch(editor)
        daemon.popen.terminate()
        if code := daemon.wait():
            raise daemon.failed(f"ended with {code}; its last lines:")
        self._tell("\n5. All processes have ended. Other processes read what EDI had published:")
        found = find([before, after], self._read_back())
        self._tell_found(found, unheard=len(before.published) - len(before.acknowledged))
        files = self._ask("log", SESSION).get("checkpoints", [])
        self._tell("\n6. Its checkpoint files (sequence, kind, stage, name):")
        for row in files:
            self._tell(f"  {row['sequence']:>4}  {row['kind']:<11} {row['stage']:<13} {row['name']}")
        return found, len(files)

    def close(self) -> None:
        """Kill the processes that still run."""
        for child in self._children:
            child.popen.kill()
        for child in self._children:
            child.popen.wait()

    # -- processes ---------------------------------------------------------------------------------------------------

    def _daemon(self) -> Child:
        daemon = Child("the daemon", "edi_checkpointd", "run", home=self._home)
        self._children.append(daemon)
        if not any(line.startswith("ready ") for line in daemon.lines()):
            raise daemon.failed("did not start; its last lines:")
        return daemon

    def _editor(self) -> Child:
        editor = Child("the simulated EDI", "edi_checkpointd.cli.demo.editor", SESSION, home=self._home)
        self._children.append(editor)
        return editor

    def _watch(self, editor: Child, kill_at: str | None = None) -> Heard:
        """Record and show what a publisher prints; kill it as soon as it has published the step `kill_at`."""
        heard = Heard()
        for line in editor.lines():
            if step := heard.note(_json(line)):
                if step == kill_at:
                    editor.popen.kill()
                if text := told(step):
                    self._tell(f"     {text}")
        code = editor.wait()
        if code != (-signal.SIGKILL if kill_at else 0):
            raise editor.failed(f"ended with {code}; its last lines:")
        return heard

    def _ask(self, *arguments: str) -> dict[str, Any]:
        """Run `edi-checkpoint … --json` and return its document; an empty one if nothing is found."""
        command = f"edi-checkpoint {' '.join(arguments)} --json"
        try:
            done = subprocess.run(
                [sys.executable, "-m", "edi_checkpointd.cli", *arguments, "--json"], cwd=self._home, check=False,
                env=_environment(self._home), stdin=subprocess.DEVNULL, capture_output=True, timeout=SILENCE_S,
                start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"`{command}` did not end within {SILENCE_S:g} s") from None
        answer = _json(done.stdout)
        if done.returncode == Exit.NOT_FOUND:
            return {}
        if done.returncode or not answer:
            fault = answer.get("error", {}).get("message") or done.stderr.decode(errors="replace").strip()[-500:]
            raise DemoFailed(f"`{command}` ended with {done.returncode}: {fault}")
        return answer

    # -- results -----------------------------------------------------------------------------------------------------

    def _read_back(self) -> list[str]:
        """Return the digests of the history's entries, in its order, all read by other processes."""
        rows = self._ask("history", SESSION).get("entries", [])
        readers = ThreadPoolExecutor(READERS)
        try:
            return list(readers.map(self._content_of, [row for row in rows if row["op"] in ("update", "base")]))
        finally:
            readers.shutdown(cancel_futures=True)

    def _content_of(self, entry: dict[str, Any]) -> str:
        """Return the digest of the content of an entry of the history."""
        state = self._ask("show", SESSION, "--sequence", str(entry["sequence"])).get("state_info", {})
        return digest({key: state[key] for key in entry["keys"] if key in state})

    def _tell_what_is_left(self) -> None:
        shown = self._ask("show", SESSION)
        if not shown:
            self._tell(f"\n3. `edi-checkpoint show {SESSION}` finds nothing on disk.", "red")
            return
        state = shown["state_info"]
        source = "journal and EDI's outbox" if shown["source"] == "outbox" else shown["source"]
        progress = f"iteration {state.get('current_iteration')} at {state.get('progress')} %"
        counts = f"{len(state.get('user_feedback', ()))} typed answers, {len(state.get('prompts', ()))} prompts"
        self._tell(f"\n3. `edi-checkpoint show {SESSION}` finds on disk, in the {source}:")
        self._tell(f"     {shown['stage']}, {progress}, {counts} (change {shown['sequence']})", "green")

    def _tell_found(self, found: Found, *, unheard: int) -> None:
        style = "red" if found.lost else "green"
        share = f"{found.recovered} of {found.acknowledged}"
        self._tell(f"     {share} acknowledged changes were recovered, in order", style)
        if unheard and not found.missing:
            self._tell(f"     also recovered, though EDI died before their acknowledgement: {unheard}", "green")


def run_demo(*, keep: bool, json_output: bool) -> int:
    """Run the demo and return the exit code: 1 if an acknowledged entry was lost, or the demo failed.

    The last line on stdout is the closing line. `json_output` prints one document instead. `keep` keeps the home.
    """
    home = Path(tempfile.mkdtemp(prefix="edi-demo-"))
    demo = Demo(home, silent=json_output)
    fault = ""
    try:
        with _ended_like_ctrl_c():
            found, made = demo.run()
    except (DemoFailed, KeyboardInterrupt) as error:
        fault = str(error) or "stopped; all its processes have ended"
    finally:
        demo.close()
        if not keep:
            shutil.rmtree(home, ignore_errors=True)
    if fault:
        hint = f"look into its folder: {home}" if keep else "--keep keeps its folder; TMPDIR sets where that is"
        if json_output:
            print(json.dumps({"format": 1, "error": {"code": "demo_failed", "message": fault, "hint": hint}}))
        print(f"demo: {fault}\n  {hint}", file=sys.stderr)
        return 1
    if found.missing or found.unexplained:
        print(f"demo: {found.missing} published changes missing, {found.unexplained} unexpected", file=sys.stderr)
    counts = {"acknowledged": found.acknowledged, "recovered": found.recovered, "lost": found.lost, "checkpoints": made}
    if json_output:
        print(json.dumps({"format": 1, **counts, "home": str(home) if keep else None}))
    else:
        if keep:
            print(f"\nTo look at it: EDI_CHECKPOINT_HOME={shlex.quote(str(home))} edi-checkpoint log {SESSION}")
        print("demo:", *(f"{name}={count}" for name, count in counts.items()))
    return int(found.lost + found.missing + found.unexplained > 0)


def _voice() -> Callable[..., None]:
    """Return a function that prints a line in a style; plain if stdout is no terminal."""
    if not sys.stdout.isatty():
        return lambda text, style="": print(text, flush=True)
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    return lambda text, style="": console.print(text, style=style)


def _environment(home: Path) -> dict[str, str]:
    """Return the environment of the demo's processes: the user's, without the settings for his own sessions."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("EDI_CHECKPOINT_")}
    return {**own, "EDI_CHECKPOINT_HOME": str(home), "EDI_CHECKPOINT_AUTOSTART": "0"}


def _json(text: str | bytes) -> dict[str, Any]:
    """Return `text` decoded as a JSON object, or an empty one if it is none."""
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {}


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demo and its processes, as Ctrl-C does."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
