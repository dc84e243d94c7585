"""Power cuts: records a real daemon and real publishers, and judges recovery from the states that a cut could leave.

There are two recordings. The first is of a daemon (journal, documents, attachments) that runs twice, with publishers
that die. The second is of a publisher's outbox without a daemon. The place of each cut and its result are random.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from crash import disk
from crash.verdict import History, Verdict, folded, history, judge_entries, judge_files, newest_documents
from harness import PATIENCE_S, Home, Process, Publisher, Refused, eventually

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.names import attachment_name
from edi_checkpoint.outbox.segments import list_streams, read_records
from edi_checkpoint.system.paths import Paths, ensure_private, locate
from edi_checkpoint.wire.records import scan, scan_all
from edi_checkpoint.wire.references import references
from edi_checkpointd.attachments.store import AttachmentStore
from edi_checkpointd.checkpoints.damaged import DamagedDocuments
from edi_checkpointd.config import Config, LiveConfig
from edi_checkpointd.inspection.check import check
from edi_checkpointd.inspection.findings import Code, Severity
from edi_checkpointd.journal import JournalDamaged, Reader
from edi_checkpointd.recovery.session_files import SessionDocuments
from edi_checkpointd.recovery.startup import open_journal
from edi_checkpointd.retention.trash import Trash
from edi_checkpointd.sessions.loading import SessionLoader
from edi_checkpointd.system.clock import SystemClock
from edi_checkpointd.system.fs import sweep_temporaries
from edi_checkpointd.system.worker import Mailbox, Worker

FLAGS = (
    "--transition-keys", "attempt", "--transition-quiet-s", "0.02", "--keep-per-session", "3",
    "--autosave-every-s", "0.1", "--checkpoint-every-s", "0.3",
)  # fmt: skip
RECORDER = Path(__file__).with_name("recorder.py")
UNCOMPARED = (
    "-shm",
    "reserve",
    ".sock",
    "outbox",
    "run",
)  # in the daemon's home: not recorded, or not the daemon's own
Judge = Callable[[disk.Disk, Paths], Verdict]


# -- recording ---------------------------------------------------------------------------------------------------------


def _daemon(home: Home, log: Path, *flags: str) -> Process:
    run = [sys.executable, str(RECORDER), str(log), "daemon", "run", *FLAGS, *flags]
    process = home.start(run, lines_from="stderr")
    process.wait_line("ready ")
    return process


def _publisher(home: Home, log: Path, *, outbox_max_bytes: int) -> Publisher:
    process = Publisher(
        [sys.executable, str(RECORDER), str(log), "publisher", "s1"],
        {**home.environment, "EDI_CHECKPOINT_OUTBOX_MAX_BYTES": str(outbox_max_bytes)},
    )
    home.processes.append(process)
    process.wait_line("attached ")
    return process


def record_daemon(home: Home, log: Path) -> list[disk.Operation]:
    """Record two runs of a daemon, the first killed, the second ended; check that the log is complete."""
    daemon = _daemon(home, log)
    first, other = home.publisher("s1"), home.publisher("other")
    for turn in range(3):
        first.do(f"publish(15, who='first', attempt={turn}, raw=[b'{turn}', bytes({turn})])")
        first.do(f"session.checkpoint('mark {turn}', timeout_s={PATIENCE_S})")
    other.do("publish(40, who='other', padding=3000)")
    first.do("publish(60, who='first', padding=25_000)")  # a snapshot, and the WAL is carried into the database
    first.do(f"session.flush(timeout_s={PATIENCE_S})")
    other.kill()
    eventually(lambda: not (home.state / "outbox" / "other").exists())
    first.do("session.amend(session.rollback().name, pinned=True)")
    first.do("publish(15, who='first')")
    first.do(f"session.flush('checkpointed', timeout_s={PATIENCE_S})")
    daemon.kill()
    first.do("publish(15, who='first')")
    daemon = _daemon(home, log)
    first.do(f"session.checkpoint('again', timeout_s={PATIENCE_S})")
    first.kill()
    eventually(lambda: not list((home.state / "outbox").iterdir()))
    daemon.kill(signal.SIGTERM)
    operations = disk.read_log(log)
    _nothing_is_left_out(operations, home.folder)
    return operations


def record_trash(home: Home, log: Path) -> list[disk.Operation]:
    """Record how closed sessions go into the trash, and how one is restored."""
    daemon = _daemon(home, log, "--keep-closed-days", "0")
    home.publisher("stays").do(f"session.checkpoint('stays', pin=True, timeout_s={PATIENCE_S})")
    for session_id in ("left-0", "left-1"):
        writer = home.publisher(session_id)
        for number in range(2):
            writer.do(f"publish(5, who='{session_id}', raw=b'{session_id} {number}')")
            writer.do(f"session.checkpoint('mark {number}', timeout_s={PATIENCE_S})")
        writer.do("client.close()")
    home.command("prune", "--apply")
    trash = locate(home.environment).trash
    eventually(lambda: trash.exists() and {path.name for path in trash.iterdir()} == {"left-0", "left-1"})
    again = home.publisher("left-0")
    again.do("publish(5, who='again', attempt=1)")
    again.do(f"session.checkpoint('again', timeout_s={PATIENCE_S})")
    again.kill()
    eventually(lambda: not (home.state / "outbox" / "left-0").exists())
    daemon.kill(signal.SIGTERM)
    operations = disk.read_log(log)
    _nothing_is_left_out(operations, home.folder)
    return operations


def record_publisher(home: Home, log: Path) -> list[disk.Operation]:
    """Record a publisher without a daemon; its checkpoints sync its outbox, which rolls and is compacted."""
    process = _publisher(home, log, outbox_max_bytes=6 << 20)
    for padding in (0, 100, 400_000, 100):
        process.do(f"publish(25, who='alone', padding={padding})")
        with contextlib.suppress(Refused):
            process.do("session.checkpoint('unheard', timeout_s=0.05)")
    process.kill()
    return disk.read_log(log)


def record_unlinks(home: Home, log: Path) -> list[disk.Operation]:
    """Record a publisher whose outbox is compacted, then trimmed, and synced just before each segment is unlinked.

    The publisher's own thread compacts and trims here, so that the sync comes at this moment in each recording.
    """
    process = _publisher(home, log, outbox_max_bytes=1 << 20)
    process.go_deaf()
    process.do("outbox, unlink = session._stream.outbox, os.unlink")
    process.do("synced = lambda path: path.suffix == '.seg' and outbox.sync()")
    process.do("os.unlink = lambda path, **options: (synced(path), unlink(path, **options))")
    for shorten in ("outbox.compact(0)", "outbox.trim(outbox._segments[-2].last)"):
        for _ in range(2):
            process.do("publish(11, padding=400_000)")  # more than a segment
            process.do("outbox.roll()")
        process.do("publish(3)")
        process.do(shorten)
    process.kill()
    return disk.read_log(log)


def _nothing_is_left_out(operations: Iterable[disk.Operation], folder: Path) -> None:
    """Check that a replay of the whole log gives the present home."""

    def compared(names: Iterable[tuple[str, bytes | None]]) -> dict[str, bytes | None]:
        parts = {name: Path(name).parts for name, _ in names}
        return {
            name: content
            for name, content in names
            if not name.endswith(UNCOMPARED) and not {"outbox", "run"} & set(parts[name])
        }

    found = [(path, None if path.is_dir() else path.read_bytes()) for path in folder.rglob("*") if not path.is_socket()]
    there = compared([(str(path.relative_to(folder)), content) for path, content in found])
    told = compared(list(disk.replayed(operations).cut(disk.Kept()).items()))
    different = [name for name in there.keys() | told.keys() if there.get(name) != told.get(name)]
    assert not different, f"the recorder misses what is done to {different}"


# -- cutting -----------------------------------------------------------------------------------------------------------


def cut(
    operations: list[disk.Operation], chance: random.Random, states: int, folder: Path, judge: Judge, *, lives: int = 0
) -> Verdict:
    """Judge this many states of the disk after cuts; they are made below `folder`, and removed unless they are faulty.

    Every second cut follows an operation that is not a write: these are few, and they change what is safe. On `lives`
    of the states a real daemon starts, too, and its files are judged again.
    """
    verdict = Verdict()
    turns = [at for at, operation in enumerate(operations, start=1) if not isinstance(operation, disk.Write)]
    anywhere = range(len(operations) + 1)
    positions = sorted((chance.choice(turns if number % 2 else anywhere), number) for number in range(states))
    running, done = disk.Disk(), 0
    for position, number in positions:
        for operation in operations[done:position]:
            running.do(operation)
        done = position
        chooser = disk.CHOOSERS[number % len(disk.CHOOSERS)](chance)
        home = folder / f"cut-{number}"
        disk.put(running.cut(chooser), home)
        paths = locate({"EDI_CHECKPOINT_HOME": str(home)})
        found = judge(running, paths)
        if number < lives:
            _start(home, paths)
            found.add(judge_drained(running, paths) if judge is judge_outbox else judge_daemon(running, paths))
        found.findings = [f"cut {number} at {position}, {type(chooser).__name__}: {what}" for what in found.findings]
        verdict.add(found)
        if not found:
            shutil.rmtree(home)
    return verdict


def cut_at_each_step(
    operations: list[disk.Operation], chooser: disk.Chooser, folder: Path, judge: Judge, *, writes: bool = False
) -> Verdict:
    """Judge a cut after each operation that is not a write, or after each of all, with the result of `chooser`."""
    verdict, running = Verdict(), disk.Disk()
    for position, operation in enumerate(operations, start=1):
        running.do(operation)
        if writes or not isinstance(operation, disk.Write):
            home = folder / f"cut-at-{position}"
            disk.put(running.cut(chooser), home)
            found = judge(running, locate({"EDI_CHECKPOINT_HOME": str(home)}))
            found.findings = [f"cut at {position}, behind {operation!s:.100}: {what}" for what in found.findings]
            verdict.add(found)
            shutil.rmtree(home)
    return verdict


def judge_daemon(running: disk.Disk, paths: Paths) -> Verdict:
    """Judge a daemon's start on a state: acknowledged entries exist, and visible files are whole."""
    verdict = judge_files(paths)
    for folder in (paths.sessions, paths.state):
        ensure_private(folder)
    in_files = _sequences_in_files(paths)
    for (what, session_id), sequence in running.told.items():
        if what == "in a file":
            missing = max(0, sequence - in_files.get(session_id, 0))
            verdict.find(f"{session_id}: told to be in a file up to {sequence}, {missing} are not", torn=missing > 0)
    _recover(paths, verdict)
    held, numbers = history(paths), _numbers(paths)
    verdict.add(judge_entries(held, {}))
    for (what, stream), number in running.told.items():
        if what == "acknowledged":
            found = numbers.get(stream, [])
            lacking = sorted(set(range(1, number + 1)) - set(found))
            verdict.find(f"stream {stream}: of {number} acknowledged {lacking[:5]} are not there", lost=len(lacking))
            verdict.find(f"stream {stream}: some are there twice", duplicated=len(found) - len(set(found)))
    verdict.add(_judge_attachments(paths, held))
    for finding in check(paths).findings:
        verdict.find(f"check: {finding}", torn=finding.severity is not Severity.NOTE)
    return verdict


def _sequences_in_files(paths: Paths) -> dict[str, int]:
    """Return the newest sequence of each session in files, also in the trash."""
    found: dict[str, int] = {}
    for folder in (paths.sessions, *paths.trash.glob("*")):
        for session_id, document in newest_documents(replace(paths, sessions=folder)).items():
            found[session_id] = max(document.header.sequence, found.get(session_id, 0))
    return found


def _recover(paths: Paths, verdict: Verdict) -> None:
    """Do the same as a daemon's start, up to the sessions' states, and check that it finds no fault."""
    sweep_temporaries(paths.sessions)
    journal, fault = open_journal(paths)
    verdict.find(f"the journal is called damaged: {fault}", lost=fault is not None)
    catalog = Catalog(paths.sessions)
    catalog.load()
    config, clock, mailbox = LiveConfig(Config()), SystemClock(), Mailbox()
    AttachmentStore(paths.attachments, paths.journal, config.now.attachments_max_bytes, clock).count()
    worker = Worker("files", mailbox)
    damaged, trash = DamagedDocuments(paths, catalog, worker), Trash(paths, catalog, journal, clock)
    loader = SessionLoader(journal, SessionDocuments(paths.sessions, catalog, trash, damaged), clock, config)
    for row in journal.read.sessions():
        ahead = loader.load(row.session_id).session.document is not None
        verdict.find(f"{row.session_id}: its files are ahead of the journal", lost=ahead)
    worker.close()
    mailbox.close(ignored=JournalDamaged)
    journal.close()
    set_aside = [path.name for folder in (paths.damaged, paths.damaged_documents) for path in folder.glob("*")]
    verdict.find(f"set aside: {set_aside}", torn=len(set_aside))


def _numbers(paths: Paths) -> dict[str, list[int]]:
    """Return the numbers of each stream in the journal, in order."""
    numbers: dict[str, list[int]] = {}
    with contextlib.closing(Reader.open(paths.journal)) as reader:
        for row in reader.sessions():
            for frame in reader.frames(row.key, after=0):
                numbers.setdefault(frame.stream, []).extend(record.number for record in scan_all(frame.records))
    return numbers


def _judge_attachments(paths: Paths, held: History) -> Verdict:
    """Check that each attachment of a journaled state has a file or a blob."""
    verdict = Verdict()
    with contextlib.closing(Reader.open(paths.journal)) as reader:
        for session_id, entries in held.items():
            for _, reference in references(folded(entries)):
                name = attachment_name(reference.sha256, reference.type)
                there = (paths.attachments / name).exists() or reader.blob(reference.sha256) is not None
                verdict.find(f"{session_id}: the content of {name} is nowhere", lost=not there)
    return verdict


def judge_outbox(running: disk.Disk, paths: Paths) -> Verdict:
    """Judge an outbox: all records that were reported as synced can be read, in order."""
    verdict = Verdict()
    for (what, stream), number in running.told.items():
        if what != "synced":
            continue
        read: list[int] = []
        for files in list_streams(paths.outbox / "s1"):
            if files.owner.stream == stream:
                for data in read_records(files):
                    read += [record.number for record in scan(data)]
        covered = max(read, default=0)
        verdict.find(f"stream {stream}: synced up to {number}, readable up to {covered}", lost=max(0, number - covered))
    return verdict


def judge_drained(running: disk.Disk, paths: Paths) -> Verdict:
    """Judge the entries that a daemon drained from the outbox; torn records were never reported as safe."""
    verdict = judge_files(paths)
    numbers = _numbers(paths)
    for (what, stream), number in running.told.items():
        if what == "synced":
            missing = max(0, number - max(numbers.get(stream, []), default=0))
            verdict.find(f"stream {stream}: synced up to {number}, {missing} are not journaled", lost=missing)
    return verdict


def _start(folder: Path, paths: Paths) -> None:
    """Start a real daemon on a state, let it drain the outboxes, and end it."""
    home = Home(folder)
    home.left_damaged = {Code.OUTBOX_UNOWNED, Code.OUTBOX_DAMAGED}  # nothing in these was reported as safe
    try:
        daemon = home.daemon(*FLAGS)
        eventually(lambda: not any(map(list_streams, paths.outbox.glob("*"))))
        daemon.kill(signal.SIGTERM)
        assert daemon.popen.returncode == 0, daemon.stderr
    finally:
        home.close()
