"""A session is carried away as one file, and comes back from it as it was; a file that is anything else is refused."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from harness import Home, eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edi_checkpoint.documents.fragments import fragment
from edi_checkpoint.documents.layout import Header, checkpoint_document
from edi_checkpoint.documents.names import parse_checkpoint_name
from edi_checkpoint.documents.reader import parse_autosave, parse_checkpoint
from edi_checkpoint.model import Kind
from edi_checkpointd.transfer.archive import MANIFEST, Archive, ArchiveRefused


@pytest.fixture
def writer_gone(home: Home) -> Home:
    """A home with a session of checkpoints (one labelled and pinned), a mask-like attachment and a newer state."""
    home.daemon("--autosave-every-s", "3600")
    writer = home.publisher("s1")
    for number in range(3):
        writer.do(f"session.update(n={number}, raw=b'bytes of s1' * 100, prompt='a roof')")
        writer.do(f"session.checkpoint('by hand', label='label {number}', pin={number == 1})")
    writer.do("session.update(n=3)")
    writer.do("client.close()")
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    return home


def kept(home: Home, session_id: str) -> dict[str, object]:
    """What a session's files say, by what does not follow from its id: labels, pins, sequences, digests of values."""
    found = {}
    for path in [*home.checkpoints(session_id), home.sessions / f"{session_id}.json"]:
        is_checkpoint = parse_checkpoint_name(path.name) is not None
        document = (parse_checkpoint if is_checkpoint else parse_autosave)(path.read_bytes(), path.name)
        digests = {key: sha256(text).hexdigest() for key, text in document.values.items()}
        header = document.header
        found[path.name.removeprefix(session_id)] = header.sequence, header.label, header.pinned, header.kind, digests
    return found


def files(home: Home) -> dict[str, str]:
    return {
        str(path.relative_to(home.sessions)): sha256(path.read_bytes()).hexdigest()
        for path in home.sessions.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_session_that_was_exported_and_purged_comes_back_digest_for_digest(writer_gone: Home) -> None:
    home = writer_gone
    file = home.folder / "s1.zip"
    told = home.json("export", "s1", str(file))
    assert (told["session_id"], told["checkpoints"], told["bytes"]) == ("s1", 4, file.stat().st_size)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before, log, shown = files(home), home.json("log", "s1"), home.json("show", "s1")
    home.json("purge", "s1", "--yes")
    assert home.json("sessions")["sessions"] == []
    told = home.json("import", str(file))
    assert (told["session_id"], told["checkpoints"]) == ("s1", 4)
    assert files(home) == before
    assert home.json("log", "s1") == log
    assert home.json("show", "s1")["state_info"] == shown["state_info"]
    assert home.json("attachments", "s1")["attachments"][0]["fault"] is None
    again = home.publisher("s1")
    assert again.do("(session['n'], session['raw'] == b'bytes of s1' * 100)") == [3, True]
    again.do("session.update(n=4)")
    assert again.do("session.checkpoint()")["sequence"] > shown["sequence"]


def test_under_another_id_it_is_the_same_beside_the_first(writer_gone: Home) -> None:
    home = writer_gone
    file = home.folder / "s1.zip"
    home.json("export", "s1", str(file))
    (attachment,) = (home.sessions / "attachments").glob("*/*.raw")
    os.utime(attachment, (0, 0))
    home.json("import", str(file), "--as", "again")
    assert kept(home, "again") == kept(home, "s1")
    assert attachment.stat().st_mtime > 0  # as if new: a collection under way leaves it
    assert home.json("show", "again")["state_info"] == home.json("show", "s1")["state_info"]
    assert home.publisher("again").do("session['n']") == 3
    assert home.publisher("s1").do("session['n']") == 3
    assert home.json("verify")["result"] == "clean"


def test_nothing_is_overwritten_neither_a_session_nor_a_file(writer_gone: Home) -> None:
    home = writer_gone
    file = home.folder / "s1.zip"
    home.json("export", "s1", str(file))
    written, before = file.read_bytes(), files(home)
    refused = home.json("export", "s1", str(file), expect=1)["error"]
    assert (refused["code"], "--force" in refused["hint"], file.read_bytes() == written) == ("file_exists", True, True)
    home.json("export", "s1", str(file), "--force")
    refused = home.json("import", str(file), expect=1)["error"]
    assert (refused["code"], "--as" in refused["hint"]) == ("session_exists", True)
    assert files(home) == before
    assert not list((home.sessions / ".importing").glob("*"))


def test_a_damaged_checkpoint_is_not_exported_and_the_remedy_that_is_named_helps(writer_gone: Home) -> None:
    home = writer_gone
    file = home.folder / "s1.zip"
    path = home.checkpoints("s1")[0]
    path.write_bytes(path.read_bytes().replace(b'"a roof"', b'"a wolf"'))
    refused = home.json("export", "s1", str(file), expect=6)["error"]
    assert (refused["code"], path.name in refused["message"], file.exists()) == ("document_damaged", True, False)
    for step in refused["hint"].split("`")[1].split("; "):
        _, *arguments = step.split()
        command = [sys.executable, "-m", "edi_checkpointd", *arguments]
        subprocess.run(command, env=home.environment, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert home.json("export", "s1", str(file))["checkpoints"] == 3


def test_plain_is_what_edis_own_class_reads(writer_gone: Home) -> None:
    home = writer_gone
    file = home.folder / "plain.zip"
    told = home.json("export", "s1", str(file), "--plain")
    assert told["left_out"] == 5  # of four checkpoints and the current state
    with zipfile.ZipFile(file) as packed:
        members = {name: json.loads(packed.read(name)) for name in packed.namelist()}
    assert members.pop("s1.json") == {"session_id": "s1", "n": 3, "raw": None, "prompt": "a roof"}
    for name, document in members.items():
        assert parse_checkpoint_name(name)
        assert list(document) == ["session_id", "timestamp", "reason", "stage", "state_info", "parent_session"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    home = Home(tmp_path_factory.mktemp("good") / "h")
    home.daemon()
    writer = home.publisher("s1")
    writer.do("session.update(n=1, raw=b'bytes of s1' * 100)")
    writer.do("session.checkpoint()")
    writer.do("client.close()")
    home.json("export", "s1", str(home.folder / "good.zip"))
    home.close()
    return (home.folder / "good.zip").read_bytes()


def look(data: bytes) -> None:
    Archive(io.BytesIO(data)).verify()


def rebuilt(good: bytes, change: Callable[[dict[str, bytes], dict], None]) -> bytes:
    """The archive with its entries or its manifest changed, put together anew."""
    with zipfile.ZipFile(io.BytesIO(good)) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    manifest = json.loads(members.pop(MANIFEST))
    change(members, manifest)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
        packed.writestr(MANIFEST, json.dumps(manifest))
    return made.getvalue()


def entry(manifest: dict, beginning: str) -> dict:
    return next(one for one in manifest["entries"] if one["name"].startswith(beginning))


def named(name: str, data: bytes = b"x") -> Callable[[dict[str, bytes], dict], None]:
    def change(members: dict[str, bytes], manifest: dict) -> None:
        members[name] = data
        manifest["entries"].append({"name": name, "bytes": len(data), "sha256": sha256(data).hexdigest()})

    return change


def unlisted(members: dict[str, bytes], manifest: dict) -> None:
    members["documents/s1_checkpoint_20260101_000000_000000.json"] = b"{}"


def wrong_digest(members: dict[str, bytes], manifest: dict) -> None:
    entry(manifest, "documents/")["sha256"] = "0" * 64


def lying_size(members: dict[str, bytes], manifest: dict) -> None:
    entry(manifest, "documents/")["bytes"] += 1


def without_attachment(members: dict[str, bytes], manifest: dict) -> None:
    name = entry(manifest, "attachments/")["name"]
    del members[name]
    manifest["entries"] = [one for one in manifest["entries"] if one["name"] != name]


def other_session(members: dict[str, bytes], manifest: dict) -> None:
    manifest["session_id"] = "s2"


def bomb(members: dict[str, bytes], manifest: dict) -> None:
    named("documents/s1_checkpoint_20260101_000000_000000.json", bytes(50 << 20))(members, manifest)


def endless(members: dict[str, bytes], manifest: dict) -> None:
    """A checkpoint whose digests are right, and whose sequence ends the journal."""
    header = Header(session_id="s1", timestamp=datetime.now(UTC), kind=Kind.MANUAL, sequence=2**63 - 1)
    data = b"".join(checkpoint_document(header, {"n": fragment(b"1")}))
    named("documents/s1_checkpoint_20260101_000000_000000.json", data)(members, manifest)


TRICKS = {
    "absolute": named("/etc/passwd"),
    "upwards": named("documents/../../s1.json"),
    "upwards_in_attachments": named(f"attachments/../{'0' * 64}.raw"),
    "backslashes": named("documents\\s1.json"),
    "a_folder": named("documents/"),
    "other_case": named("Documents/s1.json"),
    "no_document": named("documents/.daemon.lock"),
    "another_sessions": named("documents/s2.json", b'{"session_id": "s2"}'),
    "attachment_under_another_digest": named(f"attachments/{'0' * 64}.raw"),
    "unnamed_attachment": named(f"attachments/{sha256(b'x').hexdigest()}.raw"),
    "unlisted": unlisted,
    "wrong_digest": wrong_digest,
    "lying_size": lying_size,
    "without_attachment": without_attachment,
    "other_session": other_session,
    "bomb": bomb,
    "endless": endless,
    "hostile_id": lambda _, manifest: manifest.update(session_id="../s1"),
    "newer": lambda _, manifest: manifest.update(format=2),
    "no_entries": lambda _, manifest: manifest.pop("entries"),
}


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS.keys())
def test_a_hostile_archive_is_refused_by_name(good: bytes, trick: Callable[[dict[str, bytes], dict], None]) -> None:
    look(rebuilt(good, lambda *_: None))
    with pytest.raises(ArchiveRefused):
        look(rebuilt(good, trick))


def test_links_and_two_of_one_name_are_refused(good: bytes) -> None:
    made = io.BytesIO(good)
    with zipfile.ZipFile(made, "a") as packed, pytest.warns(UserWarning, match="Duplicate name"):
        packed.writestr(MANIFEST, b"{}")
    with pytest.raises(ArchiveRefused, match="two entries have the same name"):
        look(made.getvalue())
    link = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as packed, zipfile.ZipFile(link, "w") as linked:
        for info in packed.infolist():
            if info.filename.startswith("documents/"):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            linked.writestr(info, packed.read(info.filename))
    with pytest.raises(ArchiveRefused, match="not a regular file"):
        look(link.getvalue())


def test_an_entry_beyond_all_files_is_refused() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        packed.writestr(MANIFEST, b"{}")
    data = made.getvalue()
    at, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    offset = struct.pack("<HHQ", 1, 8, 2**64 - 1)  # where it begins, in an extra field
    entry = bytearray(data[at:end])
    struct.pack_into("<H", entry, 30, len(offset))
    struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
    tail = bytearray(data[end:])
    struct.pack_into("<L", tail, 12, len(entry) + len(offset))
    with pytest.raises(ArchiveRefused):
        look(data[:at] + bytes(entry) + offset + bytes(tail))


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mutation_of_a_good_archive_is_refused_or_changes_nothing(good: bytes, data: st.DataObject) -> None:
    mutated = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        if data.draw(st.booleans()):
            mutated[at] = data.draw(st.integers(0, 255))
        else:
            del mutated[at : at + data.draw(st.integers(1, 40))]
    try:
        archive = Archive(io.BytesIO(bytes(mutated)))
        archive.verify()
    except ArchiveRefused:
        return
    assert list(archive.members("s1")) == list(Archive(io.BytesIO(good)).members("s1"))


def test_a_refused_archive_leaves_no_trace(home: Home, good: bytes) -> None:
    for name, data in (("bad", rebuilt(good, wrong_digest)), ("none", b"no archive"), ("cut", good[:-100])):
        file = home.folder / name
        home.folder.mkdir(exist_ok=True)
        file.write_bytes(data)
        assert home.json("import", str(file), expect=1)["error"]["code"] == "archive_refused"
    assert not home.sessions.exists()
