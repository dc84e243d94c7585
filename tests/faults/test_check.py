"""`edi-checkpointd check` finds what is damaged and nothing that is only in motion; `--repair` mends it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from harness import Home, eventually
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edi_checkpoint.documents.names import attachment_name
from edi_checkpointd.inspection.findings import Code, Severity

FLAGS = (
    "--transition-keys", "attempt", "--transition-quiet-s", "0.01", "--keep-per-session", "3",
    "--autosave-every-s", "0.1", "--checkpoint-every-s", "0.2", "--collect-every-s", "0.1",
)  # fmt: skip
FULL = os.environ.get("EDI_TEST_FULL") == "1"
LOOKS = 1500 if FULL else 30


def checked(home: Home, *flags: str) -> tuple[int, dict]:
    """Run `edi-checkpointd check --json`; return its exit code and its document."""
    done = subprocess.run(
        [sys.executable, "-m", "edi_checkpointd", "check", "--json", *flags],
        env=home.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 1, done.stderr
    return done.returncode, json.loads(done.stdout)


def codes(told: dict) -> set[str]:
    return {one["code"] for one in told["findings"] if one["severity"] != "note"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home's folder: one session has checkpoints, an auto-save and an attachment, another's writer was killed."""
    home = Home(tmp_path_factory.mktemp("filled") / "h")
    daemon = home.daemon("--autosave-every-s", "3600")
    writer = home.publisher("s1")
    for number in range(3):
        writer.do(f"session.update(n={number}, raw=b'bytes of s1' * 100)")
        writer.do("session.checkpoint()")
    writer.do("session.flush('checkpointed')")
    writer.do("client.close()")
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    other = home.publisher("other")
    other.do("publish(10)")
    other.do("session.flush()")
    daemon.kill()
    other.do("publish(20)")
    home.close()
    return home.folder


@pytest.fixture
def kept(filled: Path, tmp_path: Path) -> Iterator[Home]:
    """A copy of it."""
    shutil.copytree(filled, tmp_path / "h", ignore=shutil.ignore_patterns("*.sock"))
    home = Home(tmp_path / "h")
    home.left_damaged.update(Code)
    yield home
    home.close()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x20
    path.write_bytes(data)


def newest(home: Home) -> Path:
    return home.checkpoints("s1")[-1]


def attachment(home: Home) -> Path:
    (path,) = (home.sessions / "attachments").glob("*/*.raw")
    return path


def segment(home: Home) -> Path:
    (path,) = (home.state / "outbox" / "other").glob("*.seg")
    return path


def in_journal(home: Home, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(home.state / "journal.sqlite")) as database:
        database.execute(statement)
        database.commit()


def lose_the_journal(home: Home) -> None:
    for suffix in ("", "-wal", "-shm"):
        (home.state / f"journal.sqlite{suffix}").unlink()


def rename_away(home: Home) -> None:
    newest(home).rename(newest(home).with_name(newest(home).name.replace("s1_", "s2_")))


def plant_a_link(home: Home) -> None:
    (home.sessions / "s3.json").symlink_to(newest(home))


def plant_a_link_at_the_reserve(home: Home) -> None:
    (home.state / "reserve").unlink(missing_ok=True)
    (home.state / "reserve").symlink_to("/etc/passwd")


def lose_the_lock_file(home: Home) -> None:
    (lock,) = (home.state / "outbox" / "other").glob("*.lock")
    lock.write_bytes(b"{}")


def cut_the_journal(home: Home) -> None:
    in_journal(home, "PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(home.state / "journal.sqlite", 9000)


DAMAGES: list[tuple[Code, Callable[[Home], object]]] = [
    (Code.DOCUMENT_DAMAGED, lambda home: flip(newest(home), 40)),
    (Code.DOCUMENT_DAMAGED, lambda home: flip(newest(home), -400)),
    (Code.DOCUMENT_DAMAGED, lambda home: newest(home).write_bytes(b"")),
    (Code.DOCUMENT_DAMAGED, lambda home: flip(home.sessions / "s1.json", 60)),
    (Code.DOCUMENT_MISNAMED, rename_away),
    (Code.DOCUMENT_DAMAGED, plant_a_link),
    (Code.OUTBOX_DAMAGED, lambda home: flip(segment(home), 30)),
    (Code.OUTBOX_UNOWNED, lose_the_lock_file),
    (Code.JOURNAL_DAMAGED, cut_the_journal),
    (Code.JOURNAL_DAMAGED, lambda home: (home.state / "journal.sqlite").write_bytes(b"no database" * 1000)),
    (Code.JOURNAL_DAMAGED, lambda home: in_journal(home, "UPDATE frames SET records = zeroblob(50) WHERE id = 2")),
    (Code.JOURNAL_DAMAGED, lambda home: in_journal(home, "UPDATE frames SET last = last + 1 WHERE id = 2")),
    (Code.JOURNAL_DAMAGED, lambda home: in_journal(home, "UPDATE streams SET number = 1")),
    (Code.JOURNAL_DAMAGED, lambda home: in_journal(home, "INSERT INTO snapshots VALUES (1, 2, 0, x'c1')")),
    (Code.ENTRIES_MISSING, lambda home: in_journal(home, "DELETE FROM frames WHERE id = 2")),
    (Code.JOURNAL_GONE, lose_the_journal),
    (Code.LINK, plant_a_link_at_the_reserve),
    (Code.MODE, lambda home: newest(home).chmod(0o644)),
    (Code.MODE, lambda home: (home.state / "journal.sqlite").chmod(0o640)),
    (Code.MODE, lambda home: (home.state / "outbox").chmod(0o755)),
    (Code.MODE, lambda home: home.sessions.chmod(0o755)),
]


NAMES = [f"{code}-{number}" for number, (code, _) in enumerate(DAMAGES)]
damaging = pytest.mark.parametrize(("code", "damage"), DAMAGES, ids=NAMES)


@damaging
def test_damage_is_found_and_named(kept: Home, code: Code, damage: Callable[[Home], object]) -> None:
    assert kept.check().findings == ()
    damage(kept)
    found = kept.check().findings
    assert {one.code for one in found} == {code}
    assert all(one.fault and one.remedy and one.severity is Severity.REPAIRABLE for one in found)


def assert_mended(home: Home, wanted: set[Code], n: int = 2) -> None:
    code, told = checked(home, "--repair")
    assert (code, told["result"], codes(told)) == (6, "repaired", wanted)
    assert home.check().findings == ()
    assert home.json("show", "s1")["state_info"]["n"] == n


@pytest.mark.skipif(not FULL, reason="one by one only in the long form")
@damaging
def test_damage_is_mended(kept: Home, code: Code, damage: Callable[[Home], object]) -> None:
    damage(kept)
    assert_mended(kept, {code})


def test_all_of_it_is_mended_at_once_and_a_second_repair_changes_nothing(kept: Home) -> None:
    compatible = (Code.DOCUMENT_DAMAGED, Code.LINK, Code.OUTBOX_DAMAGED, Code.MODE)
    at_once = [(code, damage) for code, damage in DAMAGES if code in compatible or damage is cut_the_journal]
    kept.checkpoints("s1")[0].with_name(".s1_checkpoint.json.tmp").write_bytes(b"half")
    for _, damage in at_once:
        damage(kept)
    assert_mended(kept, {code for code, _ in at_once}, n=1)  # journal, auto-save and newest checkpoint are gone
    assert (kept.sessions / "damaged" / "s1.json").exists()
    assert (kept.state / "damaged" / "journal.sqlite").exists()
    before = every_file(kept)
    code, told = checked(kept, "--repair")
    assert (code, told["result"], told["findings"]) == (0, "clean", [])
    assert every_file(kept).keys() == before.keys()


def every_file(home: Home) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in home.folder.rglob("*.*") if path.suffix != ".sock"}


def test_rows_that_the_witness_has_seen_and_that_are_nowhere_are_lost(kept: Home) -> None:
    (kept.state / "journal.sqlite-wal").unlink()
    (found,) = kept.check().findings
    assert (found.code, found.severity) == (Code.ROWS_MISSING, Severity.REPAIRABLE)  # documents and outboxes have them
    shutil.rmtree(kept.state / "outbox")
    for path in kept.sessions.glob("s1*.json"):
        path.unlink()
    code, told = checked(kept)
    assert (code, told["result"], codes(told)) == (7, "lost", {"rows_missing"})
    assert checked(kept, "--repair")[0] == 7
    assert checked(kept)[0] == 0


def test_numbers_that_never_came_are_lost_unless_a_whole_state_came_after_them(kept: Home) -> None:
    in_journal(kept, "INSERT INTO gaps SELECT key, 1, stream, 1, 5, 0 FROM sessions JOIN streams ON session = key")
    (found,) = kept.check().findings
    assert (found.code, found.severity) == (Code.ENTRIES_NEVER_CAME, Severity.LOST)
    kept.daemon()
    writer = kept.publisher("other")
    writer.do("session._published.replace({'n': b'1'})")
    writer.do("session.flush()")
    assert kept.check().findings == ()


def test_a_checkpoint_whose_attachment_is_damaged_is_told_and_the_attachment_set_aside(kept: Home) -> None:
    in_journal(kept, "DELETE FROM blobs")  # it was killed before it had noted that there is a file
    flip(attachment(kept), 5)
    (found,) = kept.check().findings
    assert (found.code, found.severity) == (Code.ATTACHMENT_DAMAGED, Severity.REPAIRABLE)
    code, told = checked(kept, "--repair")
    assert (code, codes(told)) == (6, {"attachment_missing"})  # nobody can mend that
    assert list((kept.sessions / "damaged").glob("*.raw"))
    kept.daemon()
    writer = kept.publisher("s1")
    writer.do("session.update(raw=b'bytes of s1' * 100)")
    writer.do("session.flush('checkpointed')")
    assert kept.check().findings == ()


def test_what_a_crash_leaves_behind_is_no_damage(kept: Home) -> None:
    with segment(kept).open("ab") as file:
        file.write(segment(kept).read_bytes()[:25])
    (kept.sessions / ".s1.json.tmp").write_bytes(b"half")
    unnamed = kept.sessions / "attachments" / attachment_name(sha256(b"unnamed").hexdigest(), "raw")
    unnamed.parent.mkdir(mode=0o700)
    unnamed.write_bytes(b"unnamed")
    unnamed.chmod(0o600)
    code, told = checked(kept)
    found = {one["code"]: one["severity"] for one in told["findings"]}
    assert found == dict.fromkeys(("outbox_cut_off", "temporary", "attachment_unnamed"), "note")
    assert (code, told["result"]) == (0, "clean")


def test_a_session_of_which_the_trash_was_emptied_half_is_no_damage(kept: Home) -> None:
    gone = kept.sessions / "trash" / "s1"
    gone.mkdir(mode=0o700, parents=True)
    gone.parent.chmod(0o700)
    for path in kept.sessions.glob("s1*.json"):
        path.rename(gone / path.name)
    (gone / ".condemned").write_bytes(b"")
    (gone / ".condemned").chmod(0o600)
    in_journal(
        kept, "DELETE FROM frames WHERE session = (SELECT key FROM sessions WHERE session_id = 's1') AND first = 1"
    )
    assert (checked(kept)[0], codes(checked(kept)[1])) == (0, set())
    (gone / ".condemned").unlink()
    assert codes(checked(kept)[1]) == {"entries_missing"}


def test_verify_reads_what_is_kept_of_one_session_or_of_all_with_and_without_a_daemon(kept: Home) -> None:
    told = kept.json("verify")
    assert (told["result"], told["findings"]) == ("clean", [])
    assert told["checked"] | {"checkpoints": 3, "attachments": 1} == told["checked"]
    flip(newest(kept), 40)
    for begin in (kept.daemon, lambda: None):
        told = kept.json("verify", "s1", expect=6)
        assert (told["result"], codes(told)) == ("repairable", {"document_damaged"})
        assert kept.json("verify", "other")["result"] == "clean"
        begin()
    assert (
        kept.command("verify", "s1", expect=6).splitlines()[0].startswith("damaged; no acknowledged change is lost: ")
    )
    assert kept.json("verify", "nobody", expect=3)["error"]["code"] == "not_found"


@given(st.data())
@settings(max_examples=300 if FULL else 30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_anywhere_ends_in_a_finding_or_is_of_no_consequence(
    filled: Path, tmp_path: Path, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        shutil.copytree(filled, Path(folder) / "h", ignore=shutil.ignore_patterns("*.sock"))
        home = Home(Path(folder) / "h")
        files = sorted(path for path in home.folder.rglob("*") if path.is_file() and path.stat().st_size)
        path = data.draw(st.sampled_from(files))
        at = data.draw(st.integers(0, path.stat().st_size - 1))
        key_at = path.read_bytes().find(b"_edi_checkpoint")  # a flip there makes an auto-save foreign: a known fault
        assume(path.name != "s1.json" or not key_at <= at < key_at + len(b"_edi_checkpoint"))
        flip(path, at)
        found = home.check()
        if path.suffix in (".json", ".raw"):
            assert found.findings


@pytest.mark.crash
def test_beside_a_busy_daemon_and_dying_publishers_nothing_is_ever_found(home: Home) -> None:
    home.daemon(*FLAGS)
    chance = random.Random(os.environ.get("KILL_SEED", "1"))
    writers = {}
    for look in range(LOOKS):
        session_id = f"s{look % 2}"
        if look % 3 == 0:
            if session_id in writers:
                writers.pop(session_id).kill()
            writers[session_id] = home.publisher(session_id)
            padding = chance.choice((0, 300, 3000))
            writers[session_id].send(
                f"[publish(10, pause_s=0.001, padding={padding}, attempt=turn, raw=str(turn).encode())"
                " for turn in range(10_000)]"
            )
        found = [one for one in home.check().findings if one.severity is not Severity.NOTE]
        assert found == []
    assert home.check().checked["entries"] > 0
