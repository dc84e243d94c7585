"""The real parts of a measurement: a daemon with its home, publisher processes, a Redis server, and their folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq
from worker import Worker

READY_TIMEOUT_S = 20.0
SLOW_DISK = Path(__file__).parents[1] / "tests" / "slow_disk.c"


class Place:
    """A temporary folder on a disk, and the processes started in it. At the end all are ended and removed."""

    def __init__(self, below: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edi-bench-", dir=below))
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def home(
        self, name: str, *, timed: bool = False, running: bool = True, under: Mapping[str, str] | None = None
    ) -> Home:
        """Make a new home, and start its daemon if `running`.

        `timed` records how long its checkpoints take. `under` is added to the daemon's environment.
        """
        home = Home(self.folder / name)
        self._stack.callback(home.close)
        if running:
            home.start(timed=timed, under=under or {})
        return home

    def worker(self, home: Home, program: str = "worker.py", under: Mapping[str, str] | None = None) -> Worker:
        """Start a process that runs commands; `under` is added to its environment."""
        worker = Worker({**home.environment, **(under or {})}, program)
        self._stack.callback(worker.close)
        return worker

    def sink(self) -> str:
        """Start a thread that receives and drops all messages; return its endpoint."""
        endpoint = f"ipc://{self.folder / 'sink'}"
        socket = zmq.Context.instance().socket(zmq.ROUTER)
        socket.bind(endpoint)

        def drain() -> None:
            while True:
                socket.recv_multipart()

        threading.Thread(target=drain, daemon=True).start()
        return endpoint

    def slow_disk(self, ms: int) -> dict[str, str] | None:
        """Return an environment in which each fsync takes `ms` longer; None without a compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            return None
        library = self.folder / "slow_disk.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SLOW_DISK, "-ldl"], check=True)
        return {"LD_PRELOAD": str(library), "SLOW_MS": str(ms)}

    def redis(self, name: str = "redis", under: Mapping[str, str] | None = None) -> str | None:
        """Start a Redis server that fsyncs before it answers; return its socket, None if it is not installed."""
        program = shutil.which("redis-server")
        if program is None:
            return None
        folder = self.folder / name
        folder.mkdir()
        path = folder / "sock"
        settings = {
            "port": "0", "unixsocket": str(path), "dir": str(folder), "appendonly": "yes", "appendfsync": "always",
            "save": "", "auto-aof-rewrite-percentage": "0", "daemonize": "no", "logfile": str(folder / "log"),
        }  # fmt: skip
        options = [text for key, value in settings.items() for text in (f"--{key}", value)]
        process = subprocess.Popen([program, *options], env={**os.environ, **(under or {})})
        self._stack.callback(_end, process)
        _wait(path.exists, process, folder / "log")
        return str(path)


class Home:
    """One `EDI_CHECKPOINT_HOME` and its daemon, if it was started."""

    daemon: subprocess.Popen[bytes]

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.sessions = folder / "sessions"
        self.environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith("EDI_CHECKPOINT_")},
            "EDI_CHECKPOINT_HOME": str(folder),
            "EDI_CHECKPOINT_AUTOSTART": "0",
        }
        self._timings = folder / "timings"
        self._stack = ExitStack()

    def start(self, *, timed: bool, under: Mapping[str, str]) -> None:
        """Start the daemon and wait until it is ready; see `Place.home`."""
        self._timings.touch()
        log = self._folder / "daemon.log"  # an unread pipe would fill up and block the daemon
        program = ["-m", "edi_checkpointd"]
        if timed:
            program = [str(Path(__file__).with_name("timed_daemon.py")), str(self._timings)]
        with log.open("wb") as stderr:
            self.daemon = subprocess.Popen(
                [sys.executable, *program, "run"], env={**self.environment, **under}, stderr=stderr
            )
        self._stack.callback(_end, self.daemon)
        _wait(lambda: b"ready " in log.read_bytes(), self.daemon, log)

    def last_timing(self) -> list[float]:
        """Return the milliseconds of the newest checkpoint, in total and by step (`timed_daemon.py`)."""
        return [float(text) for text in self._timings.read_text().splitlines()[-1].split()]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the daemon's process for the block."""
        self.daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.daemon.send_signal(signal.SIGCONT)

    def memory_kib(self, field: str) -> int:
        """Return a line of the daemon's `/proc/<pid>/status`: `VmRSS` now, `VmHWM` the most it ever was."""
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0])

    def close(self) -> None:
        self._stack.close()


def ask_all(workers: Sequence[Worker], command: str, **arguments: object) -> list[Any]:
    """Run the same command in all workers at the same time; return their results."""
    for worker in workers:
        worker.begin(command, **arguments)
    return [worker.result() for worker in workers]


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline_s:
            said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{process.args!r} does not get ready: {said}")
        time.sleep(0.005)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
