"""Files that a state only names: same, edited, moved or missing; never waited for, never a pipe, read in bounds."""

from __future__ import annotations

import os
import threading
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.documents import named_files
from edi_checkpoint.documents.fragments import fragment
from edi_checkpoint.documents.named_files import FileFacts, Now, Verdict, compare, look, look_around, paths_in
from edi_checkpointd.checkpoints import named_files as checkpoints_named_files
from edi_checkpointd.checkpoints.named_files import NamedFiles


def become(recorded: FileFacts) -> tuple[Verdict, str | None]:
    (row,) = compare({"image_path": recorded}, look_around({"image_path": recorded}))
    assert (row.key, row.path) == ("image_path", recorded.path)
    return row.verdict, row.moved_to


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "roof.jpg"
    path.write_bytes(b"a roof")
    os.utime(path, ns=(10**18, 10**18))
    return path


def test_what_is_recorded_is_size_time_and_digest(picture: Path) -> None:
    assert look(str(picture)) == FileFacts(str(picture), 6, 10**18, sha256(b"a roof").hexdigest())


def test_a_file_left_alone_is_the_same_and_not_even_read(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = look(str(picture))
    monkeypatch.setattr(named_files, "_digest", None)
    assert become(recorded) == (Verdict.SAME, None)


def test_a_file_written_anew_with_the_same_content_is_the_same(picture: Path) -> None:
    recorded = look(str(picture))
    picture.write_bytes(b"a roof")
    assert become(recorded) == (Verdict.SAME, None)


@pytest.mark.parametrize("content", [b"a door", b"a longer roof", b""])
def test_another_content_is_edited(picture: Path, content: bytes) -> None:
    recorded = look(str(picture))
    picture.write_bytes(content)
    assert become(recorded) == (Verdict.EDITED, None)


def test_a_renamed_file_is_found_by_its_digest_in_the_same_folder(picture: Path) -> None:
    recorded = look(str(picture))
    (picture.parent / "a door.jpg").write_bytes(b"a door")
    moved = picture.rename(picture.parent / "old roof.jpg")
    assert become(recorded) == (Verdict.MOVED, str(moved))
    moved.rename(picture.parent.parent / moved.name)
    assert become(recorded) == (Verdict.MISSING, None)


def test_the_search_for_a_moved_file_is_bounded(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = look(str(picture))
    picture.unlink()
    for at in range(named_files.ALIKE_MAX + 5):
        (picture.parent / f"{at:03}").write_bytes(b"a door")
    (picture.parent / "z").write_bytes(b"a roof")
    assert become(recorded) == (Verdict.MISSING, None)
    (picture.parent / "000").write_bytes(b"a roof")
    assert become(recorded) == (Verdict.MOVED, str(picture.parent / "000"))
    monkeypatch.setattr(named_files, "BESIDE_MAX", 0)
    assert become(recorded) == (Verdict.MISSING, None)


def test_a_file_too_large_to_digest_is_known_by_size_and_time(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_files, "DIGESTED_MAX_BYTES", 5)
    recorded = look(str(picture))
    assert recorded == FileFacts(str(picture), 6, 10**18, None)
    assert become(recorded) == (Verdict.SAME, None)
    os.utime(picture, ns=(10**18, 10**18 + 1))
    assert become(recorded) == (Verdict.EDITED, None)


def test_of_what_was_not_known_nothing_is_claimed(picture: Path) -> None:
    assert become(FileFacts(str(picture))) == (Verdict.UNKNOWN, None)
    picture.unlink()
    assert become(FileFacts(str(picture))) == (Verdict.MISSING, None)


@pytest.mark.parametrize(
    "path", ["", "roof.jpg", "../roof.jpg", "/nul\0byte", "/no/such/file", "/dev/null", "/", "/\ud800"]
)
def test_what_is_no_file_of_an_absolute_path_is_unknown(path: str) -> None:
    assert look(path) == FileFacts(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert look(str(tmp_path / "pipe")) == FileFacts(str(tmp_path / "pipe"))


FACTS = st.builds(
    FileFacts,
    st.just("/p"),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.none() | st.sampled_from("ab"),
)


@given(FACTS, FACTS, st.none() | st.just("/q"))
def test_a_verdict_is_never_more_than_the_facts_say(before: FileFacts, after: FileFacts, moved_to: str | None) -> None:
    (row,) = compare({"k": before}, {"k": Now(after, moved_to)})
    if row.verdict is Verdict.SAME:
        assert before.size_bytes is not None
        assert before.sha256 == after.sha256 or (before.size_bytes, before.mtime_ns) == (
            after.size_bytes,
            after.mtime_ns,
        )
    if row.verdict in (Verdict.MISSING, Verdict.MOVED):
        assert after.size_bytes is None
        assert (row.moved_to is None) == (row.verdict is Verdict.MISSING)


def test_only_strings_under_the_keys_that_name_files_count() -> None:
    texts = {"image_path": b'"/a"', "mask_path": b"[1]", "edited_image_path": b'""', "prompt": b'"/b"'}
    assert paths_in({key: fragment(text) for key, text in texts.items()}) == {"image_path": "/a"}
    assert paths_in({"image_path": fragment(b'"/' + b"x" * 5000 + b'"')}) == {}


# -- in the daemon ---------------------------------------------------------------------------------------------------


def test_a_file_is_digested_once_until_it_changes(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = NamedFiles()
    monkeypatch.setattr(checkpoints_named_files, "WAIT_S", 10.0)
    first = seen.of({"image_path": str(picture)})
    assert first == {"image_path": look(str(picture))}
    monkeypatch.setattr(named_files, "_digest", lambda *_: "digested again")
    assert seen.of({"image_path": str(picture)}) == first
    picture.write_bytes(b"a door")
    assert seen.of({"image_path": str(picture)})["image_path"].sha256 == "digested again"


def test_a_mount_that_hangs_holds_up_no_checkpoint(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comes_back = threading.Event()

    def hangs(path: str, **_: object) -> FileFacts:
        comes_back.wait(30)
        return FileFacts(path, 1)

    monkeypatch.setattr(checkpoints_named_files, "look", hangs)
    seen = NamedFiles()
    unknown = {"image_path": FileFacts(str(picture))}
    assert seen.of({"image_path": str(picture)}) == unknown
    late = seen._last
    monkeypatch.setattr(checkpoints_named_files, "WAIT_S", 1000.0)  # who waited for the second look would wait here
    assert seen.of({"image_path": str(picture)}) == unknown
    comes_back.set()
    assert late is not None
    assert late.done.wait(10)
    assert seen.of({"image_path": str(picture)})["image_path"].size_bytes == 1


def test_a_state_that_names_no_file_starts_no_thread() -> None:
    seen = NamedFiles()
    assert seen.of({}) == {}
    assert seen._thread is None
