"""The real parts: a daemon process in a home of its own, publisher processes, a Redis server, and where it all lies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq
from worker import Worker

READY_TIMEOUT_S = 20.0
QUIET_SHARE = 0.1  # of the processors, used by others: more than that shows in the figures


class Place:
    """A temporary folder on a disk, and everything that was started in it: ended and removed on leaving."""

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

    def home(self, name: str, *, timed: bool = False) -> Home:
        """Start a daemon in a new home; `timed` writes down how long its checkpoints take."""
        home = Home(self.folder / name, timed=timed)
        self._stack.callback(home.close)
        return home

    def worker(self, home: Home) -> Worker:
        worker = Worker(home.environment)
        self._stack.callback(worker.close)
        return worker

    def sink(self) -> str:
        """Start a thread that receives whatever is sent to the endpoint returned, and does nothing with it."""
        endpoint = f"ipc://{self.folder / 'sink'}"
        socket = zmq.Context.instance().socket(zmq.ROUTER)
        socket.bind(endpoint)

        def drain() -> None:
            while True:
                socket.recv_multipart()

        threading.Thread(target=drain, daemon=True).start()
        return endpoint

    def redis(self) -> str | None:
        """Start a Redis server that fsyncs before it answers; return its socket, None when it is not installed."""
        program = shutil.which("redis-server")
        if program is None:
            return None
        folder = self.folder / "redis"
        folder.mkdir()
        path = folder / "sock"
        settings = {
            "port": "0", "unixsocket": str(path), "dir": str(folder), "appendonly": "yes", "appendfsync": "always",
            "save": "", "auto-aof-rewrite-percentage": "0", "daemonize": "no", "logfile": str(folder / "log"),
        }  # fmt: skip
        options = [text for key, value in settings.items() for text in (f"--{key}", value)]
        process = subprocess.Popen([program, *options])
        self._stack.callback(_end, process)
        _wait(path.exists, process, folder / "log")
        return str(path)


class Home:
    """One `EDI_CHECKPOINT_HOME` and the daemon that serves it."""

    def __init__(self, folder: Path, *, timed: bool) -> None:
        folder.mkdir()
        self.sessions = folder / "sessions"
        self.environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith("EDI_CHECKPOINT_")},
            "EDI_CHECKPOINT_HOME": str(folder),
            "EDI_CHECKPOINT_AUTOSTART": "0",
        }
        self._timings = folder / "timings"
        self._timings.touch()
        log = folder / "daemon.log"  # a pipe that nobody reads would fill up, and the daemon wait for it
        program = ["-m", "edi_checkpointd"]
        if timed:
            program = [str(Path(__file__).with_name("timed_daemon.py")), str(self._timings)]
        with log.open("wb") as stderr:
            self.daemon = subprocess.Popen([sys.executable, *program, "run"], env=self.environment, stderr=stderr)
        _wait(lambda: b"ready " in log.read_bytes(), self.daemon, log)

    def last_timing(self) -> list[float]:
        """Return the milliseconds of the newest checkpoint, in all and by step (`timed_daemon.py`)."""
        return [float(text) for text in self._timings.read_text().splitlines()[-1].split()]

    def close(self) -> None:
        _end(self.daemon)


def ask_all(workers: Sequence[Worker], command: str, **arguments: object) -> list[Any]:
    """Have all workers do the same at the same time; return what each says."""
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


class Neighbours:
    """How much of the machine others have used since this was made: what the figures have to be read with."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._others_s = self._used_by_others_s()

    @staticmethod
    def _used_by_others_s() -> float | None:
        """Return the processor time of all but this process and its ended children; None where nobody tells."""
        try:
            line = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        except OSError:
            return None
        user, nice, system, _idle, _waiting, irq, softirq, stolen = (int(text) for text in line[1:9])
        busy_s = (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")
        return busy_s - sum(os.times()[:4])

    def remark(self) -> str:
        """Return a sentence for people; call it when all children have ended."""
        now_s = self._used_by_others_s()
        if now_s is None or self._others_s is None:
            return f"load {os.getloadavg()[0]:.1f}"
        share = (now_s - self._others_s) / (time.monotonic() - self._start_s) / (os.cpu_count() or 1)
        advice = "; read the ratios, not the values, and measure again" if share > QUIET_SHARE else ""
        return f"others used {100 * share:.0f}% of the processors meanwhile{advice}"


def file_system(folder: Path) -> str:
    """Return the type of the file system that `folder` lies on, as Linux tells it."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    found = [line.split()[1:3] for line in mounts]
    holding = [(point, kind) for point, kind in found if folder.resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else "unknown"
