"""Masks, arrays and bytes from one process to the next, over kills, a full store and files that are gone."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from harness import Home, Publisher, Refused, eventually
from PIL import Image

from edi_checkpoint.documents.named_files import FileFacts, Verdict, compare, look_around
from edi_checkpoint.documents.names import attachment_name
from edi_checkpoint.documents.reader import parse_checkpoint
from edi_checkpoint.system.paths import locate
from edi_checkpoint.wire.references import digests_in
from edi_checkpointd.attachments.garbage import GRACE_S, unnamed
from edi_checkpointd.journal import Reader

NO_FILES = ("--autosave-every-s", "3600", "--checkpoint-every-s", "86400", "--transition-quiet-s", "10")
SHARING = 1000 if os.environ.get("EDI_TEST_FULL") == "1" else 60


def with_masks(publisher: Publisher) -> Publisher:
    publisher.do("import masks, numpy as np")
    return publisher


def files(home: Home) -> dict[str, Path]:
    """The attachments' files by digest."""
    found = (home.sessions / "attachments").glob("*/*")
    return {path.name.partition(".")[0]: path for path in found if not path.name.startswith(".")}


def stored_bytes(home: Home) -> int:
    return sum(path.stat().st_size for path in files(home).values())


def blobs(home: Home) -> list[str]:
    reader = Reader.open(home.state / "journal.sqlite")
    try:
        return [digest for digest, _, _ in reader.blobs()]
    finally:
        reader.close()


def assert_all_verify(home: Home) -> None:
    for digest, path in files(home).items():
        assert sha256(path.read_bytes()).hexdigest() == digest
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_seventeen_masks_cost_kilobytes_once_and_come_back_bit_for_bit_after_everything_was_killed(home: Home) -> None:
    daemon = home.daemon(*NO_FILES)
    writer = with_masks(home.publisher())
    writer.do("manager = StateManager('s1')")
    writer.do("entities = masks.entities()")
    expected = writer.do("masks.told(entities)")
    writer.do("manager.set_state('entities', entities)")
    writer.do("manager._session.flush()")
    assert (len(blobs(home)), files(home)) == (17, {})  # acknowledged: in the journal, before any file
    writer.kill()
    daemon.kill()

    home.daemon(*NO_FILES)
    other = with_masks(home.publisher("s1"))
    assert other.do("masks.told(session['entities'])") == expected
    other.do("session.checkpoint()")
    assert len(files(home)) == 17
    assert stored_bytes(home) <= 64_000
    assert_all_verify(home)
    before, sizes = stored_bytes(home), []
    for turn in range(3):
        other.do(f"session.update(turn={turn}, entities=session['entities'])")  # published again
        sizes.append(other.do("session.checkpoint()")["size_bytes"])
    assert stored_bytes(home) == before
    assert max(sizes) < 20_000
    eventually(lambda: blobs(home) == [])


def test_what_is_published_without_a_daemon_is_there_for_the_next_process_and_for_the_daemon(home: Home) -> None:
    first = with_masks(home.publisher("s1"))
    first.do("session.update(mask=masks.smooth(64, 1), raw=b'abc', n=1)")
    told = first.do("masks.told(dict(session))")
    first.kill()
    second = with_masks(home.publisher("s1"))  # reads the outbox of the dead
    assert second.do("masks.told(dict(session))") == told
    assert home.command("attachments", "s1").count("\n") == 4
    second.kill()
    home.daemon()
    third = with_masks(home.publisher("s1"))
    assert third.do("masks.told(dict(session))") == told
    eventually(lambda: len(files(home)) == 2)


def test_a_publisher_that_is_killed_leaves_a_checkpoint_whose_attachments_are_files(home: Home) -> None:
    home.daemon(*NO_FILES)
    writer = with_masks(home.publisher("s1"))
    for number in range(20):
        writer.send(f"session.update(mask=masks.smooth(64, {number}), n={number})")
        writer.answer()
    writer.kill()
    (path,) = eventually(lambda: home.checkpoints("s1"))
    document = parse_checkpoint(path.read_bytes(), path.name)
    assert document.values["n"] == b"19"
    assert digests_in(document.values["mask"]) <= files(home).keys()


@pytest.mark.parametrize(
    "way", ["session.checkpoint()", "session.flush('checkpointed')", "session.rollback(sequence=1)"]
)
def test_whatever_a_visible_document_names_is_in_a_file(home: Home, way: str) -> None:
    home.daemon(*NO_FILES)
    writer = home.publisher("s1")
    for number in range(5):
        writer.do(f"session.update(raw=b'content {number}')")
        writer.do(way)
        documents = list(home.sessions.glob("s1*.json"))
        named = [digest for path in documents for _, digest in re.findall(r'"(sha256)": "(\w+)"', path.read_text())]
        assert named
        assert set(named) <= files(home).keys()


def test_sessions_that_share_a_mask_store_it_once(home: Home) -> None:
    home.daemon()
    writer = with_masks(home.publisher())
    writer.do("mask = masks.smooth(512, 3)")
    code = f"for i in range({SHARING}): s = client.session(f's{{i}}'); s.update(mask=mask, n=i); s.close()"
    writer.do(f"exec({code!r})", timeout_s=100)
    eventually(lambda: len(list(home.sessions.glob("s*.json"))) >= SHARING, timeout_s=60)
    assert len(files(home)) == 1
    assert_all_verify(home)


# -- reading back ----------------------------------------------------------------------------------------------------


def test_what_is_in_no_file_yet_is_shown_and_extracted_from_the_journal(home: Home, tmp_path: Path) -> None:
    daemon = home.daemon(*NO_FILES)
    writer = with_masks(home.publisher("s1"))
    writer.do("session.update(mask=masks.smooth(64, 1))")
    writer.do("session.flush()")
    assert files(home) == {}
    (row,) = home.json("attachments", "s1", "--extract", str(tmp_path / "live"))["attachments"]
    daemon.kill()
    (again,) = home.json("attachments", "s1", "--extract", str(tmp_path / "dead"))["attachments"]
    assert row["fault"] is None
    assert Path(row["file"]).read_bytes() == Path(again["file"]).read_bytes()
    assert Path(row["file"]).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.leaves("attachment_damaged", "attachment_missing", "mode")
def test_a_missing_a_damaged_and_an_orphan_attachment_are_found_and_named_and_harm_nothing_else(home: Home) -> None:
    home.daemon()
    writer = with_masks(home.publisher("s1"))
    writer.do("session.update(a={'mask': masks.smooth(64, 1)}, b=[b'bytes'], c=np.arange(9.0), d='plain')")
    writer.do("session.close()")
    rows = {row["path"]: row for row in home.json("attachments", "s1")["attachments"]}
    assert list(rows) == ["/a/mask", "/b/0", "/c"]
    eventually(lambda: not (home.state / "outbox" / "s1").exists() and blobs(home) == [])
    files(home)[rows["/a/mask"]["sha256"]].unlink()
    damaged = files(home)[rows["/b/0"]["sha256"]]
    damaged.write_bytes(b"bytez")
    orphan = home.sessions / "attachments" / attachment_name("ab" * 32, "png")
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"nobody names it")

    found = home.json("attachments", "s1", expect=6)["attachments"]
    assert {row["path"]: row["fault"] for row in found} == {
        "/a/mask": "attachment_missing",
        "/b/0": "attachment_damaged",
        "/c": None,
    }
    shown = home.command("attachments", "s1", expect=6)
    assert "missing" in shown and "damaged" in shown
    assert [filed.path for filed in unnamed(locate(home.environment))] == [orphan]

    assert home.json("show", "s1")["state_info"]["d"] == "plain"
    assert home.json("sessions")["sessions"][0]["session_id"] == "s1"
    other = with_masks(home.publisher("s1"))
    assert other.do("session['d'], session['c'].tolist()") == ["plain", list(range(9))]
    for code, error, place in (
        ("session['a']", "AttachmentMissing", f"a.mask: attachment {rows['/a/mask']['sha256']}"),
        ("session['b']", "AttachmentDamaged", f"b[0]: attachment {damaged.relative_to(damaged.parents[1])}"),
    ):
        with pytest.raises(Refused, match=error) as refused:
            other.do(code)
        assert refused.value.message.startswith(place)
    other.do("session.close()")
    other.do("manager = StateManager()")
    assert other.do("manager.load_state('s1'), manager.state_data['d'], sorted(manager.state_data)") == [
        True,
        "plain",
        list("abcd"),
    ]
    other.do("manager.set_state('d', 'changed')")
    other.do("manager.checkpoint()")  # what was never read is not read for that
    with pytest.raises(Refused, match="AttachmentMissing"):
        other.do("manager.state_data['a']")
    other.do("session = manager._session")
    other.do("session.update(a=1)")  # and what cannot be read can be replaced and deleted
    other.do("session.__delitem__('b')")
    assert other.do("masks.told(dict(session))").keys() == {"a", "c", "d"}


def test_show_names_a_mask_by_size_and_area_and_json_keeps_the_reference(home: Home) -> None:
    home.daemon()
    writer = with_masks(home.publisher("s1"))
    writer.do(
        "session.update(scene={'mask': np.eye(64, dtype=bool), 'raw': b'abc', 'p': np.full((3, 5, 3), 9, np.uint8)})"
    )
    shown = home.command("show", "s1")
    assert '"mask": <mask 64x64, 1.6 % set, ' in shown
    assert '"raw": <bytes, 3 B>, "p": <picture 5x3, ' in shown
    reference = home.json("show", "s1")["state_info"]["scene"]["mask"]["$attachment"]
    assert (reference["type"], reference["dtype"], reference["shape"]) == ("png", "bool", [64, 64])


def test_extracting_writes_only_into_the_folder_and_over_nothing(home: Home, tmp_path: Path) -> None:
    home.daemon()
    writer = with_masks(home.publisher("s1"))
    writer.do("session.update({'../../x': {'..': b'one', '/etc/passwd': [b'two']}, 'k': np.arange(3)})")
    folder = tmp_path / "out" / "deep"
    first = home.json("attachments", "s1", "--extract", str(folder))["attachments"]
    assert {Path(row["file"]).read_bytes() for row in first if row["type"] == "raw"} == {b"one", b"two"}
    assert {Path(row["file"]).parent for row in first} == {folder}
    assert np.load(next(row["file"] for row in first if row["type"] == "npy")).tolist() == [0, 1, 2]
    home.command("attachments", "s1", "--extract", str(folder))  # again: the same files stay
    Path(first[0]["file"]).write_bytes(b"mine")
    error = home.json("attachments", "s1", "--extract", str(folder), expect=1)["error"]
    assert error["code"] == "already_there"
    assert Path(first[0]["file"]).read_bytes() == b"mine"


@pytest.fixture(params=["made_up", "EDI_DATA"])
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """Masks as EDI stores them: PNG of 8 bits, 0 and 255."""
    if request.param == "EDI_DATA":
        if not os.environ.get("EDI_DATA"):
            pytest.skip("EDI_DATA names no folder with data of EDI's own runs")
        return sorted(Path(os.environ["EDI_DATA"]).glob("*_mask.png"))
    y, x = np.mgrid[:70, :106]
    Image.fromarray(((x - 50) ** 2 + (y - 30) ** 2 < 600).astype(np.uint8) * 255).save(tmp_path / "color_mask.png")
    return [tmp_path / "color_mask.png"]


def test_stored_and_extracted_masks_are_the_same_pictures(home: Home, pictures: list[Path], tmp_path: Path) -> None:
    home.daemon()
    writer = home.publisher("s1")
    writer.do("import numpy as np; from PIL import Image")
    for path in pictures:
        writer.do(f"session.update({path.stem}=np.asarray(Image.open({str(path)!r})))")
        writer.do(f"session.update({path.stem}_bool=np.asarray(Image.open({str(path)!r})) > 0)")
    writer.kill()
    rows = home.json("attachments", "s1", "--extract", str(tmp_path / "out"))["attachments"]
    assert len(rows) == 2 * len(pictures) > 0
    for path in pictures:
        with Image.open(path) as original:
            seen = np.asarray(original)
        for key, expected in ((path.stem, seen), (f"{path.stem}_bool", seen > 0)):
            (row,) = [row for row in rows if row["path"] == f"/{key}"]
            with Image.open(row["file"]) as extracted:
                assert (np.asarray(extracted) == expected).all()
        assert Path(row["file"]).stat().st_size < 16_000


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_more_than_is_taken_in_all_is_refused_by_the_call_and_the_session_goes_on(home: Home) -> None:
    home.daemon("--attachments-max-bytes", "5000")
    writer = home.publisher("s1")
    writer.do("session.update(a=bytes(3000), n=1)")
    writer.do("session.flush()")
    with pytest.raises(Refused, match="AttachmentsFull.*3001 bytes.*2000 are left of attachments_max_bytes") as refused:
        writer.do("session.update(b=bytes(3001), n=2)")
    assert refused.value.code == "attachments_full"
    assert writer.do("sorted(session), session['n']") == [["a", "n"], 1]
    writer.do("session.update(again=bytes(3000), c=bytes(2000), n=3)")  # the first is there already
    writer.do("session.flush()")
    assert writer.do("session.checkpoint()")["sequence"]
    assert stored_bytes(home) == 5000


def test_what_was_published_out_of_reach_and_is_too_much_is_refused_when_it_arrives(home: Home) -> None:
    writer = home.publisher("s1")
    writer.do("session.update(a=bytes(4000))")
    writer.do("session.update(b=os.urandom(1 << 20))")
    home.daemon("--attachments-max-bytes", "5000")
    with pytest.raises(Refused, match="AttachmentsFull"):
        writer.sees("session.update(n=1) or session.durable.journaled > 5")
    writer.do("session.flush()")
    assert "n" in home.json("show", "s1")["state_info"]
    assert "b" not in home.json("show", "s1")["state_info"]
    assert list((home.state / "damaged").iterdir()) != []  # kept, as all that is refused


# -- collecting ------------------------------------------------------------------------------------------------------


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def plant(home: Home, content: bytes, *, age_s: float) -> Path:
    path = home.sessions / "attachments" / attachment_name(sha256(content).hexdigest(), "raw")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    age(path, age_s)
    return path


@pytest.mark.leaves("mode")
def test_only_what_nothing_names_for_a_day_is_collected(home: Home) -> None:
    home.daemon(*NO_FILES)
    writer = home.publisher("s1")
    writer.do("session.update(a=b'in a checkpoint', b=b'in the history')")
    writer.do("session.checkpoint()")
    writer.do("session.update(a=0, b=0)")
    writer.do("session.flush()")
    home.command("history", "s1")
    old = GRACE_S + 10
    kept = [plant(home, b"in a checkpoint", age_s=old), plant(home, b"in the history", age_s=old)]
    kept.append(plant(home, b"nothing names it yet", age_s=GRACE_S - 100))
    kept.append(plant(home, b"in the trash", age_s=old))
    trash = home.sessions / "trash" / "s0"
    trash.mkdir(parents=True)
    (trash / "s0.json").write_text(
        json.dumps({"x": {"$attachment": {"sha256": sha256(b"in the trash").hexdigest()}}}, indent=2)
    )
    kept.append(home.sessions / "attachments" / "ab" / "mine.png")
    kept[-1].parent.mkdir(exist_ok=True)
    kept[-1].write_bytes(b"not named like ours")
    age(kept[-1], old)
    gone = plant(home, b"nothing names it", age_s=old)
    writer.do("session.close()")
    home.processes[0].kill()

    again = home.daemon("--collect-every-s", "0.1", "--autosave-every-s", "0.1")
    other = home.publisher("s2")
    eventually(lambda: other.do("session.update(n=1)") or not gone.exists())
    assert again.wait_line(lambda line: "attachment deleted" in line).endswith("bytes=16 rule=unnamed")
    assert all(path.exists() for path in kept)
    assert sum("attachment deleted" in line for line in again.stderr) == 1


NO_READER = """
import errno, sys
from edi_checkpointd.attachments import garbage as collection
from edi_checkpointd.__main__ import main

opened = collection.open_regular

def open_but_one(path):
    if path.name == "s0.json":
        raise OSError(errno.EIO, "the disk has a bad block", str(path))
    return opened(path)

collection.open_regular = open_but_one
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.leaves("mode")
def test_nothing_is_collected_while_a_document_cannot_be_read(home: Home) -> None:
    gone = plant(home, b"nothing names it", age_s=GRACE_S + 10)
    unread = home.sessions / "damaged" / "s0.json"
    unread.parent.mkdir()
    unread.with_name("link").symlink_to("/proc/self/mem")  # a link names nothing, whatever it leads to
    os.mkfifo(unread.with_name("pipe"))
    unread.write_bytes(b"{}")
    daemon = home.start(
        [sys.executable, "-c", NO_READER, "run", "--collect-every-s", "0.1", "--autosave-every-s", "0.1"],
        lines_from="stderr",
    )
    daemon.wait_line("ready ")
    writer = home.publisher("s1")
    writer.do("session.update(n=1)")
    daemon.wait_line(lambda line: "garbage collection failed, no attachment deleted" in line)
    assert gone.exists()
    unread.unlink()
    eventually(lambda: writer.do("session.update(n=1)") or not gone.exists())


# -- beside other features -------------------------------------------------------------------------------------------


def test_going_back_and_forking_bring_the_masks_back(home: Home) -> None:
    home.daemon(*NO_FILES)
    writer = with_masks(home.publisher("s1"))
    writer.do("session.update(mask=masks.smooth(64, 1))")
    first = writer.do("masks.told(session['mask'])")
    writer.do("session.update(mask=masks.smooth(64, 2))")
    second = writer.do("masks.told(session['mask'])")
    writer.do("session.flush()")
    writer.do("setattr(session.core.attachments, 'recent', type(session.core.attachments.recent)())")
    assert writer.do("masks.told(session.at(sequence=1)['mask'])") == first  # from the journal: no file has it
    writer.do("session.rollback(sequence=1)")
    assert writer.do("masks.told(session['mask'])") == first
    fork = writer.do("session.fork(sequence=2)")
    other = with_masks(home.publisher(fork))
    assert other.do("masks.told(session['mask'])") == second
    assert_all_verify(home)


def test_a_living_writer_brings_its_masks_to_a_journal_that_was_lost(home: Home) -> None:
    daemon = home.daemon(*NO_FILES)
    writer = with_masks(home.publisher("s1"))
    writer.do("session.update(mask=masks.smooth(64, 1), raw=b'abc')")
    told = writer.do("masks.told(dict(session))")
    writer.do("session.flush()")
    daemon.kill()
    for path in home.state.glob("journal.sqlite*"):
        path.unlink()
    home.daemon(*NO_FILES)
    writer.sees("session.durable.journaled >= 2")  # a base, and what came before
    writer.do("session.checkpoint()")
    assert len(files(home)) == 2
    writer.kill()
    other = with_masks(home.publisher("s1"))
    assert other.do("masks.told(dict(session))") == told


def test_a_checkpoint_records_what_the_daemon_saw_of_the_files_that_the_state_names(home: Home, tmp_path: Path) -> None:
    picture = tmp_path / "roof.jpg"
    picture.write_bytes(b"a roof")
    home.daemon(*NO_FILES)
    writer = home.publisher("s1")
    writer.do(f"session.update(image_path={str(picture)!r}, mask_path='relative.png', other={str(picture)!r})")
    name = writer.do("session.checkpoint()")["name"]
    header = parse_checkpoint((home.sessions / name).read_bytes(), name).header
    assert header.files == {
        "image_path": FileFacts(str(picture), 6, picture.stat().st_mtime_ns, sha256(b"a roof").hexdigest()),
        "mask_path": FileFacts("relative.png"),
    }
    pinned = writer.do(f"session.amend({name!r}, pinned=True)")
    assert parse_checkpoint((home.sessions / pinned["name"]).read_bytes(), pinned["name"]).header.files == header.files
    moved = picture.rename(tmp_path / "old roof.jpg")
    rows = compare(header.files, look_around(header.files))
    assert [(row.key, row.verdict, row.moved_to) for row in rows] == [
        ("image_path", Verdict.MOVED, str(moved)),
        ("mask_path", Verdict.UNKNOWN, None),
    ]
