"""Real parts for tests: a daemon process, publisher processes, and the command, with a home of their own.

The test's own process only reads their output and their files.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import commands

from edi_checkpoint.system.paths import locate
from edi_checkpointd.inspection.check import check
from edi_checkpointd.inspection.findings import Report, Severity

# After this time a process counts as hung. Tests wait for events, so that even a busy machine does not need it.
PATIENCE_S = 60.0


class Ended(AssertionError):
    """A process ended before it wrote the expected line."""


class Process:
    """A child process; a test can wait for lines of its output. It is killed at the end of the test."""

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        *,
        lines_from: str = "stdout",
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.popen = subprocess.Popen(
            arguments, env=dict(environment), pass_fds=pass_fds,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE,
        )  # fmt: skip
        self._news = threading.Condition()
        self._looked_at = 0
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self.lines = self.stdout if lines_from == "stdout" else self.stderr
        # Both are always read, so that a full pipe never blocks the child.
        self._readers = [
            threading.Thread(target=self._read, args=(self.popen.stdout, self.stdout), daemon=True),
            threading.Thread(target=self._read, args=(self.popen.stderr, self.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[bytes], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    lines.append(line.decode().removesuffix("\n"))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait_line(self, wanted: Callable[[str], bool] | str, timeout_s: float = PATIENCE_S) -> str:
        """Return the next line that `wanted` accepts, or that begins with the text `wanted`; skip the lines before it.

        It also finds lines that were written before this call. Raises `Ended` if the process ends first.
        """
        accepts = wanted if callable(wanted) else lambda line: line.startswith(wanted)
        deadline_s = time.monotonic() + timeout_s
        with self._news:
            while True:
                while self._looked_at < len(self.lines):
                    line = self.lines[self._looked_at]
                    self._looked_at += 1
                    if accepts(line):
                        return line
                left_s = deadline_s - time.monotonic()
                told = f"{self.stdout[-20:]} {self.stderr[-20:]}"
                if not any(reader.is_alive() for reader in self._readers):
                    raise Ended(f"no such line before the end, exit code {self.popen.wait(timeout_s)}; {told}")
                assert left_s > 0, f"no such line within {timeout_s} s; {told}"
                self._news.wait(min(left_s, 0.2))

    def has_said(self, beginning: str) -> bool:
        """Return whether the process has written such a line."""
        return any(line.startswith(beginning) for line in list(self.lines))

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
            if number in (signal.SIGKILL, signal.SIGTERM):
                self.wait()

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait until the process ends; `stdout` and `stderr` then have its whole output."""
        code = self.popen.wait(timeout_s)
        for reader in self._readers:
            reader.join(timeout_s)
        return code

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
        self.wait()
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.close()


class Refused(Exception):
    """The error that a publisher got instead of an answer: its type, code, message and pid."""

    def __init__(self, told: dict) -> None:
        super().__init__(told)  # so that it can be sent from one process to another
        self.type, self.code, self.message, self.pid = told["type"], told["code"], told["message"], told["pid"]

    def __str__(self) -> str:
        return f"{self.type} {self.code}: {self.message}"


class Publisher(Process):
    """An EDI process that runs lines of Python (`publishers/puppet.py`)."""

    def send(self, code: str) -> None:
        """Start a line of Python in the process, without waiting. Only one may run at a time. Raises `Ended`."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(code.encode() + b"\n")
            self.popen.stdin.flush()
        except BrokenPipeError as error:
            raise Ended(f"it reads no line any more, exit code {self.wait()}: {code}") from error

    def answer(self, timeout_s: float = PATIENCE_S) -> object:
        """Return the value of the line that was sent. Raises `Refused` for an error of edi-checkpoint."""
        line = self.wait_line(lambda line: line[:2] in ("= ", "! "), timeout_s)
        if line.startswith("! "):
            raise Refused(json.loads(line[2:]))
        return json.loads(line[2:])

    def do(self, code: str, timeout_s: float = PATIENCE_S) -> object:
        """Run a line of Python in the process, and return its value."""
        self.send(code)
        return self.answer(timeout_s)

    def sees(self, code: str, timeout_s: float = PATIENCE_S) -> object:
        """Run an expression until its value is true, and return it; for things that its link learns by itself."""
        return eventually(lambda: self.do(code), timeout_s)

    def go_deaf(self) -> None:
        """Stop its link thread, as if it hung; it can still publish."""
        self.do("session._link._turn = lambda: time.sleep(0.01)")
        self.do("session._link.wake()")

    @property
    def acknowledged(self) -> int:
        """The highest number that it has reported as acknowledged."""
        return self._told("acked ", 1)

    @property
    def acknowledged_here(self) -> int:
        """How many updates of `publish` it has reported as acknowledged."""
        return self._told("acked ", 2)

    @property
    def returned(self) -> int:
        """How many calls of `publish(..., tell=True)` it has reported as returned."""
        return self._told("published ", 1)

    def _told(self, beginning: str, word: int) -> int:
        return max((int(line.split()[word]) for line in list(self.lines) if line.startswith(beginning)), default=0)


class Home:
    """One EDI_CHECKPOINT_HOME and the processes that use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sessions = folder / "sessions"
        self.state = folder / "state"
        self.environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith(("EDI_CHECKPOINT_", "COLUMNS"))},
            "EDI_CHECKPOINT_HOME": str(folder),
            "EDI_CHECKPOINT_AUTOSTART": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.processes: list[Process] = []
        self.daemon_pid = 0
        self.left_damaged: set[str] = set()  # codes of the findings that the test itself may cause

    def daemon(self, *flags: str) -> Process:
        """Start a daemon and wait until it is ready."""
        process = self.start([sys.executable, "-m", "edi_checkpointd", "run", *flags], lines_from="stderr")
        process.wait_line("ready ")
        self.daemon_pid = process.pid
        return process

    def listen(self) -> socket.socket:
        """Listen on the daemon's socket, as systemd does; the caller closes it."""
        (self.folder / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.folder / "run" / "daemon.sock"))
        listening.listen(512)
        return listening

    def start_activated(self, listening: socket.socket, *flags: str, **environment: str) -> Process:
        """Start a daemon, without waiting, and pass the socket `listening` to it as systemd does."""
        script, fd = str(Path(__file__).with_name("activated_daemon.py")), listening.fileno()
        arguments = [sys.executable, script, str(fd), "run", *flags]
        return self.start(arguments, lines_from="stderr", pass_fds=(fd,), **environment)

    def start_dying(self, crash_at: str, hits: int, *flags: str) -> Process:
        """Start a daemon, without waiting, that dies by SIGKILL when it reaches the `CrashPoint` for the nth time."""
        dying = [sys.executable, str(Path(__file__).with_name("dying.py")), crash_at, str(hits)]
        return self.start([*dying, "daemon", "run", *flags], lines_from="stderr")

    def start(
        self, arguments: list[str], *, lines_from: str = "stdout", pass_fds: tuple[int, ...] = (), **environment: str
    ) -> Process:
        process = Process(arguments, {**self.environment, **environment}, lines_from=lines_from, pass_fds=pass_fds)
        self.processes.append(process)
        return process

    def python(self, code: str, *arguments: str, **environment: str) -> Process:
        """Start a Python process that runs `code`."""
        return self.start([sys.executable, "-c", code, *arguments], **environment)

    def publisher(self, session_id: str = "", **environment: str) -> Publisher:
        """Start a publisher and wait until it has opened the session (none: until it is connected)."""
        process = self.start_publisher(session_id, **environment)
        process.wait_line("attached ")
        return process

    def start_publisher(self, session_id: str = "", **environment: str) -> Publisher:
        """Start a publisher, without waiting."""
        script = str(Path(__file__).parent / "publishers" / "puppet.py")
        return self._publisher([script], session_id, environment)

    def start_dying_publisher(self, crash_at: str, hits: int, session_id: str = "", **environment: str) -> Publisher:
        """Start a publisher, without waiting, that dies by SIGKILL at the `ClientPoint`, reached for the nth time."""
        dying = [str(Path(__file__).with_name("dying.py")), crash_at, str(hits), "publisher"]
        return self._publisher(dying, session_id, environment)

    def _publisher(self, program: list[str], session_id: str, environment: Mapping[str, str]) -> Publisher:
        arguments = [sys.executable, *program, *([session_id] if session_id else [])]
        process = Publisher(arguments, {**self.environment, **environment})
        self.processes.append(process)
        return process

    def journaled(self, *session_ids: str) -> dict[str, list[dict]]:
        """Return each session's entries in the journal, read by a process of its own, with or without a daemon."""
        reading = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("reading.py")), *session_ids],
            env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert reading.returncode == 0, reading.stderr[-2000:]
        return json.loads(reading.stdout)

    def counted(self, session_id: str) -> list[int]:
        """Return the values of `n` in a session's entries in the journal; see `journaled`."""
        return [entry["values"]["n"] for entry in self.journaled(session_id)[session_id] if "n" in entry["values"]]

    def command(self, *arguments: str, expect: int = 0) -> str:
        """Run `edi-checkpoint` and return its stdout."""
        done = commands.run(arguments, self.environment)
        assert done.returncode == expect, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def on_a_terminal(self, *arguments: str, **environment: str) -> str:
        """Run `edi-checkpoint` on a terminal, 80 columns wide, and return its output."""
        ours, its = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "edi_checkpointd.cli", *arguments],
            env={**self.environment, "COLUMNS": "80", "TERM": "xterm", **environment},
            stdout=its,
            stderr=subprocess.DEVNULL,
        )
        os.close(its)
        text = b""
        try:
            while data := os.read(ours, 1 << 16):
                text += data
        except OSError:  # the terminal's other end was closed
            pass
        os.close(ours)
        assert process.wait(PATIENCE_S) == 0, arguments
        return text.decode().replace("\r\n", "\n")

    def json(self, *arguments: str, expect: int = 0) -> dict:
        return json.loads(self.command(*arguments, "--json", expect=expect))

    def history(self, session_id: str) -> list[dict]:
        return self.json("history", session_id)["entries"]

    def checkpoints(self, session_id: str) -> list[Path]:
        """Return the names of the session's checkpoint files in the folder."""
        from edi_checkpoint.documents.names import parse_checkpoint_name

        found = []
        for path in self.sessions.iterdir():
            name = parse_checkpoint_name(path.name)
            if name is not None and name.session_id == session_id:
                found.append(path)
        return sorted(found)

    def check(self) -> Report:
        """Return the report of `edi-checkpointd check`, run in this process; every test ends with it."""
        return check(locate(self.environment))

    def close(self) -> None:
        """Kill all processes, then check the home: only findings that the test has announced are allowed."""
        for process in self.processes:
            process.close()
        found = [one for one in self.check().findings if one.severity is not Severity.NOTE]
        left = [tuple(map(str, one)) for one in found if one.code not in self.left_damaged]
        assert not left, left


def eventually(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> object:
    """Return the first true value of `condition()`; for changes by other processes that send no event."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        select.select([], [], [], 0.01)
    return found
