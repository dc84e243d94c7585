from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import ledger_on

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.errors import EdiCheckpointError, NotFound, VersionMismatch
from edi_checkpoint.system.paths import locate
from edi_checkpoint.wire.entries import Base, Entry, Mark, Update, encode_entry
from edi_checkpoint.wire.messages import GetState
from edi_checkpoint.wire.records import pack, scan, scan_all
from edi_checkpointd.attachments.store import AttachmentStore
from edi_checkpointd.journal import (
    Frame,
    GapRow,
    Journal,
    JournalDamaged,
    JournalRefused,
    Notes,
    Reader,
    Transaction,
)
from edi_checkpointd.journal.schema import FORMAT, check_sqlite
from edi_checkpointd.recovery.startup import open_journal
from edi_checkpointd.sessions.queries import Queries
from edi_checkpointd.state import Snapshot, State, fold, read
from edi_checkpointd.system.clock import to_us

STREAM, OTHER = "a" * 32, "b" * 32


def record(number: int) -> bytes:
    return pack(number, encode_entry(Update(number, {"n": b"%d" % number})))


def filled(path: Path, frames: int = 3) -> Journal:
    """A journal with one session (key 1), one stream, and as many frames of one record each."""
    journal = Journal(path)
    key = journal.begin_session("s", None, 0).key
    journal.attach(key, STREAM, 1, 0)
    for number in range(1, frames + 1):
        journal.commit(one(number, key=key))
    return journal


def one(number: int, *, key: int = 1) -> Transaction:
    return Transaction([Frame(key, number, number, STREAM, number, record(number))], {STREAM: number})


def everything(reader: Reader) -> object:
    """All that a reader tells of the session 1."""
    return (
        reader.sessions(), reader.streams(1), list(reader.frames(1, after=0)), reader.gaps(1), reader.span(1),
        reader.snapshot(1, upto=2**62), reader.last_sequence(1), reader.last_received_us(),
    )  # fmt: skip


@contextmanager
def closing(journal: Journal) -> Iterator[Journal]:
    try:
        yield journal
    finally:
        journal.close()


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


# -- what may be opened ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version", ["3.51.3", "3.51.4", "3.52.0", "3.54.1", "4.0.0", "3.50.7", "3.50.11", "3.44.6", "3.44.9", "3.51.3.1"]
)
def test_a_sqlite_that_keeps_its_commits_is_taken(version: str) -> None:
    check_sqlite(version)


@pytest.mark.parametrize(
    "version",
    ["3.51.2", "3.51.0", "3.50.6", "3.50.0", "3.49.9", "3.45.7", "3.44.5", "3.44.0", "3.43.10", "3.7.0", "3.46.1"],
)
def test_a_sqlite_that_can_lose_commits_is_refused_by_name(version: str) -> None:
    with pytest.raises(VersionMismatch, match=rf"SQLite {version} ") as refused:
        check_sqlite(version)
    assert "apsw" in refused.value.hint


def test_a_new_journal_is_private_empty_and_has_an_id_of_its_own(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "one.sqlite")) as one, closing(Journal(tmp_path / "other.sqlite")) as other:
        assert one.id != other.id
        assert len(one.id) == 32
        assert one.read.sessions() == []
        assert not one.replaced()
        for path in tmp_path.iterdir():
            assert path.stat().st_mode & 0o777 == 0o600, path.name


def test_what_was_written_is_there_after_the_next_start(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "journal.sqlite")) as journal:
        id_, told = journal.id, everything(journal.read)
    with closing(Journal(tmp_path / "journal.sqlite")) as again:
        assert again.id == id_
        assert everything(again.read) == told
        reader = Reader.open(tmp_path / "journal.sqlite")
        assert everything(reader) == told
        reader.close()


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.touch()
    with closing(filled(path)):
        pass
    with closing(Journal(path)) as again:
        assert again.read.span(1) == (1, 3)


def other_journal(path: Path, version: int) -> None:
    filled(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={version}")
    db.close()


OTHER_FORMATS = (1, 2, 4)


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE books (title)")
    db.close()


def foreign_database_of_our_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE frames (id)")
        db.execute(f"PRAGMA user_version={FORMAT}")
    db.close()


def text_file(path: Path) -> None:
    path.write_text("Dear journal, today I went to the sea.\n" * 200)


def short_text_file(path: Path) -> None:
    path.write_text("x")


def cut_short(path: Path) -> None:
    filled(path).close()
    os.truncate(path, 5000)


def zeroed(path: Path) -> None:
    filled(path).close()
    size = path.stat().st_size
    path.write_bytes(bytes(size))


def without_tables(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA application_id={0x45444943}")
        db.execute(f"PRAGMA user_version={FORMAT}")
    db.close()


NO_JOURNALS = [
    foreign_database, foreign_database_of_our_version, text_file, short_text_file, cut_short, zeroed, without_tables,
]  # fmt: skip


@pytest.mark.parametrize("version", OTHER_FORMATS)
def test_a_journal_of_another_format_is_refused_by_its_number_and_left_as_it_is(tmp_path: Path, version: int) -> None:
    path = tmp_path / "journal.sqlite"
    other_journal(path, version)
    before = bytes_below(tmp_path)
    with pytest.raises(VersionMismatch, match=f"format {version}; this version reads format 3") as refused:
        Journal(path)
    assert "move journal.sqlite and journal.sqlite-* to another folder" in refused.value.hint
    assert bytes_below(tmp_path) == before
    with pytest.raises(VersionMismatch, match=f"format {version}; this version reads format 3"):
        Reader.open(path)
    assert path.read_bytes() == before[path.name]


@pytest.mark.parametrize("make", NO_JOURNALS, ids=lambda make: make.__name__)
def test_what_is_no_journal_is_refused_and_left_as_it_is(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "journal.sqlite"
    make(path)
    before = bytes_below(tmp_path)
    with pytest.raises(JournalDamaged, match="journal.sqlite"):
        journal = Journal(path)
        list(journal.read.frames(1, after=0))  # what is cut short may show only here
    if make not in (cut_short, without_tables):  # those say that they are ours
        assert bytes_below(tmp_path) == before


@pytest.mark.parametrize("make", NO_JOURNALS, ids=lambda make: make.__name__)
def test_what_is_no_journal_is_set_aside_as_it_is_and_a_new_one_is_made(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    paths = locate({"EDI_CHECKPOINT_HOME": str(tmp_path)})
    paths.state.mkdir()
    make(paths.journal)
    before = paths.journal.read_bytes()
    journal, fault = open_journal(paths)
    with closing(journal):
        if make is cut_short and fault is None:
            pytest.skip("SQLite sees this when it reads the pages that are missing")
        assert fault is not None
        assert journal.read.sessions() == []
        if make is not without_tables:
            assert (paths.damaged / "journal.sqlite").read_bytes() == before


@pytest.mark.parametrize("version", OTHER_FORMATS)
def test_a_journal_of_another_format_is_never_set_aside(tmp_path: Path, version: int) -> None:
    paths = locate({"EDI_CHECKPOINT_HOME": str(tmp_path)})
    paths.state.mkdir()
    other_journal(paths.journal, version)
    before = bytes_below(paths.state)
    with pytest.raises(VersionMismatch):
        open_journal(paths)
    assert bytes_below(paths.state) == before


def test_a_reader_of_what_is_not_there_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(EdiCheckpointError, match="journal.sqlite"):
        Reader.open(tmp_path / "journal.sqlite")
    assert list(tmp_path.iterdir()) == []


# -- commits -----------------------------------------------------------------------------------------------------------


def test_a_commit_is_there_as_a_whole(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "journal.sqlite")) as journal:
        key = journal.begin_session("other", "s", 5).key
        journal.attach(key, OTHER, 1, 0)
        gap = GapRow(key, 3, OTHER, 1, 7, 99)
        frames = [
            Frame(1, 4, 5, STREAM, 99, record(4) + record(5)),
            Frame(key, 1, 2, OTHER, 99, record(8) + record(9)),
            Frame(key, 3, 3, OTHER, 99, record(10)),
        ]
        journal.commit(Transaction(frames, {STREAM: 5, OTHER: 10}, [gap]))
        assert list(journal.read.frames(1, after=3)) == frames[:1]
        assert list(journal.read.frames(key, after=0)) == frames[1:]
        assert (journal.read.streams(1), journal.read.streams(key)) == ({STREAM: (1, 5)}, {OTHER: (1, 10)})
        assert journal.read.gaps(key) == [gap]
        assert (journal.read.span(1), journal.read.span(key)) == ((1, 5), (1, 3))
        assert journal.read.last_received_us() == 99
        assert journal.read.session_of(OTHER) == "other"
        other = journal.read.session("other")
        assert other is not None
        assert (other.parent_session, other.started_us, other.left_as) == ("s", 5, "live")


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 4), max_size=8), st.integers(-1, 40))
def test_rows_after_a_sequence_are_those_that_hold_later_ones(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], after: int
) -> None:
    with closing(filled(tmp_path_factory.mktemp("j") / "journal.sqlite", 0)) as journal:
        first = 1
        for size in sizes:
            records = b"".join(record(number) for number in range(first, first + size))
            journal.commit(Transaction([Frame(1, first, first + size - 1, STREAM, 0, records)], {STREAM: first}))
            first += size
        rows = list(journal.read.frames(1, after=0))
        assert [(row.first, row.last) for row in rows] == [
            (1 + sum(sizes[:at]), sum(sizes[: at + 1])) for at in range(len(sizes))
        ]
        assert list(journal.read.frames(1, after=after)) == [row for row in rows if row.last > after]


class RefusingVfs(apsw.VFS):
    """A disk that refuses the write or sync which comes after `left` more; and tells what is not synced yet."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.error: Callable[[], Exception] = apsw.FullError
        self.refused = 0
        self.unsynced: set[str] = set()
        super().__init__("refusing", "")

    def step(self) -> None:
        if self.left is not None:
            if self.left <= 0:
                self.refused += 1
                raise self.error()
            self.left -= 1

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> RefusingFile:
        return RefusingFile(self, name, flags)


class RefusingFile(apsw.VFSFile):
    def __init__(self, vfs: RefusingVfs, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._vfs = vfs
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._vfs.step()
        self._vfs.unsynced.add(self._name)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._vfs.step()
        super().xSync(flags)
        self._vfs.unsynced.discard(self._name)

    def xTruncate(self, size: int) -> None:
        self._vfs.step()
        super().xTruncate(size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[RefusingVfs]:
    vfs = RefusingVfs()
    connect = apsw.Connection

    def on_it(path: str, **options: object) -> apsw.Connection:
        return connect(path, vfs="refusing", **options)  # type: ignore[arg-type]

    monkeypatch.setattr(apsw, "Connection", on_it)
    yield vfs
    monkeypatch.undo()
    vfs.unregister()


def io_error() -> Exception:
    error = apsw.IOError("injected")
    error.extendedresult = apsw.SQLITE_IOERR_FSYNC
    return error


@pytest.mark.parametrize("error", [apsw.FullError, io_error])
def test_of_a_commit_that_the_disk_refuses_nothing_is_there_and_the_journal_goes_on(
    tmp_path: Path, disk: RefusingVfs, error: Callable[[], Exception]
) -> None:
    """Refused at the first write, at the second, … until the commit needs no more of them."""
    disk.error = error
    path = tmp_path / "journal.sqlite"
    journal = filled(path)
    key = journal.begin_session("big", None, 0).key
    journal.attach(key, OTHER, 1, 0)
    large = pack(1, encode_entry(Update(0, {"picture": b'"%s"' % (b"x" * 20_000)})))
    transaction = Transaction(
        [Frame(1, 4, 4, STREAM, 4, record(4)), Frame(key, 1, 1, OTHER, 4, large)],
        {STREAM: 4, OTHER: 1},
        [GapRow(1, 4, STREAM, 4, 4, 0)],
    )
    before = everything(journal.read)
    refusals = 0
    while True:
        disk.left = refusals
        try:
            journal.commit(transaction)
        except JournalRefused as refused:
            assert isinstance(refused, OSError)
            assert str(path) in str(refused)
            assert "free some space" in refused.hint
        else:
            break
        disk.left = None
        refusals += 1
        assert everything(journal.read) == before
        reader = Reader.open(path)
        assert everything(reader) == before
        reader.close()
    assert refusals >= 3
    assert disk.refused >= refusals
    disk.left = None
    journal.commit(one(5))
    after = everything(journal.read)
    journal.close()
    with closing(Journal(path)) as again:
        assert everything(again.read) == after
        assert again.read.span(1) == (1, 5)
        assert list(again.read.frames(key, after=0)) == transaction.frames[1:]


@pytest.mark.parametrize(
    "write",
    [
        lambda journal: journal.begin_session("new", None, 0),
        lambda journal: journal.attach(1, OTHER, 2, 0),
        lambda journal: journal.leave(1, "clean"),
        lambda journal: journal.delete_stream(STREAM),
        lambda journal: journal.note({1: Notes(3, 3)}),
        lambda journal: journal.add_snapshot(1, 3, Snapshot(3, 3, {"n": b"3"}, {STREAM: 3}), 9),
        lambda journal: journal.adopt(1, 9, Snapshot(9, 9, {}, {OTHER: 4}), 9, Notes(9, 9)),
        lambda journal: journal.trim(1, before_us=2**62, limit=10),
    ],
    ids=["begin_session", "attach", "leave", "delete_stream", "note", "add_snapshot", "adopt", "trim"],
)
def test_whatever_the_disk_refuses_is_not_there_by_half(
    tmp_path: Path, disk: RefusingVfs, write: Callable[[Journal], object]
) -> None:
    with closing(filled(tmp_path / "journal.sqlite")) as journal:
        journal.add_snapshot(1, 2, Snapshot(2, 2, {"n": b"2"}, {STREAM: 2}), 2)
        before = everything(journal.read)
        disk.left = 0
        with pytest.raises(JournalRefused):
            write(journal)
        disk.left = None
        assert everything(journal.read) == before
        write(journal)
        assert everything(journal.read) != before
        journal.commit(one(4))


def test_a_commit_returns_after_what_it_wrote_is_synced(tmp_path: Path, disk: RefusingVfs) -> None:
    with closing(filled(tmp_path / "journal.sqlite", 0)) as journal:
        disk.unsynced.clear()
        for number in range(1, 20):
            journal.commit(one(number))
            assert disk.unsynced == set()


def test_an_error_in_the_middle_leaves_no_transaction_open(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "journal.sqlite")) as journal:
        before = everything(journal.read)
        with pytest.raises(TypeError):
            journal.commit(Transaction([Frame(1, 4, 4, STREAM, 4, object())], {STREAM: 4}))  # type: ignore[arg-type]
        assert everything(journal.read) == before
        journal.commit(one(4))
        assert journal.read.span(1) == (1, 4)


def test_a_full_disk_is_no_reason_to_lose_a_carry_over(tmp_path: Path, disk: RefusingVfs) -> None:
    with closing(filled(tmp_path / "journal.sqlite")) as journal:
        told = everything(journal.read)
        disk.left = 0
        journal.carry_over()
        disk.left = None
        assert everything(journal.read) == told
        journal.carry_over()
        journal.commit(one(4))


def test_the_wal_is_carried_over_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(filled(path)) as journal:
        assert not journal.wants_carry_over
        size = path.stat().st_size
        big = pack(4, encode_entry(Update(0, {"n": b'"%s"' % (b"x" * (2 << 20))})))
        journal.commit(Transaction([Frame(1, 4, 4, STREAM, 4, big)], {STREAM: 4}))
        assert journal.wants_carry_over
        assert path.stat().st_size == size
        journal.carry_over()
        assert not journal.wants_carry_over
        assert path.stat().st_size > size + (2 << 19)
        monkeypatch.setattr("edi_checkpointd.journal.writer._WAL_FORCED_PAGES", 3)
        journal.commit(Transaction([Frame(1, 5, 5, STREAM, 5, big[:50_000])], {STREAM: 5}))
        assert not journal.wants_carry_over  # under load too, so that the WAL is bounded
        assert journal.bytes > 2 << 20


# -- the file is taken away --------------------------------------------------------------------------------------------


def test_a_journal_whose_file_is_gone_takes_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(filled(path)) as journal:
        path.rename(tmp_path / "moved")
        assert journal.replaced()
        with pytest.raises(JournalDamaged, match="removed or replaced"):
            journal.commit(one(4))
        (tmp_path / "moved").rename(path)
        assert not journal.replaced()
        journal.commit(one(4))


def test_a_journal_whose_file_is_another_takes_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = filled(path)
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").rename(path)
    assert journal.replaced()
    with pytest.raises(JournalDamaged):
        journal.commit(one(4))
    journal.close()


# -- the witness -------------------------------------------------------------------------------------------------------


def crashed(path: Path, frames: int, to: Path) -> Path:
    """A journal as a killed daemon leaves it: with its WAL."""
    journal = filled(path / "journal.sqlite", frames)
    to.mkdir()
    for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-witness"):
        shutil.copy(path / name, to / name)
    journal.close()
    return to / "journal.sqlite"


def test_a_damaged_tail_that_swallowed_acknowledged_rows_is_told(tmp_path: Path) -> None:
    path = crashed(tmp_path, 9, tmp_path / "crashed")
    wal = path.with_name("journal.sqlite-wal")
    data = bytearray(wal.read_bytes())
    data[-100] ^= 1
    wal.write_bytes(data)
    before = bytes_below(path.parent)
    with pytest.raises(JournalDamaged, match=r"1 acknowledged rows are missing"):
        Journal(path)
    after = bytes_below(path.parent)
    assert {name: after[name] for name in before} == before  # whoever looks into it finds all of it


def test_every_cut_of_the_wal_is_told_by_the_number_of_rows(tmp_path: Path) -> None:
    path = crashed(tmp_path, 4, tmp_path / "crashed")
    wal = path.with_name("journal.sqlite-wal")
    whole = wal.read_bytes()
    told = set()
    for size in [0, 16, *range(32, len(whole) + 1, 4096 + 24)]:
        shutil.copytree(path.parent, tmp_path / "cut")
        os.truncate(tmp_path / "cut" / wal.name, size)
        try:
            Journal(tmp_path / "cut" / path.name).close()
        except JournalDamaged as error:
            told.add(str(error).partition(": ")[2])
        else:
            assert size == len(whole)
        shutil.rmtree(tmp_path / "cut")
    assert {f"{n} acknowledged rows are missing at its end" for n in (1, 2, 3, 4)} <= told


def test_a_whole_wal_is_read_after_a_kill(tmp_path: Path) -> None:
    with closing(Journal(crashed(tmp_path, 9, tmp_path / "crashed"))) as again:
        assert again.read.span(1) == (1, 9)
        assert again.read.streams(1) == {STREAM: (1, 9)}


@pytest.mark.parametrize("witness", [b"", b"short", bytes(24), b"\xff" * 24, None])
def test_a_witness_that_knows_nothing_of_this_journal_is_no_reason(tmp_path: Path, witness: bytes | None) -> None:
    path = tmp_path / "journal.sqlite"
    filled(path).close()
    at = path.with_name("journal.sqlite-witness")
    at.unlink()
    if witness is not None:
        at.write_bytes(witness)
    with closing(Journal(path)) as journal:
        journal.commit(one(4))
    assert len(at.read_bytes()) == 24


def test_a_witness_older_than_the_journal_only_tells_less(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = filled(path, 2)
    old = path.with_name("journal.sqlite-witness").read_bytes()
    journal.commit(one(3))
    journal.close()
    path.with_name("journal.sqlite-witness").write_bytes(old)
    Journal(path).close()


def test_a_witness_that_the_disk_refuses_does_not_undo_a_commit(tmp_path: Path) -> None:
    """/dev/full refuses every write with ENOSPC. The commit is durable: it must not be told to have failed."""
    with closing(filled(tmp_path / "journal.sqlite")) as journal:
        kept = journal._witness._fd
        journal._witness._fd = os.open("/dev/full", os.O_RDWR)
        journal.commit(one(4))
        assert journal.read.span(1) == (1, 4)
        os.close(journal._witness._fd)
        journal._witness._fd = kept
        journal.commit(one(5))


def test_trimming_never_makes_the_witness_wrong(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(filled(path, 5)) as journal:
        journal.add_snapshot(1, 5, Snapshot(5, 5, {}, {STREAM: 5}), 5)
        while journal.trim(1, before_us=2**62, limit=2):
            pass
    with closing(Journal(path)) as journal:
        journal.commit(one(6))
    Journal(path).close()


# -- snapshots, notes, adoption ----------------------------------------------------------------------------------------


def test_the_newest_snapshot_up_to_a_sequence_is_found(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "journal.sqlite")) as journal:
        snapshots = {n: Snapshot(n, n, {"n": b"%d" % n}, {STREAM: n}) for n in (2, 5)}
        for sequence, snapshot in snapshots.items():
            journal.add_snapshot(1, sequence, snapshot, sequence)
        found = {upto: journal.read.snapshot(1, upto=upto) for upto in (0, 1, 2, 4, 5, 99)}
        two, five = (2, snapshots[2]), (5, snapshots[5])
        assert found == {0: None, 1: None, 2: two, 4: two, 5: five, 99: five}
        assert journal.read.last_sequence(1) == 5
        journal.add_snapshot(1, 5, snapshots[2], 7)  # taken again
        assert journal.read.snapshot(1, upto=5) == (5, snapshots[2])
        assert journal.read.snapshot(2, upto=99) is None


def test_notes_only_rise(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "journal.sqlite")) as journal:
        for saved, checkpointed in ((2, 1), (1, 3), (0, 0)):
            journal.note({1: Notes(saved, checkpointed)})
        row = journal.read.session("s")
        assert row is not None
        assert (row.saved, row.checkpointed) == (2, 3)


def test_an_adopted_state_is_the_newest_and_knows_its_streams(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "journal.sqlite")) as journal:
        snapshot = Snapshot(40, 7, {"n": b"40"}, {STREAM: 2, OTHER: 30})
        journal.adopt(1, 41, snapshot, 9, Notes(41, 40))
        assert journal.read.last_sequence(1) == 41
        assert journal.read.snapshot(1, upto=99) == (41, snapshot)
        assert journal.read.streams(1) == {STREAM: (1, 3), OTHER: (0, 30)}  # numbers never fall
        row = journal.read.session("s")
        assert row is not None
        assert (row.saved, row.checkpointed) == (41, 40)


# -- trimming ----------------------------------------------------------------------------------------------------------

START = datetime(2026, 11, 23, tzinfo=UTC)
WINDOW_S = 3600.0


class HandClock:
    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed_s)

    def monotonic_s(self) -> float:
        return self.passed_s


def state_of(entries: list[Entry]) -> dict[str, object]:
    records = b"".join(pack(number, encode_entry(entry)) for number, entry in enumerate(entries, start=1))
    state, _ = fold(State(), STREAM, read(scan(records)), ())
    return {key: msgspec.json.decode(value.text) for key, value in state.fragments.items()}


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, int]]:
    kinds = st.sampled_from(["publish", "publish", "publish", "wait", "snapshot", "trim"])
    return draw(st.lists(st.tuples(kinds, st.integers(1, 4)), max_size=30))


@settings(deadline=None, max_examples=40)
@given(steps(), st.data())
def test_trimming_keeps_what_the_window_needs(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Whatever was published within the window can be gone back to; what is older can be had or is said to be gone."""
    paths = locate({"EDI_CHECKPOINT_HOME": str(tmp_path_factory.mktemp("h"))})
    for folder in (paths.state, paths.sessions):
        folder.mkdir(parents=True)
    catalog = Catalog(paths.sessions)
    catalog.load()
    clock = HandClock()
    entries: list[Entry] = []
    received_s: list[float] = []
    with closing(Journal(paths.journal)) as journal:
        attachments = AttachmentStore(paths.attachments, paths.journal, 1 << 30, clock)
        ledger = ledger_on(journal, attachments, clock)
        session = ledger.open("s").session
        other = ledger.attach(ledger.open("other").session, OTHER)
        stream = ledger.attach(session, STREAM)
        requests = Queries(paths, catalog, journal.read, drained=True)
        for step, count in steps:
            match step:
                case "publish":
                    new: list[Entry] = [
                        data.draw(st.sampled_from([Mark(0, "manual", "r"), Base(0, {"base": b"%d" % n})]))
                        if n % 5 == 4
                        else Update(0, {f"k{n % 3}": b"%d" % n})
                        for n in range(len(entries), len(entries) + count)
                    ]
                    first = len(entries) + 1
                    ledger.accept(
                        stream, b"".join(pack(n, encode_entry(entry)) for n, entry in enumerate(new, start=first))
                    )
                    ledger.accept(other, pack(other.number + 1, encode_entry(Base(0, {}))))
                    ledger.commit()
                    entries += new
                    received_s += [clock.passed_s] * count
                case "wait":
                    clock.passed_s += count * WINDOW_S / 3
                case "snapshot":
                    if entries:
                        ledger.snapshot(session)
                case "trim":
                    before = clock.now() - timedelta(seconds=WINDOW_S)
                    journal.trim(session.key, before_us=to_us(before), limit=count)
            if step != "trim":
                continue
            for sequence in range(1, len(entries) + 1):
                try:
                    answer = requests.state(GetState(1, "s", sequence=sequence))
                except NotFound:
                    assert received_s[sequence - 1] <= clock.passed_s - WINDOW_S
                else:
                    assert answer.sequence == sequence
                    found = {key: msgspec.json.decode(text) for key, text in answer.state.items()}
                    assert found == state_of(entries[:sequence])


def test_what_only_an_adopted_file_stands_for_is_said_to_be_gone(tmp_path: Path) -> None:
    paths = locate({"EDI_CHECKPOINT_HOME": str(tmp_path)})
    paths.state.mkdir()
    with closing(filled(paths.journal, 3)) as journal:
        journal.adopt(1, 41, Snapshot(41, 41, {"n": b"41"}, {STREAM: 41}), 9, Notes(41, 0))
        journal.commit(one(42))
        requests = Queries(paths, Catalog(paths.sessions), journal.read, drained=True)

        def n_at(sequence: int) -> bytes:
            return requests.state(GetState(1, "s", sequence=sequence)).state["n"]

        assert [n_at(sequence) for sequence in (1, 3, 41, 42)] == [b"1", b"3", b"41", b"42"]
        for gone in (0, 4, 40, 43):
            with pytest.raises(NotFound, match=f"sequence {gone} is outside"):
                n_at(gone)


def test_trimming_goes_in_slices_and_ends(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "journal.sqlite", 10)) as journal:
        assert journal.trim(1, before_us=2**62, limit=4) == 0  # without a snapshot nothing may go
        journal.add_snapshot(1, 8, Snapshot(8, 8, {}, {STREAM: 8}), 100)
        assert journal.trim(1, before_us=99, limit=4) == 0  # it was taken within the window
        assert [journal.trim(1, before_us=100, limit=4) for _ in range(4)] == [4, 4, 0, 0]
        assert journal.read.span(1) == (9, 10)
        assert [len(scan_all(row.records)) for row in journal.read.frames(1, after=8)] == [1, 1]


def test_older_snapshots_go_with_the_rows(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "journal.sqlite", 10)) as journal:
        for sequence in (2, 5, 8):
            journal.add_snapshot(1, sequence, Snapshot(sequence, 0, {}, {}), sequence)
        journal.trim(1, before_us=6, limit=99)
        assert journal.read.snapshot(1, upto=4) is None
        assert [(journal.read.snapshot(1, upto=upto) or (0,))[0] for upto in (5, 7, 8)] == [5, 5, 8]
        assert journal.read.span(1) == (6, 10)


# -- readers beside the writer -----------------------------------------------------------------------------------------


def test_a_reader_sees_one_state_throughout(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(filled(path)) as journal:
        reader = Reader.open(path)
        with reader.one_view():
            before = everything(reader)
            journal.commit(one(4))
            assert everything(reader) == before
        assert reader.span(1) == (1, 4)
        reader.close()


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(filled(path)):
        reader = Reader.open(path)
        with pytest.raises(apsw.ReadOnlyError):
            reader._db.execute("DELETE FROM frames")
        reader.close()
