from __future__ import annotations

import json
import os
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from edi_checkpoint.documents import catalog as catalog_module
from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.fragments import Fragment, fragment
from edi_checkpoint.documents.layout import Header, autosave_document, checkpoint_document
from edi_checkpoint.documents.names import autosave_name, checkpoint_name
from edi_checkpoint.model import CheckpointInfo, Kind

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
STATE = {"current_stage": fragment(b'"refinement"'), "n": fragment(b"[1,2]")}


def header(session_id: str, sequence: int, **changed: object) -> Header:
    fields = {
        "session_id": session_id,
        "timestamp": NOON + timedelta(seconds=sequence),
        "kind": Kind.MANUAL,
        "sequence": sequence,
        "reason": "why",
        "stage": "refinement",
    }
    return Header(**(fields | changed))  # type: ignore[arg-type]


def put(folder: Path, session_id: str, sequence: int, *, second: int | None = None, **changed: object) -> str:
    name = checkpoint_name(session_id, NOON + timedelta(seconds=sequence if second is None else second))
    (folder / name).write_bytes(b"".join(checkpoint_document(header(session_id, sequence, **changed), STATE)))
    return name


def put_autosave(folder: Path, session_id: str, sequence: int, state: dict[str, Fragment] = STATE) -> None:
    data = b"".join(autosave_document(header(session_id, sequence), state))
    (folder / autosave_name(session_id)).write_bytes(data)


def loaded(folder: Path) -> Catalog:
    catalog = Catalog(folder)
    catalog.load()
    return catalog


def info(name: str, session_id: str, sequence: int, *, pinned: bool = False) -> CheckpointInfo:
    return CheckpointInfo(name, session_id, sequence, NOON, Kind.MANUAL, "why", "refinement", None, pinned, 1)


def test_a_checkpoint_is_listed_as_its_header_says(tmp_path: Path) -> None:
    name = put(tmp_path, "s", 3, label="good", pinned=True, kind=Kind.TRANSITION)
    (listed,) = loaded(tmp_path).checkpoints("s")
    assert listed == CheckpointInfo(
        name=name,
        session_id="s",
        sequence=3,
        timestamp=NOON + timedelta(seconds=3),
        kind="transition",
        reason="why",
        stage="refinement",
        label="good",
        pinned=True,
        size_bytes=(tmp_path / name).stat().st_size,
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(listed), type=CheckpointInfo) == listed


def test_order_comes_from_the_sequence_not_from_the_clock(tmp_path: Path) -> None:
    late, early = put(tmp_path, "s", 1, second=50), put(tmp_path, "s", 2, second=10)
    old = "s_checkpoint_20991231_235959.json"
    (tmp_path / old).write_text(json.dumps({"session_id": "s", "timestamp": "?", "state_info": {}}, indent=2))
    catalog = loaded(tmp_path)
    assert [listed.name for listed in catalog.checkpoints("s")] == [old, late, early]
    assert catalog.checkpoints("s")[0].kind == "reference"
    assert catalog.checkpoints("s")[0].timestamp == datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)
    newest = catalog.newest("s")
    assert newest is not None
    assert newest.name == early
    assert catalog.last_stamp("s") == "20991231_235959"


def test_a_session_without_files_has_nothing(tmp_path: Path) -> None:
    catalog = loaded(tmp_path)
    assert catalog.sessions() == []
    assert catalog.checkpoints("s") == ()
    assert (catalog.newest("s"), catalog.last_stamp("s"), catalog.autosave("s")) == (None, None, None)


def test_session_ids_are_compared_exactly(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    put(tmp_path, "a_checkpoint_b", 2)
    put_autosave(tmp_path, "A", 3)
    catalog = loaded(tmp_path)
    assert catalog.sessions() == ["A", "a", "a_checkpoint_b"]
    assert [listed.sequence for listed in catalog.checkpoints("a")] == [1]
    assert [listed.sequence for listed in catalog.checkpoints("a_checkpoint_b")] == [2]
    assert catalog.checkpoints("a_*") == ()


def test_what_is_not_ours_is_not_listed(tmp_path: Path) -> None:
    name = put(tmp_path, "s", 1)
    (tmp_path / "s_checkpoint_20261123_120000_000000.tmp.json").write_text("{")
    (tmp_path / f".{name}.4711.tmp").write_text("{")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "attachments").mkdir()
    (tmp_path / "folder_checkpoint_20261123_120000_000000.json").mkdir()
    (tmp_path / "link_checkpoint_20261123_120000_000000.json").symlink_to(tmp_path / name)
    os.mkfifo(tmp_path / "fifo_checkpoint_20261123_120000_000000.json")
    catalog = loaded(tmp_path)
    assert catalog.sessions() == ["s"]
    assert len(catalog.checkpoints("s")) == 1
    assert catalog.damaged == []


def test_the_folder_is_listed_once_and_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "s", 1)
    put_autosave(tmp_path, "s", 1)
    for number in range(100):
        (tmp_path / f"foreign{number}.json").write_text("{}")
    catalog = loaded(tmp_path)
    first = (catalog.checkpoints("s"), catalog.autosave("s"))

    def refuse(*_: object) -> None:
        raise AssertionError("the folder was looked at again")

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "open", refuse)
    name = checkpoint_name("s", NOON + timedelta(seconds=2))
    catalog.add(info(name, "s", 2))
    assert (catalog.checkpoints("s")[:-1], catalog.autosave("s")) == first
    assert catalog.last_stamp("s") == "20261123_120002_000000"


@pytest.mark.parametrize("more", [0, catalog_module.LONG_HEADER_BYTES])
def test_a_long_header_is_read_to_its_end(tmp_path: Path, more: int) -> None:
    put(tmp_path, "s", 1, reason="x" * (catalog_module.HEADER_BYTES + more))
    assert [listed.sequence for listed in loaded(tmp_path).checkpoints("s")] == [1]


def test_a_file_that_vanished_leaves_the_list(tmp_path: Path) -> None:
    gone, there = put(tmp_path, "s", 1), put(tmp_path, "s", 2)
    put(tmp_path, "t", 1)
    put_autosave(tmp_path, "u", 1)
    catalog = loaded(tmp_path)
    (tmp_path / gone).unlink()
    (tmp_path / checkpoint_name("t", NOON + timedelta(seconds=1))).unlink()
    (tmp_path / "u.json").unlink()
    assert [listed.name for listed in catalog.checkpoints("s")] == [there]
    assert catalog.checkpoints("t") == ()
    assert catalog.autosave("u") is None
    assert catalog.sessions() == ["s"]
    assert catalog.damaged == []


def test_damaged_and_newer_files_are_reported_not_listed(tmp_path: Path) -> None:
    empty, newer, good = put(tmp_path, "s", 1), put(tmp_path, "s", 2), put(tmp_path, "s", 3)
    (tmp_path / empty).write_bytes(b"")
    (tmp_path / newer).write_bytes((tmp_path / newer).read_bytes().replace(b'"format": 1', b'"format": 2'))
    (tmp_path / "s.json").write_bytes(bytes(100))
    catalog = loaded(tmp_path)
    assert [listed.name for listed in catalog.checkpoints("s")] == [good]
    assert catalog.autosave("s") is None
    assert [(name, code) for name, _, code in catalog.damaged] == [
        ("s.json", "document_damaged"),
        (empty, "document_damaged"),
        (newer, "version_mismatch"),
    ]
    assert catalog.damaged[1].fault == "truncated at byte 0"
    assert catalog.last_stamp("s") is not None

    catalog.remove(empty)
    catalog.note_autosave("s", header("s", 4), 9)
    assert [name for name, _, _ in catalog.damaged] == [newer]
    assert catalog.autosave("s") == (header("s", 4), 9)


def test_a_file_that_cannot_be_read_now_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = put(tmp_path, "s", 1)
    catalog = loaded(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        assert catalog.checkpoints("s") == ()
        assert catalog.damaged == [(name, "Too many open files", "unreadable")]
    assert [listed.name for listed in catalog.checkpoints("s")] == [name]
    assert catalog.damaged == []


def test_an_auto_save_is_known_by_the_end_of_its_file(tmp_path: Path) -> None:
    put_autosave(tmp_path, "s", 7, {"big": Fragment(b'"' + b"x" * 200_000 + b'"')})
    found = loaded(tmp_path).autosave("s")
    assert found is not None
    assert (found.header.session_id, found.header.sequence, found.header.kind) == ("s", 7, "autosave")
    assert found.size_bytes == (tmp_path / "s.json").stat().st_size


def test_a_foreign_auto_save_has_the_time_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"session_id": "s", "big": "x" * 200_000, "current_stage": "upload"}))
    os.utime(tmp_path / "s.json", (NOON.timestamp(), NOON.timestamp()))
    found = loaded(tmp_path).autosave("s")
    assert found is not None
    assert (found.header.kind, found.header.stage, found.header.timestamp) == (Kind.FOREIGN, "upload", NOON)


def test_what_was_written_and_removed_is_followed(tmp_path: Path) -> None:
    catalog = loaded(tmp_path)
    names = [checkpoint_name("s", NOON + timedelta(seconds=second)) for second in range(3)]
    for sequence, name in enumerate(names, 1):
        catalog.add(info(name, "s", sequence))
    catalog.add(info(names[1], "s", 2, pinned=True))
    before = catalog.checkpoints("s")
    assert [(listed.name, listed.pinned) for listed in before] == [
        (names[0], False), (names[1], True), (names[2], False),
    ]  # fmt: skip

    catalog.remove(names[2])
    catalog.remove("notes.txt")
    assert len(before) == 3
    assert catalog.checkpoints("s") == before[:2]
    assert catalog.last_stamp("s") == "20261123_120002_000000"
    for name in names:
        catalog.remove(name)
    catalog.note_autosave("s", header("s", 3), 9)
    assert catalog.sessions() == ["s"]
    catalog.remove("s.json")
    assert catalog.sessions() == []
    catalog.load()
    assert catalog.last_stamp("s") == "20261123_120002_000000"


def test_what_the_writer_told_is_not_replaced_by_what_a_reader_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(tmp_path, "s", 1)
    put_autosave(tmp_path, "s", 1)
    catalog = loaded(tmp_path)
    read_header, read_autosave_header = catalog_module.read_header, catalog_module.read_autosave_header

    def pinned_meanwhile(head: bytes, of: str) -> Header | None:
        catalog.add(info(name, "s", 1, pinned=True))
        return read_header(head, of)

    def saved_meanwhile(tail: bytes, of: str) -> Header | None:
        catalog.note_autosave("s", header("s", 2), 9)
        return read_autosave_header(tail, of)

    monkeypatch.setattr(catalog_module, "read_header", pinned_meanwhile)
    monkeypatch.setattr(catalog_module, "read_autosave_header", saved_meanwhile)
    assert [listed.pinned for listed in catalog.checkpoints("s")] == [True]
    assert catalog.autosave("s") == (header("s", 2), 9)


def test_an_auto_save_removed_while_it_is_read_stays_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_autosave(tmp_path, "s", 1)
    catalog = loaded(tmp_path)
    read_autosave_header = catalog_module.read_autosave_header

    def removed_meanwhile(tail: bytes, of: str) -> Header | None:
        catalog.remove("s.json")
        return read_autosave_header(tail, of)

    monkeypatch.setattr(catalog_module, "read_autosave_header", removed_meanwhile)
    assert catalog.autosave("s") is None
    assert catalog.sessions() == []


def test_readers_beside_the_writer_see_lists_in_order(tmp_path: Path) -> None:
    for sequence in range(1, 11):
        put(tmp_path, "s", sequence)
    catalog = loaded(tmp_path)
    done = threading.Event()
    seen: list[list[int]] = []

    def read() -> None:
        while not done.is_set():
            seen.append([listed.sequence for listed in catalog.checkpoints("s")])
            catalog.sessions()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for sequence in range(11, 300):
        catalog.add(info(checkpoint_name("s", NOON + timedelta(seconds=sequence)), "s", sequence))
        catalog.remove(catalog.checkpoints("s")[0].name)
    done.set()
    for reader in readers:
        reader.join()
    assert [listed.sequence for listed in catalog.checkpoints("s")] == list(range(290, 300))
    assert all(len(listed) <= 11 and listed == sorted(listed) for listed in seen)


# what others do in the folder


def test_files_that_others_deleted_added_and_edited_are_found_by_their_names(tmp_path: Path) -> None:
    gone, edited, kept = (put(tmp_path, "s", sequence) for sequence in (1, 2, 3))
    put_autosave(tmp_path, "s", 3)
    catalog = loaded(tmp_path)
    assert len(catalog.checkpoints("s")) == 3
    (tmp_path / gone).unlink()
    (tmp_path / edited).unlink()
    assert put(tmp_path, "s", 7, second=2) == edited
    put_autosave(tmp_path, "s", 7)
    added = put(tmp_path, "t", 1)
    assert catalog.refresh([gone, edited, kept, "s.json", added, "notes.txt"]) == set()
    assert [(listed.name, listed.sequence) for listed in catalog.checkpoints("s")] == [(kept, 3), (edited, 7)]
    found = catalog.autosave("s")
    assert found is not None and found.header.sequence == 7
    assert [listed.name for listed in catalog.checkpoints("t")] == [added]


def test_a_session_that_lost_its_last_file_is_told(tmp_path: Path) -> None:
    put_autosave(tmp_path, "t", 1)
    names = [put(tmp_path, "s", 1), put(tmp_path, "s", 2), "t.json"]
    catalog = loaded(tmp_path)
    (tmp_path / names[0]).unlink()
    assert catalog.refresh([names[0]]) == set()
    for name in names[1:]:
        (tmp_path / name).unlink()
    assert catalog.refresh(names) == {"s", "t"}
    assert catalog.sessions() == []


def test_own_writes_are_known_again_and_not_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = loaded(tmp_path)
    name = put(tmp_path, "s", 1)
    told = info(name, "s", 1)
    catalog.add(told)
    put_autosave(tmp_path, "s", 1)
    catalog.note_autosave("s", header("s", 1), 9)

    def refuse(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(os, "open", refuse)
    for names in ([name, "s.json"], None):
        catalog.refresh(names)
        assert catalog.checkpoints("s")[0] is told
        assert catalog.autosave("s") == (header("s", 1), 9)


def test_a_damaged_file_that_was_mended_is_listed_again(tmp_path: Path) -> None:
    name = put(tmp_path, "s", 1)
    good = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"{")
    catalog = loaded(tmp_path)
    assert catalog.checkpoints("s") == ()
    (tmp_path / name).write_bytes(good)
    catalog.refresh([name])
    assert [listed.name for listed in catalog.checkpoints("s")] == [name]
    assert catalog.damaged == []


def test_a_header_read_while_its_file_is_replaced_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = put(tmp_path, "s", 1)
    catalog = loaded(tmp_path)
    read_header = catalog_module.read_header

    def replaced_meanwhile(head: bytes, of: str) -> Header | None:
        monkeypatch.setattr(catalog_module, "read_header", read_header)
        (tmp_path / name).unlink()
        put(tmp_path, "s", 5, second=1)
        catalog.refresh([name])
        return read_header(head, of)

    monkeypatch.setattr(catalog_module, "read_header", replaced_meanwhile)
    assert [listed.sequence for listed in catalog.checkpoints("s")] == [1]
    assert [listed.sequence for listed in catalog.checkpoints("s")] == [5]


def name_of(number: int) -> str:
    session_id = "abc"[number % 3]
    return autosave_name(session_id) if number < 3 else checkpoint_name(session_id, NOON + timedelta(seconds=number))


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "edit", "unlink", "add", "names", "all"]), st.integers(0, 11)), max_size=30
    )
)
def test_whatever_is_done_there_a_look_makes_the_list_that_a_start_would_make(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as text:
        folder, touched = Path(text), set[str]()
        catalog = loaded(folder)
        for sequence, (step, number) in enumerate(steps, 1):
            name, session_id = name_of(number), "abc"[number % 3]
            if step == "unlink":
                (folder / name).unlink(missing_ok=True)
                touched.add(name)
            elif step in ("put", "edit", "add"):
                document = autosave_document if number < 3 else checkpoint_document
                if step != "edit":
                    (folder / name).unlink(missing_ok=True)
                (folder / name).write_bytes(b"".join(document(header(session_id, sequence), STATE)))
                touched.add(name)
                if step == "add" and number >= 3:
                    size = (folder / name).stat().st_size
                    catalog.add(structs.replace(info(name, session_id, sequence), size_bytes=size))
            else:
                catalog.refresh(None if step == "all" else touched)
                touched.clear()
            catalog.autosave("a"), catalog.checkpoints("b")  # some headers are known, others not
        catalog.refresh(touched)
        fresh = loaded(folder)
        assert catalog.sessions() == fresh.sessions()
        for session_id in "abc":
            listed = [(one.name, one.sequence, one.size_bytes) for one in catalog.checkpoints(session_id)]
            assert listed == [(one.name, one.sequence, one.size_bytes) for one in fresh.checkpoints(session_id)]
            assert catalog.autosave(session_id) == fresh.autosave(session_id)
