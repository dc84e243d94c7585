"""Measures everything beside publishing: starts, deaths, resumes, idle processes and commands."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import journals
from measure import ROUNDS, Row, Target, interleave, row
from parts import Home, Place, ask_all
from processes import field_kib, said, timed, used_ms, woken
from worker import Worker

from edi_checkpoint.link.link import Link
from edi_checkpoint.model import Event
from edi_checkpoint.system.paths import locate
from edi_checkpointd.cli.follow import follow

LIBRARIES = "import apsw, msgspec, zmq, apscheduler.schedulers.background, watchdog.observers"  # a daemon's

AT_EMPTY = Target("value", 300)
AT_MILLION = Target("value", 1200)
JOURNALS = [(0, True), (10_000, True), (100_000, True), (1_000_000, True), (1_000_000, False)]

KILLED = Target("value", 100)
BURST = 200  # updates published just before
KILLS = 2  # in one case of one round

RESUMED_BYTES = 250_000
WITH_DAEMON = Target("value", 20)
FROM_FILES = Target("value", 100)

IDLE = Target("value", 40)
BESIDE = Target("value", 1.2)
CLIENT = Target("value", 8)
HELD_SESSIONS, HELD_BYTES = 48, 1_000_000
SETTLE_S = 1.0

CLIENTS, PROCESSES = 100, 4
SAVED_S, IDLE_S = 8.0, 5.0
DAEMON_WAKES = Target("value", 2)
CLIENT_WAKES = Target("value", 0)

IMPORT = Target("value", 25)
COMMAND = Target("value", 200)
EDI_IMPORTS = "from edi_checkpoint import StateManager"
COMMAND_LOADS = "import cyclopts, msgspec, zmq"


def starts(place: Place) -> list[Row]:
    """Measure how long a daemon takes to be ready, for journals with more and more unsaved rows.

    The floor loads the same libraries and reads the same rows. A daemon adds a snapshot for each MiB of rows; the case
    without snapshots occurs if the disk refused them.
    """
    rows = []
    for updates, snapshots in JOURNALS:
        home = place.home(f"start-{updates}-{snapshots}", running=False)
        journal = Path(home.environment["EDI_CHECKPOINT_HOME"]) / "state" / "journal.sqlite"
        code = LIBRARIES
        if updates:
            journals.make(journal, updates, snapshots=snapshots)
            code += f"; list(apsw.Connection({str(journal)!r}).execute('SELECT * FROM frames'))"
        start = partial(_start_ms, home, journal)
        floor = partial(timed, [sys.executable, "-c", code], home.environment)
        start()
        found = interleave({"ours": start, "floor": floor, "again": start})
        words = f"{updates:,} journaled updates{'' if snapshots else ' without a snapshot'}" if updates else "empty"
        target = {0: AT_EMPTY, 1_000_000: AT_MILLION}.get(updates)
        rows.append(row(f"start to READY, {words}", "ms", target=target, **found))
    return rows


def _start_ms(home: Home, journal: Path) -> float:
    """Start a daemon, kill it when it is ready, and undo its changes; return the milliseconds until it was ready."""
    command = [sys.executable, "-m", "edi_checkpointd", "run"]
    start_s = time.perf_counter()
    with subprocess.Popen(command, env=home.environment, stderr=subprocess.PIPE) as daemon:
        assert daemon.stderr is not None
        ready = next((line for line in daemon.stderr if line.startswith(b"ready ")), None)
        took_ms = (time.perf_counter() - start_s) * 1000
        daemon.kill()
    if ready is None:
        raise RuntimeError("the daemon does not get ready")
    shutil.rmtree(home.sessions)
    for suffix in ("-wal", "-shm"):  # the database itself is unchanged, since the WAL is carried into it much later
        journal.with_name(journal.name + suffix).unlink(missing_ok=True)
    return took_ms


def death(place: Place) -> list[Row]:
    """Measure the time from a publisher's SIGKILL to the event that its session is interrupted, its outbox drained.

    The floor is the time until the kernel reports the death of such a process.
    """
    home = place.home("death")
    link = Link(locate(home.environment), app="bench", version="")
    events = follow(link)
    while next(events) is not None:
        pass  # earlier events

    def ours() -> float:
        return median(_interrupted_ms(place.worker(home, "resident.py"), events) for _ in range(KILLS))

    def floor() -> float:
        return median(_dead_ms(place.worker(home, "resident.py")) for _ in range(KILLS))

    ours()
    found = interleave({"ours": ours, "floor": floor, "again": ours})
    link.close()
    return [row(f"SIGKILL to interrupted and drained, {BURST} updates just published", "ms", target=KILLED, **found)]


def _interrupted_ms(worker: Worker, events: Iterator[Event | None]) -> float:
    session_id = worker.ask("burst", count=BURST)["session_id"]
    start_s = time.perf_counter()
    worker.kill()
    for event in events:
        if event is not None and (event.session_id, event.name) == (session_id, "interrupted"):
            return (time.perf_counter() - start_s) * 1000
    raise RuntimeError("nothing more is told")


def _dead_ms(worker: Worker) -> float:
    worker.ask("loaded")
    fd = os.pidfd_open(worker.pid)
    start_s = time.perf_counter()
    worker.kill()
    select.select([fd], [], [])
    took_ms = (time.perf_counter() - start_s) * 1000
    os.close(fd)
    return took_ms


def resume(place: Place) -> list[Row]:
    """Measure how long EDI waits to continue a session, in a process that is not connected yet.

    The floor does the same as the seed: it reads and decodes the auto-save.
    """
    rows = []
    for words, target in (("with a daemon", WITH_DAEMON), ("from files alone", FROM_FILES)):
        home = place.home(f"resume {words}")
        _fresh(place, home, "save", session_id="resumed", state_bytes=RESUMED_BYTES)
        if target is FROM_FILES:
            home.close()
        ours = partial(_fresh, place, home, "resume", session_id="resumed")
        floor = partial(_fresh, place, home, "read", path=str(home.sessions / "resumed.json"))
        ours()
        found = interleave({"ours": ours, "floor": floor, "again": ours})
        rows.append(row(f"load_state of 250 kB, {words}", "ms", target=target, **found))
    return rows


def _fresh(place: Place, home: Home, command: str, **arguments: object) -> float:
    """Return the output of a new process that runs only this code."""
    worker = place.worker(home, "resident.py")
    answer: float = worker.ask(command, **arguments)
    worker.close()
    return answer


def memory(place: Place) -> list[Row]:
    """Measure the memory of an idle daemon, of a daemon with sessions, and of a client."""
    homes = [place.home(f"memory-{number}") for number in range(ROUNDS)]
    time.sleep(SETTLE_S)
    idle_mib = [home.memory_kib("VmRSS") / 1024 for home in homes]
    code = f"import pathlib; {LIBRARIES}; print(pathlib.Path('/proc/self/status').read_text())"
    floor_mib = [field_kib(said(code), "VmRSS") / 1024 for _ in homes]
    by_byte, client_mib = [], []
    for home in homes:
        holder = place.worker(home, "resident.py")
        names = holder.ask("sessions", count=HELD_SESSIONS, state_bytes=HELD_BYTES, saved=True)["sessions"]
        held_mib = sum((home.sessions / f"{name}.json").stat().st_size for name in names) / (1 << 20)
        by_byte.append((home.memory_kib("VmRSS") / 1024 - IDLE.limit) / held_mib)
        client = place.worker(home, "resident.py")
        client_mib.append(client.ask("grown_kib", state_bytes=RESUMED_BYTES) / 1024)
        holder.close(), client.close()
    held = f"{HELD_SESSIONS} live sessions of 1 MB"
    return [
        row("memory of the daemon, idle", "MiB", idle_mib, floor=floor_mib, target=IDLE),
        row(
            f"memory of the daemon beyond {IDLE.limit:g} MiB, {held}: beside their auto-saves",
            "x",
            by_byte,
            target=BESIDE,
        ),
        row("memory of a client beyond its imports, a session of 250 kB", "MiB", client_mib, target=CLIENT),
    ]


def idle(place: Place) -> list[Row]:
    """Measure how often an idle daemon and its clients wake up, and their processor time."""
    home = place.home("idle")
    residents = [place.worker(home, "resident.py") for _ in range(PROCESSES)]
    ask_all(residents, "clients", count=CLIENTS // PROCESSES)
    time.sleep(SAVED_S)  # until auto-saves and checkpoints are written, and noted
    daemon, clients = [home.daemon.pid], [resident.pid for resident in residents]

    def counters() -> list[float]:
        return [_of_all(pids, measure) for measure in (woken, used_ms) for pids in (daemon, clients)]

    before = counters()
    time.sleep(IDLE_S)
    rates = [(now - then) / IDLE_S for now, then in zip(counters(), before, strict=True)]
    words = f"{CLIENTS} attached idle clients in {PROCESSES} processes"
    return [
        Row(f"{words}: wake-ups of the daemon", "1/s", rates[0], target=DAEMON_WAKES),
        Row(f"{words}: wake-ups of all clients", "1/s", rates[1], target=CLIENT_WAKES),
        Row(f"{words}: processor of the daemon", "ms/s", rates[2]),
        Row(f"{words}: processor of all clients", "ms/s", rates[3]),
    ]


def _of_all(pids: Sequence[int], measure: Callable[[int], float]) -> float:
    return sum(map(measure, pids))


def commands(place: Place) -> list[Row]:
    """Measure an import and a command, each in a process of its own."""
    rows = []
    for code, floor, target in (("import edi_checkpoint", "pass", IMPORT), (EDI_IMPORTS, "import msgspec, zmq", None)):
        cases = {"ours": partial(_cpu_ms, code), "floor": partial(_cpu_ms, floor), "again": partial(_cpu_ms, code)}
        rows.append(row(f"{code}: processor time", "ms", target=target, **interleave(cases)))
    served, alone = place.home("command-served"), place.home("command-alone", running=False)
    for number in range(3):
        _fresh(place, served, "save", session_id=f"s{number}", state_bytes=RESUMED_BYTES)
    passing = shutil.ignore_patterns(".daemon.lock", ".*.tmp")  # a file may be renamed meanwhile
    shutil.copytree(served.sessions, alone.sessions, ignore=passing)
    for home, words in ((served, "a daemon runs"), (alone, "none runs")):
        ours = partial(timed, [sys.executable, "-m", "edi_checkpointd.cli", "sessions"], home.environment)
        floor_ms = partial(timed, [sys.executable, "-c", COMMAND_LOADS], home.environment)
        ours()
        found = interleave({"ours": ours, "floor": floor_ms, "again": ours})
        rows.append(row(f"edi-checkpoint sessions, {words}", "ms", target=COMMAND, **found))
    return rows


def _cpu_ms(code: str) -> float:
    """Return the processor milliseconds of `code` in a new interpreter, without the interpreter's own start."""
    return float(said(f"import time; begun = time.process_time(); {code}; print(1000 * (time.process_time() - begun))"))
