"""What entries carry: into the journal once and verified, into files before documents; and what a base takes along."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import apsw
import numpy as np
import pytest
from ledgers import ledger_on

from edi_checkpoint import AttachmentsFull, Client, ProtocolError, StateManager, StateValueError, connect
from edi_checkpoint.documents.attachments import read_file
from edi_checkpoint.documents.names import attachment_name, parse_attachment_name
from edi_checkpoint.errors import AttachmentDamaged
from edi_checkpoint.outbox.segments import list_streams, read_records
from edi_checkpoint.values.arrays import ATTACHMENT_MAX_BYTES
from edi_checkpoint.values.codec import encode
from edi_checkpoint.wire.entries import Base, Entry, Update, decode_entry, encode_entry
from edi_checkpoint.wire.records import pack, scan, scan_all
from edi_checkpoint.wire.references import Attachment, digests_in
from edi_checkpointd.attachments.store import AttachmentStore
from edi_checkpointd.journal import Journal, JournalDamaged
from edi_checkpointd.sessions.ledger import Ledger, WriterStream

CONTENT = [bytes([number]) * (1000 + number) for number in range(6)]
DIGESTS = [sha256(data).hexdigest() for data in CONTENT]


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 11, 24, tzinfo=UTC)

    def now(self) -> datetime:
        return self.wall

    def monotonic_s(self) -> float:
        return self.wall.timestamp()


@dataclass
class Daemon:
    """A journal with what stands on it, without any thread."""

    journal: Journal
    attachments: AttachmentStore
    ledger: Ledger
    stream: WriterStream
    clock: HandClock

    def take(self, entry: Entry) -> None:
        self.ledger.accept(self.stream, pack(self.stream.expected + 1, encode_entry(entry)))
        self.ledger.commit()

    @property
    def blobs(self) -> list[str]:
        return [digest for digest, _, _ in self.journal.read.blobs()]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    path, clock = tmp_path / "journal.sqlite", HandClock()
    with closing(Journal(path)) as journal:
        attachments = AttachmentStore(tmp_path / "attachments", path, 10_000, clock)
        attachments.count()
        ledger = ledger_on(journal, attachments, clock)
        yield Daemon(journal, attachments, ledger, ledger.attach(ledger.open("s").session, "1" * 32), clock)


def carrying(*numbers: int, **more: bytes) -> Update:
    carried: dict[str, Attachment] = {}
    texts = {f"k{number}": encode(CONTENT[number], "k", carried) for number in numbers}
    return Update(1, texts | more, (), None, 0, carried)


# -- into the journal ------------------------------------------------------------------------------------------------


def test_what_an_entry_carries_is_committed_with_it_and_kept_once(daemon: Daemon) -> None:
    daemon.take(carrying(0, 1))
    daemon.take(carrying(1, 2))
    assert sorted(daemon.blobs) == sorted(DIGESTS[:3])
    assert [daemon.journal.read.blob(digest) for digest in DIGESTS[:3]] == CONTENT[:3]
    assert daemon.attachments.remaining_bytes == 10_000 - sum(map(len, CONTENT[:3]))


def test_the_history_holds_the_entries_without_what_they_carried(daemon: Daemon) -> None:
    daemon.take(carrying(0, n=b"1"))
    (frame,) = daemon.journal.read.frames(daemon.stream.session.key, after=0)
    (record,) = scan_all(frame.records)
    kept = decode_entry(record.entry)
    assert (kept.changed, kept.attachments, record.number) == (carrying(0, n=b"1").changed, {}, 1)
    assert daemon.stream.session.state.fragments.keys() == {"k0", "n"}


def test_in_a_frame_of_several_each_entry_stays_as_it_was(daemon: Daemon) -> None:
    published = [Update(1, {"n": b"1"}), carrying(0), Base(2, {"n": b"2"}), carrying(1)]
    data = b"".join(pack(number, encode_entry(entry)) for number, entry in enumerate(published, 1))
    daemon.ledger.accept(daemon.stream, data)
    daemon.ledger.commit()
    (frame,) = daemon.journal.read.frames(daemon.stream.session.key, after=0)
    kept = scan_all(frame.records)
    assert [record.number for record in kept] == [1, 2, 3, 4]
    assert [decode_entry(record.entry).changed for record in kept[::3]] == [published[0].changed, published[3].changed]
    assert kept[0].entry == encode_entry(published[0])


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"not of this digest", "digest differs"), (bytes(ATTACHMENT_MAX_BYTES + 1), "bytes")],
    ids=["digest", "size"],
)
def test_content_that_is_not_what_it_says_is_refused_and_nothing_is_taken(
    daemon: Daemon, data: bytes, said: str
) -> None:
    bad = Update(1, {"a": b"1"}, (), None, 0, {DIGESTS[0]: Attachment("raw", data)})
    with pytest.raises(ProtocolError, match=f"attachment {DIGESTS[0]}: .*{said}"):
        daemon.ledger.accept(daemon.stream, pack(1, encode_entry(bad)))
    assert not daemon.ledger.commit().streams
    assert daemon.blobs == []


@pytest.mark.parametrize("digest", ["", "../" * 21 + "x", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_digest_that_could_become_another_name_is_no_digest(digest: str) -> None:
    with pytest.raises(ProtocolError):
        decode_entry(encode_entry(Update(1, {}, (), None, 0, {digest: Attachment("raw", b"")})))
    with pytest.raises(ProtocolError):
        decode_entry(encode_entry(Update(1, {}, (), None, 0, {"0" * 64: Attachment("../x", b"")})))


def test_more_than_is_taken_in_all_is_refused_by_name_and_the_next_entry_is_taken(daemon: Daemon) -> None:
    daemon.take(carrying(0))
    for size, left in ((9001, 9000), (8000, 7999)):
        large = bytes(size)
        with pytest.raises(
            AttachmentsFull, match=rf"{size} bytes do not fit: {left} of 10000 bytes \(attachments_max_bytes\) are free"
        ):
            daemon.take(Update(1, {}, (), None, 0, {sha256(large).hexdigest(): Attachment("raw", large)}))
        daemon.take(carrying(0, 1))  # the one has been there since before
    daemon.take(Update(2, {"n": b"1"}))
    assert daemon.stream.session.state.fragments["n"].text == b"1"


# -- into files ------------------------------------------------------------------------------------------------------


def test_blobs_become_files_whose_names_are_their_digests(daemon: Daemon) -> None:
    daemon.take(carrying(0, 1))
    assert sorted(daemon.attachments.store()) == sorted(DIGESTS[:2])
    for digest, data in zip(DIGESTS[:2], CONTENT, strict=False):
        assert read_file(daemon.attachments.folder, digest, "raw") == data
    left = daemon.attachments.remaining_bytes
    daemon.journal.note({}, DIGESTS[:2])
    assert daemon.blobs == []
    daemon.take(carrying(0, 1, n=b"1"))  # published again: the files are there
    assert (daemon.blobs, daemon.attachments.remaining_bytes) == ([], left)
    assert daemon.attachments.store() == ()


def test_empty_bytes_become_an_empty_file(daemon: Daemon) -> None:
    assert daemon.attachments.store() == ()
    empty = sha256(b"").hexdigest()
    daemon.take(Update(1, {"k": encode(b"")}, (), None, 0, {empty: Attachment("raw", b"")}))
    assert daemon.attachments.store() == [empty]
    assert read_file(daemon.attachments.folder, empty, "raw") == b""


def test_a_file_of_another_size_is_written_anew_when_its_content_is_published_again(daemon: Daemon) -> None:
    daemon.take(carrying(0))
    daemon.attachments.store()
    daemon.journal.note({}, DIGESTS[:1])
    path = daemon.attachments.folder / attachment_name(DIGESTS[0], "raw")
    path.write_bytes(b"cut short")
    daemon.take(carrying(0, n=b"1"))
    daemon.attachments.store()
    assert path.read_bytes() == CONTENT[0]


def test_what_is_published_again_is_new_to_the_collection(daemon: Daemon) -> None:
    daemon.take(carrying(0))
    daemon.attachments.store()
    daemon.journal.note({}, DIGESTS[:1])
    path = daemon.attachments.folder / attachment_name(DIGESTS[0], "raw")
    os.utime(path, (1e9, 1e9))
    daemon.clock.wall += timedelta(days=2)
    daemon.take(carrying(0, n=b"1"))
    assert path.stat().st_mtime > 1e9


def test_a_disk_that_refuses_leaves_the_blobs_for_the_next_time(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.take(carrying(0))
    (tmp_path / "attachments").write_bytes(b"a file in the way")
    with pytest.raises(OSError, match="a file or a broken link"):
        daemon.attachments.store()
    (tmp_path / "attachments").unlink()
    assert daemon.attachments.store() == [DIGESTS[0]]


def test_blobs_that_cannot_be_read_are_damage_by_name_and_not_told_as_written(daemon: Daemon, tmp_path: Path) -> None:
    daemon.take(carrying(0))
    assert daemon.journal.empty_wal()
    with closing(apsw.Connection(str(tmp_path / "journal.sqlite"), flags=apsw.SQLITE_OPEN_READONLY)) as database:
        page = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'blobs'").get
        size = database.pragma("page_size")
    with (tmp_path / "journal.sqlite").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    for _ in range(2):  # not passed over the next time either
        with pytest.raises(JournalDamaged, match=r"journal\.sqlite"):
            daemon.attachments.store()


def test_a_start_counts_what_is_there_once_and_sweeps_what_a_crash_left(daemon: Daemon, tmp_path: Path) -> None:
    daemon.take(carrying(0, 1))
    daemon.attachments.store()
    daemon.take(carrying(2))
    left_over = daemon.attachments.folder / DIGESTS[0][:2] / f".{DIGESTS[0]}.raw.tmp"
    left_over.write_bytes(b"half")
    foreign = left_over.with_name(".mine.tmp")
    foreign.write_bytes(b"not ours")
    again = AttachmentStore(daemon.attachments.folder, tmp_path / "journal.sqlite", 10_000, daemon.clock)
    again.count()
    assert again.remaining_bytes == daemon.attachments.remaining_bytes == 10_000 - sum(map(len, CONTENT[:3]))
    assert (left_over.exists(), foreign.exists()) == (False, True)
    assert sorted(again.store()) == sorted(DIGESTS[:3])


@pytest.mark.parametrize("name", ["x.png", "0" * 64, "0" * 64 + ".", "A" * 64 + ".png", "." + "0" * 64 + ".png.tmp"])
def test_only_a_digest_with_an_ending_is_a_name_of_ours(name: str) -> None:
    assert parse_attachment_name(name) is None
    assert parse_attachment_name("0" * 64 + ".png") == "0" * 64


def test_what_stands_in_a_files_place_is_damage_by_name(tmp_path: Path) -> None:
    path = tmp_path / attachment_name(DIGESTS[0], "raw")
    path.parent.mkdir()
    assert read_file(tmp_path, DIGESTS[0], "raw") is None
    for plant in (
        lambda: path.write_bytes(b"other"),
        lambda: path.symlink_to("/etc/passwd"),
        lambda: os.mkfifo(path),
        lambda: path.mkdir(),
    ):
        plant()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with pytest.raises(AttachmentDamaged, match=path.name):
            read_file(tmp_path, DIGESTS[0], "raw")
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


# -- the client ------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("EDI_CHECKPOINT_HOME", str(tmp_path))
    monkeypatch.setenv("EDI_CHECKPOINT_AUTOSTART", "0")
    with connect(autostart=False, timeout_s=0) as made:
        yield made


def published(client: Client, session_id: str) -> list[Entry]:
    return [
        decode_entry(record.entry)
        for files in list_streams(client.paths.outbox / session_id)
        for data in read_records(files)
        for record in scan(data)
    ]


def test_one_update_carries_all_that_its_values_name_in_its_one_entry(client: Client) -> None:
    with client.session("s") as session:
        session.update(a=[b"one", {"b": np.eye(3)}], c=b"one", d=4)
        (entry,) = published(client, "s")
        assert isinstance(entry, Update)
        assert entry.attachments.keys() == set().union(*map(digests_in, entry.changed.values()))
        assert len(entry.attachments) == 2
        assert session["a"][1]["b"].tolist() == np.eye(3).tolist()


def test_a_base_carries_what_is_in_no_file(client: Client) -> None:
    with client.session("s") as session:
        session.update(a=b"in the outbox of a file too", b=b"in the outbox alone")
    digest = sha256(b"in the outbox of a file too").hexdigest()
    path = client.paths.attachments / attachment_name(digest, "raw")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"in the outbox of a file too")
    client._recent = type(client._recent)()  # as in the next process
    with client.session("s") as session:
        session._published.base()
        base = published(client, "s")[-1]
    assert isinstance(base, Base)
    assert [held.data for held in base.attachments.values()] == [b"in the outbox alone"]


def test_a_fork_without_a_daemon_finds_what_its_parent_published(client: Client) -> None:
    with client.session("parent") as session:
        session["mask"] = np.eye(9, dtype=bool)
        state = dict(session.texts())
        with client.session("fork", parent="parent") as fork:
            fork.core.attachments.recent = type(
                client._recent
            )()  # as if more had been encoded since than is remembered
            fork._published.replace(state)
    client._recent = type(client._recent)()
    with client.session("fork") as session:
        assert (session["mask"] == np.eye(9, dtype=bool)).all()


def test_an_array_changed_in_place_is_found_at_the_next_save(client: Client) -> None:
    manager = StateManager("managed")
    mask = np.zeros((8, 8), np.uint8)
    manager.set_state("mask", mask)
    manager._published()
    mask[2, 3] = 1
    manager._published()
    manager._published()
    updates = [entry for entry in published(client, "managed") if isinstance(entry, Update)]
    assert len(updates) == 2
    assert (manager._session["mask"] == mask).all()
    manager._session.close()


class Tensor:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array


def test_an_encoder_adds_the_apps_own_types(client: Client) -> None:
    def encoder(value: object) -> object:
        if isinstance(value, Tensor):
            return value.array
        if isinstance(value, type(sys)):
            return {"module": value}  # no better: it is asked again, until the stack ends
        raise TypeError("no tensor")

    with client.session("s", encoder=encoder) as session:
        session["t"] = [Tensor(np.eye(2, dtype=bool))]
        assert session["t"][0].tolist() == [[True, False], [False, True]]
        with pytest.raises(StateValueError, match=r"^a\[0\]: .*object has no JSON form, .*no tensor"):
            session["a"] = [object()]
        with pytest.raises(StateValueError, match=r"^b.*: (nested|the module contains itself)"):
            session["b"] = sys
        assert list(session) == ["t"]
    with client.session("without") as session, pytest.raises(StateValueError, match=r"Tensor has no JSON form$"):
        session["t"] = Tensor(np.eye(2))


def test_what_does_not_fit_into_one_entry_is_refused_and_the_state_is_unchanged(client: Client) -> None:
    with client.session("s") as session:
        session["a"] = 1
        with pytest.raises(StateValueError, match="bytes in one entry"):
            session.update(a=2, b=os.urandom(40 << 20), c=os.urandom(40 << 20))
        assert dict(session) == {"a": 1}
        assert len(published(client, "s")) == 1


def test_deleting_a_key_reads_nothing_of_it(client: Client) -> None:
    with client.session("s") as session:
        session["a"] = b"gone"
        client._recent = session.core.attachments.recent = type(client._recent)()
        for segment in (client.paths.outbox / "s").glob("*.seg"):
            os.truncate(segment, 0)
        with pytest.raises(LookupError, match="^a: attachment"):
            session["a"]
        del session["a"]
        assert "a" not in session
