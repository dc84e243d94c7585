"""The steps of the cases: the work that leads to a crash point, and the checks after it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import msgspec
from crash.stage import Stage
from harness import PATIENCE_S, Refused, eventually

from edi_checkpoint.documents.fragments import fragment
from edi_checkpoint.documents.layout import AUTOSAVE, Header, autosave_document, checkpoint_document
from edi_checkpoint.documents.names import attachment_name, checkpoint_name
from edi_checkpoint.model import Kind
from edi_checkpoint.system.paths import ensure_private
from edi_checkpoint.wire.references import Reference, form_of
from edi_checkpointd.transfer.archive import Member, write

SECRET = "the old lighthouse keeper"  # typed into a session that is purged


def waits(stage: Stage) -> None:
    """Do nothing: a start or upkeep reaches the point by itself."""
    stage.waits()


def publishes(stage: Stage) -> None:
    stage.publish("s1", 250)


def publishes_much(stage: Stage) -> None:
    """Publish so much that a snapshot is due and the WAL is carried over."""
    stage.publish("s1", 250, padding=6000)


def marks(stage: Stage) -> None:
    """Publish five transitions with attachments, each with a mark."""
    for _ in range(5):
        number = next(iter(stage.names))
        stage.writer.do(f"session.update(attempt={number}, raw=[b'{number}', bytes({number})])")
        if not stage.attempt(f"session.checkpoint('mark {number}', timeout_s=0.5)"):
            break


def saves(stage: Stage) -> None:
    """Publish, and wait until the auto-save has it and the journal notes this."""
    stage.publish("s1", 20)
    if stage.attempt("session.flush('checkpointed', timeout_s=0.5)") and stage.victim is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):  # a note causes no event; the step is repeated
            stage.victim.popen.wait(0.2)


def marks_and_saves(stage: Stage) -> None:
    """Publish attachments, and wait until they are in files and the journal notes this."""
    marks(stage)
    saves(stage)


def goes_back(stage: Stage) -> None:
    """Roll back to the previous checkpoint, which is pinned for a while, and fork it."""
    marks(stage)
    if stage.attempt("told = session.rollback()") and stage.attempt("session.amend(told.name, pinned=True)"):
        stage.attempt(f"session.fork(told, session_id='fork-{next(iter(stage.names))}')")
        stage.attempt("session.amend(told.name, pinned=False)")


def other_dies(stage: Stage) -> None:
    """Kill a publisher of another session, and continue the session with the next publisher."""
    who = f"other-{next(iter(stage.names))}"
    stage.enter(who, "other")
    stage.publish(who, 50, attempt=1, raw=b"of another")
    stage.kill(who)
    eventually(lambda: stage.dead or not (stage.paths.outbox / "other").exists())


def fought_over(stage: Stage) -> None:
    """Fence a writer whose link hangs; it publishes more before it dies."""
    hung, taker = f"hung-{next(iter(stage.names))}", f"taker-{next(iter(stage.names))}"
    stage.enter(hung, "fought").do("publish(0)")
    stage.publish(hung, 20)
    stage.publishers[hung].go_deaf()
    stage.enter(taker).do("session = client.session('fought', takeover=True)")
    stage.publishers[taker].do("session.update(taken=True)")
    stage.publish(hung, 10)
    stage.kill(hung)
    eventually(lambda: stage.dead or any(stage.paths.sessions.glob("fought-stranded-*_checkpoint_*.json")))
    stage.kill(taker)


def sends_garbage(stage: Stage) -> None:
    """Publish a record that is not an entry: it is refused, and uses up its number."""
    stage.publish("s1", 5)
    stage.writer.do(f"session.flush(timeout_s={PATIENCE_S})")
    stage.writer.do("session._stream.outbox.append(b'no entry') and session._link.wake()")
    stage.waits()


def hears_of_garbage(stage: Stage) -> None:
    """Check that the publisher's next call raises the refusal."""

    def refused() -> bool:
        try:
            stage.writer.do(f"session.flush(timeout_s={PATIENCE_S})")
        except Refused as refused:
            return refused.code == "protocol"
        return False

    eventually(refused)


def is_ended(stage: Stage) -> None:
    stage.publish("s1", 20)
    assert stage.daemon is not None
    stage.daemon.popen.send_signal(signal.SIGTERM)
    stage.waits()


def meets_foreign_file(stage: Stage) -> None:
    (stage.paths.sessions / "foreign.json").write_text('{"session_id": "foreign", "current_stage": "theirs"}')
    stage.enter("foreign", "foreign")
    stage.publish("foreign", 20)
    stage.waits()


def plants_unnamed(stage: Stage) -> None:
    """Make attachments that nothing names, old enough to be collected."""
    marks(stage)
    for number in range(4):
        path = stage.paths.attachments / attachment_name(f"{number:064}", "raw")
        ensure_private(path.parent)
        path.write_bytes(b"nothing names it")
        os.utime(path, (1e9, 1e9))
        stage.unnamed.append(path)


def saved_once(stage: Stage) -> None:
    stage.publish("s1", 60, padding=100_000)  # more than a segment, so that covered segments are trimmed
    stage.writer.do(f"session.flush('checkpointed', timeout_s={PATIENCE_S})")
    stage.publish("s1", 10)
    stage.writer.do(f"session.flush(timeout_s={PATIENCE_S})")


def cleans_up(stage: Stage) -> None:
    """Close a session; it goes into the trash and, with flags, is deleted from it. The writer's session is pinned."""
    stage.attempt("session.checkpoint('stays', pin=True, timeout_s=0.5)")
    left = stage.home.publisher(f"left-{next(iter(stage.names))}")
    for number in range(2):
        left.do(f"session.update(step={number})")
        stage.attempt("session.checkpoint()", left)
    left.do("client.close()")
    left.close()
    for _ in range(2):
        pruning = stage.home.start([sys.executable, "-m", "edi_checkpointd.cli", "prune", "--apply"])
        eventually(lambda pruning=pruning: stage.dead or pruning.popen.poll() is not None)


def comes_back(stage: Stage) -> None:
    """Open a session that is in the trash."""
    cleans_up(stage)
    for mark in list(stage.paths.trash.glob("*/.trashed")):
        opener = stage.home.start_publisher(mark.parent.name)
        stage.waits()
        opener.kill()


def whole_or_gone(stage: Stage) -> None:
    """Check that each closed session is whole in its place, whole in the trash with a note, or deleted."""

    def lies_whole(session_id: str) -> bool:
        here = [path for path in stage.paths.sessions.glob(f"{session_id}*.json") if not path.name.startswith(".")]
        folder = stage.paths.trash / session_id
        there = {path.name for path in folder.iterdir()} if folder.exists() else set()
        # Two checkpoints and an auto-save; on a busy machine the timer makes one more.
        is_here, is_there = len(here) >= 3 and not there, not here and len(there) >= 4 and ".trashed" in there
        return is_here or is_there or not (here or there)

    for number in range(next(iter(stage.names))):
        eventually(lambda number=number: lies_whole(f"left-{number}"))


def damages_journal(stage: Stage) -> None:
    saved_once(stage)
    assert stage.daemon is not None
    stage.daemon.kill()
    stage.paths.journal.write_bytes(b"damaged" * 10_000)


def nothing_damaged_is_destroyed(stage: Stage) -> None:
    kept = {path.name for path in stage.paths.damaged.iterdir()}
    assert {"journal.sqlite", "journal.sqlite-wal"} <= kept, kept


def loses_journal(stage: Stage) -> None:
    saved_once(stage)
    assert stage.daemon is not None
    stage.daemon.kill()
    for path in stage.paths.state.glob("journal.sqlite*"):
        path.unlink()


def purges(stage: Stage) -> None:
    """Purge a session whose writer died; the client need not get an answer."""
    doomed, asker = stage.home.publisher("doomed-session"), stage.home.publisher()
    doomed.do(f"session.update(prompt='{SECRET}', raw=b'{SECRET}')")
    stage.attempt("session.checkpoint('one')", doomed)
    doomed.do(f"session.update(prompt='{SECRET}, once more')")
    doomed.kill()
    asker.send(f"client.ask(lambda n: edi_checkpoint.wire.messages.Purge(n, ('doomed-session',)), {PATIENCE_S})")
    eventually(lambda: stage.dead or asker.has_said("= ") or asker.has_said("! "))
    asker.kill()


def nothing_purged_is_left(stage: Stage) -> None:
    for path in everything_below(stage.home.folder):
        assert "doomed" not in path.name, path
        with contextlib.suppress(FileNotFoundError):  # a save may have renamed its temporary
            data = path.read_bytes() if path.is_file() else b""
            assert SECRET.encode() not in data, path
            assert b"doomed" not in data, path


def everything_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that other processes change meanwhile; `rglob` may fail there."""
    for path, folders, files in os.walk(folder):
        yield from (Path(path, name) for name in (*folders, *files))


def loses_folder(stage: Stage) -> None:
    """Wait until all is in files and the journal notes this, then remove the files."""
    saved_once(stage)
    assert stage.daemon is not None
    stage.daemon.kill(signal.SIGTERM)
    shutil.rmtree(stage.paths.sessions)


def is_saved_again(stage: Stage) -> None:
    eventually(lambda: (stage.paths.sessions / "s1.json").exists() and stage.paths.marker.exists())


def imports(stage: Stage) -> None:
    """Import a session from a file; the daemon dies meanwhile."""
    file = stage.home.folder / "imported.zip"
    with file.open("w+b") as opened:
        write(opened, "imported", "crash test", datetime.now(UTC), imported_files())
    command = [sys.executable, "-m", "edi_checkpointd.cli", "import", str(file)]
    importer = stage.home.start(command)
    eventually(lambda: stage.dead or importer.popen.poll() is not None)
    importer.kill()


def imported_files() -> list[Member]:
    content = b"bytes of an imported session"
    reference = Reference(sha256(content).hexdigest(), "raw", None, (len(content),), len(content))
    fragments = {"n": fragment(b"1"), "raw": fragment(msgspec.json.encode(form_of(reference)))}
    when = datetime(2026, 1, 1, tzinfo=UTC)
    members = [Member(f"{reference.sha256}.raw", content)]
    for sequence in (1, 2, 3):
        stamp = when + timedelta(minutes=sequence)
        header = Header(session_id="imported", timestamp=stamp, kind=Kind.MANUAL, sequence=sequence)
        name = checkpoint_name("imported", stamp)
        members.append(Member(name, b"".join(checkpoint_document(header, fragments))))
    header = Header(session_id="imported", timestamp=when, kind=AUTOSAVE, sequence=3)
    return [*members, Member("imported.json", b"".join(autosave_document(header, fragments)))]


def imported_whole(stage: Stage) -> None:
    """Check that the next start completes the import: all files are in place, and the staging folder is removed."""
    for name, data in imported_files():
        folder = stage.paths.sessions if name.endswith(".json") else stage.paths.attachments / name[:2]
        assert (folder / name).read_bytes() == data, name
    assert list(stage.paths.importing.iterdir()) == []


# -- steps of a publisher that dies ------------------------------------------------------------------------------------


def victim_publishes(stage: Stage) -> None:
    stage.publish("victim", 200)


def victim_tears(stage: Stage) -> None:
    """Let the disk accept all but the last byte of a record."""
    short = "lambda fd, parts: os.write(fd, b''.join(parts)[: -1 if len(parts[-1]) > 9000 else None])"
    stage.publishers["victim"].do(
        f"import types; edi_checkpoint.outbox.outbox.os = types.SimpleNamespace(**{{**vars(os), 'writev': {short}}})"
    )
    stage.publishers["victim"].do("publish(50, who='victim', tell=True)")
    stage.publish("victim", 1, padding=9000)


def victim_is_trimmed(stage: Stage) -> None:
    """Save more than a segment to a file, each time; the link decides how many segments that makes."""
    stage.publish("victim", 50, padding=100_000)
    stage.attempt("session.flush('checkpointed')", stage.publishers["victim"])


def victim_thins(stage: Stage) -> None:
    """Publish more than a segment without a daemon, each time; the outbox has a small limit."""
    stage.publish("victim", 150, padding=100_000)


def victim_leaves(stage: Stage) -> None:
    stage.publishers["victim"].do("publish(20, who='victim', tell=True)")
    stage.publishers["victim"].send("client.close()")
    stage.waits()


def victim_takes_over(stage: Stage) -> None:
    stage.enter("hung", "fought")
    stage.publish("hung", 20)
    stage.publishers["victim"].send("client.session('fought', takeover=True)")
    stage.waits()
