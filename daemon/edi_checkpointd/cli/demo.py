"""The demo: a session is killed in the middle, with its daemon, and comes back whole; told as it happens.

Everything is real and in a home of its own: the daemon, the publisher (`demo_editor`), the signals. What counts as lost
is found from outside: what the publisher printed before it died is held against what `edi-checkpoint`, in processes of
its own, reads when all is over. No counter of ours is asked.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edi_checkpointd.cli.demo_editor import AT_STAKE, CUT_AT, STEPS, digest

SESSION = "demo"
SILENCE_S = 20.0  # a child that says nothing for so long is given up
READERS = 4  # commands that read at the same time
LOG_LINES = 5  # of a child that failed, as it is shown


class DemoFailed(Exception):
    """The demo cannot go on; the message is the sentence for the person who watches."""


@dataclass
class Heard:
    """What a publisher printed: the digests of its entries by number, and which of them it called acknowledged."""

    published: dict[int, str] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Outcome:
    """What was found afterwards.

    `missing` counts entries that are gone and were published, but not acknowledged; `repeated` entries that nobody
    published; `checkpoints` are the rows of `edi-checkpoint log`.
    """

    acknowledged: int
    recovered: int
    missing: int
    repeated: int
    checkpoints: list[dict[str, Any]]

    @property
    def lost(self) -> int:
        """Acknowledged entries that were not found."""
        return self.acknowledged - self.recovered


class Child:
    """A process of the demo, with its lines of output; in a session of its own, so that Ctrl-C reaches only us."""

    def __init__(self, what: str, module: str, *arguments: str, home: Path) -> None:
        """Start `python -m module`."""
        self.what = what
        self.popen = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=home, env=_environment(home), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=LOG_LINES)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as stream:
            for line in stream:
                if line.endswith("\n"):  # else it was killed while it wrote
                    self._last.append(line.rstrip())
                    self._lines.put(line)
        self._lines.put(None)

    def lines(self) -> Iterator[str]:
        """Yield what it prints, until it closes its output. Raises `DemoFailed` when it falls silent."""
        while True:
            try:
                line = self._lines.get(timeout=SILENCE_S)
            except queue.Empty:
                raise self.failed(f"says nothing for {SILENCE_S:g} s") from None
            if line is None:
                return
            yield line

    def failed(self, fault: str) -> DemoFailed:
        """Return the error that says what is wrong with it, with the last it said."""
        return DemoFailed("\n  ".join([f"{self.what} (process {self.popen.pid}) {fault}", *self._last]))

    def wait(self) -> int:
        """Wait until it has left and return how."""
        try:
            return self.popen.wait(SILENCE_S)
        except subprocess.TimeoutExpired:
            raise self.failed(f"has not left within {SILENCE_S:g} s") from None


class Demo:
    """The demo in one home; `close` ends whatever of it still runs."""

    def __init__(self, home: Path, *, silent: bool) -> None:
        """Prepare; nothing runs yet."""
        self._home = home
        self._children: list[Child] = []
        self._say: Callable[[str, str], None] = (lambda text, style: None) if silent else _voice()

    def run(self) -> Outcome:
        """Tell and do all of it. Raises `DemoFailed`."""
        self._tell("A session is killed in the middle, and comes back whole.", "bold")
        daemon = self._daemon()
        editor = self._editor()
        self._tell(f"\n1. A daemon (process {daemon.popen.pid}) and a pretended EDI (process {editor.popen.pid}) run.")
        before = self._watch(editor, kill_at=CUT_AT)
        self._tell(f"\n2. kill -9 {editor.popen.pid}: EDI dies in the middle of that picture.", "red")
        daemon.popen.kill()
        daemon.wait()
        self._tell(f"   kill -9 {daemon.popen.pid}: the daemon dies, too.", "red")
        self._tell(f"   Remembered by nobody, gone would be {AT_STAKE}.")
        self._tell_recovered()
        daemon = self._daemon()
        row = next(row for row in self._ask("sessions")["sessions"] if row["session_id"] == SESSION)
        self._tell(f"\n4. A new daemon (process {daemon.popen.pid}) lists it: {row['condition']} in {row['stage']}.")
        editor = self._editor()
        self._tell(f"   A new EDI (process {editor.popen.pid}) opens it and goes on from there:")
        after = self._watch(editor)
        daemon.popen.terminate()
        daemon.wait()
        outcome = self._compare([before, after])
        self._tell_outcome(len(before.published) - len(before.acknowledged), outcome)
        return outcome

    def close(self) -> None:
        """Kill what still runs."""
        for child in self._children:
            child.popen.kill()
        for child in self._children:
            child.popen.wait()

    # -- what runs ---------------------------------------------------------------------------------------------------

    def _start(self, what: str, module: str, *arguments: str) -> Child:
        child = Child(what, module, *arguments, home=self._home)
        self._children.append(child)
        return child

    def _daemon(self) -> Child:
        daemon = self._start("the daemon", "edi_checkpointd", "run")
        if not any(line.startswith("ready ") for line in daemon.lines()):
            raise daemon.failed("did not come up; its last words:")
        return daemon

    def _editor(self) -> Child:
        return self._start("the pretended EDI", "edi_checkpointd.cli.demo_editor", SESSION)

    def _watch(self, editor: Child, kill_at: str | None = None) -> Heard:
        """Note and tell what a publisher prints, to its end; kill it as soon as it has published the step `kill_at`."""
        heard = Heard()
        for line in editor.lines():
            event = _json(line)
            match event.get("event"):
                case "published":
                    heard.published[event["number"]] = event["digest"]
                    if event["step"] == kill_at:
                        editor.popen.kill()
                    self._tell_step(event["step"])
                case "acknowledged":
                    heard.acknowledged.add(event["number"])
        code = editor.wait()
        if code != (-signal.SIGKILL if kill_at else 0):
            raise editor.failed(f"ended with {code}; its last words:")
        return heard

    def _ask(self, *arguments: str) -> dict[str, Any]:
        """Run `edi-checkpoint … --json` and return its answer."""
        command = f"edi-checkpoint {' '.join(arguments)} --json"
        try:
            done = subprocess.run(
                [sys.executable, "-m", "edi_checkpointd.cli", *arguments, "--json"], cwd=self._home, check=False,
                env=_environment(self._home), stdin=subprocess.DEVNULL, capture_output=True, timeout=SILENCE_S,
                start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"`{command}` does not answer within {SILENCE_S:g} s") from None
        answer = _json(done.stdout)
        if done.returncode or not answer:
            fault = answer.get("error", {}).get("message") or done.stderr.decode(errors="replace").strip()[-500:]
            raise DemoFailed(f"`{command}` ended with {done.returncode}: {fault}")
        return answer

    # -- what was found ----------------------------------------------------------------------------------------------

    def _compare(self, runs: list[Heard]) -> Outcome:
        """Look for each entry that was printed in the history that other processes read: its content, in order."""
        entries = [entry for entry in self._ask("history", SESSION)["entries"] if entry["op"] in ("update", "base")]
        readers = ThreadPoolExecutor(READERS)
        try:
            held = list(readers.map(self._content_of, entries))
        finally:
            readers.shutdown(cancel_futures=True)
        acknowledged = recovered = missing = position = 0
        for run in runs:
            for number, content in sorted(run.published.items()):
                found = content in held[position:]
                if found:
                    position = held.index(content, position) + 1
                if number in run.acknowledged:
                    acknowledged, recovered = acknowledged + 1, recovered + found
                else:
                    missing += not found
        repeated = max(0, len(held) - sum(len(run.published) for run in runs))
        return Outcome(acknowledged, recovered, missing, repeated, self._ask("log", SESSION)["checkpoints"])

    def _content_of(self, entry: dict[str, Any]) -> str:
        """Return the digest of what the entry `entry` of the history changed."""
        state = self._ask("show", SESSION, "--sequence", str(entry["sequence"]))["state_info"]
        return digest({key: state[key] for key in entry["keys"] if key in state})

    # -- what is told ------------------------------------------------------------------------------------------------

    def _tell(self, text: str, style: str = "") -> None:
        self._say(text, style)

    def _tell_step(self, name: str) -> None:
        stage = ""
        for step in STEPS:
            stage = str(step.values.get("current_stage", stage))
            if step.name == name and step.says:
                self._tell(f"     {stage:<14} {step.says}")

    def _tell_recovered(self) -> None:
        shown = self._ask("show", SESSION)
        state = shown["state_info"]
        answers, prompts = len(state.get("user_feedback", ())), len(state.get("prompts", ()))
        self._tell(
            f"\n3. What is left is on disk. There `edi-checkpoint show {SESSION}` finds, from the {shown['source']}:"
        )
        self._tell(
            f"     {shown['stage']}, iteration {state.get('current_iteration')} at {state.get('progress')} %, "
            f"{answers} typed answers, {prompts} prompts (change {shown['sequence']})",
            "green",
        )

    def _tell_outcome(self, unheard: int, outcome: Outcome) -> None:
        self._tell("\n5. All has ended. What EDI printed while it lived, against what others read now:")
        whole = outcome.recovered == outcome.acknowledged
        self._tell(
            f"     {outcome.recovered} of {outcome.acknowledged} acknowledged changes are there, in their order",
            "green" if whole else "red",
        )
        if unheard and not outcome.missing:
            self._tell(f"     and so is what EDI died too early to see acknowledged: {unheard}", "green")
        self._tell("\n6. The checkpoint files it may be taken back to:")
        for row in outcome.checkpoints:
            self._tell(f"  {row['sequence']:>4}  {row['kind']:<11} {row['stage']:<13} {row['name']}")


def run_demo(*, keep: bool, json_output: bool) -> int:
    """Run the demo and return the exit code: 1 if something acknowledged was lost, or the demo failed.

    The last line on stdout is the closing line, or with `json_output` one document is all. `keep` leaves the home.
    """
    home = Path(tempfile.mkdtemp(prefix="edi-checkpoint-demo-"))
    demo = Demo(home, silent=json_output)
    try:
        with _ended_like_ctrl_c():
            outcome = demo.run()
    except DemoFailed as error:
        return _fail(str(error), json_output=json_output)
    except KeyboardInterrupt:
        return _fail("stopped; all that it started is ended", json_output=json_output)
    finally:
        demo.close()
        if not keep:
            shutil.rmtree(home, ignore_errors=True)
    counts = {
        "acknowledged": outcome.acknowledged, "recovered": outcome.recovered, "lost": outcome.lost,
        "checkpoints": len(outcome.checkpoints),
    }  # fmt: skip
    if json_output:
        print(json.dumps({"format": 1, **counts, "home": str(home) if keep else None}))
    else:
        if keep:
            print(f"\nKept for a look: EDI_CHECKPOINT_HOME={shlex.quote(str(home))} edi-checkpoint log {SESSION}")
        print("demo:", *(f"{name}={count}" for name, count in counts.items()))
    if outcome.missing or outcome.repeated:
        print(
            f"demo: {outcome.missing} published entries are missing, {outcome.repeated} are there twice",
            file=sys.stderr,
        )
    return int(bool(outcome.lost or outcome.missing or outcome.repeated))


def _fail(message: str, *, json_output: bool) -> int:
    if json_output:
        hint = "run it again with --keep and look at the home it names"
        print(json.dumps({"format": 1, "error": {"code": "demo_failed", "message": message, "hint": hint}}))
    print(f"demo: {message}", file=sys.stderr)
    return 1


def _voice() -> Callable[[str, str], None]:
    """Return what prints a line in a style; plain when nobody watches."""
    if not sys.stdout.isatty():
        return lambda text, style: print(text, flush=True)
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    return lambda text, style: console.print(text, style=style or None)


def _environment(home: Path) -> dict[str, str]:
    """Return the environment of the demo's processes: the user's, without what he set for his own sessions."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("EDI_CHECKPOINT_")}
    return {**own, "EDI_CHECKPOINT_HOME": str(home), "EDI_CHECKPOINT_AUTOSTART": "0"}


def _json(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object that `text` is, or an empty one."""
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {}


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the demo as Ctrl-C does, with its processes."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
