from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Home, Process, Publisher, eventually

from edi_checkpoint.wire.entries import Update, encode_entry
from edi_checkpoint.wire.records import pack

JOURNAL = "journal.sqlite"


def carry_over(state: Path) -> None:
    """Bring all that the write-ahead log holds into the database, so that damage there is not healed by it."""
    with contextlib.closing(sqlite3.connect(state / JOURNAL)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def zero_header(state: Path) -> None:
    carry_over(state)
    with (state / JOURNAL).open("r+b") as file:
        file.write(bytes(100))


def truncate(state: Path) -> None:
    carry_over(state)
    os.truncate(state / JOURNAL, 5000)


def overwrite_pages(state: Path) -> None:
    carry_over(state)
    with (state / JOURNAL).open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(12_000))


def overwrite_the_blobs(state: Path) -> None:
    """Where attachments without files are listed, which a start looks at first."""
    carry_over(state)
    with contextlib.closing(sqlite3.connect(state / JOURNAL)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'blobs'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with (state / JOURNAL).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def write_text(state: Path) -> None:
    carry_over(state)
    (state / JOURNAL).write_text("this is no database\n" * 1000)


def delete_all(state: Path) -> None:
    for path in state.glob(f"{JOURNAL}*"):
        path.unlink()


def delete_but_the_log(state: Path) -> None:
    (state / JOURNAL).unlink()


def delete_the_log(state: Path) -> None:
    (state / f"{JOURNAL}-wal").unlink()


def cut_the_log(state: Path) -> None:
    log = state / f"{JOURNAL}-wal"
    os.truncate(log, log.stat().st_size // 2)


def zero_the_logs_end(state: Path) -> None:
    log = state / f"{JOURNAL}-wal"
    size = log.stat().st_size
    with log.open("r+b") as file:
        file.seek(size * 2 // 3)
        file.write(bytes(size - size * 2 // 3))


DAMAGED = [zero_header, truncate, overwrite_pages, overwrite_the_blobs, write_text, cut_the_log, zero_the_logs_end]
DAMAGES = [*DAMAGED, delete_all, delete_but_the_log, delete_the_log]
damaging = pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)

Damage = Callable[[Path], None]


def state_of(home: Home, session_id: str) -> dict:
    return home.json("show", session_id)["state_info"]


def busy_home(home: Home) -> tuple[Process, Publisher]:
    """A daemon and a publisher whose session has entries in a checkpoint, in the auto-save, and in neither."""
    daemon = home.daemon("--transition-keys", "attempt")
    publisher = home.publisher("s1")
    publisher.do("done = client.session('done')")
    publisher.do("done.update(scene={'entities': [1, 2]}, n=1)")
    publisher.do("done.checkpoint('first')")
    publisher.do("done.update(n=2)")
    publisher.do("done.flush('checkpointed')")
    publisher.do("done.close()")
    publisher.do("session.update(scene={'entities': [1, 2]})")
    publisher.do("publish(50)")
    publisher.do("session.checkpoint('first')")
    publisher.do("publish(50)")
    publisher.do("session.flush('checkpointed')")
    publisher.do("[(publish(1), session.flush()) for _ in range(50)]")  # a commit each
    return daemon, publisher


EXPECTED = {"scene": {"entities": [1, 2]}, "n": 150, "current_stage": "150"}


@damaging
def test_without_a_sound_journal_the_states_come_from_files_and_outboxes(home: Home, damage: Damage) -> None:
    daemon, publisher = busy_home(home)
    sequence = publisher.do("session.durable.journaled")
    publisher.kill()
    daemon.kill()
    damage(home.state)
    daemon = home.daemon()
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    if damage in DAMAGED:
        assert (home.state / "damaged" / JOURNAL).exists()
        assert any("set aside" in line for line in daemon.stderr)
    shown = home.json("show", "s1")
    assert (shown["state_info"], shown["condition"]) == (EXPECTED, "interrupted")
    assert shown["sequence"] >= sequence
    assert json.loads(home.checkpoints("s1")[-1].read_bytes())["state_info"] == EXPECTED
    again = home.publisher()
    for session_id, n in (("s1", 150), ("done", 2)):
        again.do(f"session = client.session({session_id!r})")
        assert again.do("session['n']") == n
        assert again.do("session['scene']") == {"entities": [1, 2]}
        again.do("session.update(n=1000)")
        again.do("session.flush('checkpointed')")
        saved = json.loads((home.sessions / f"{session_id}.json").read_bytes())
        assert (saved["n"], saved["scene"]) == (1000, {"entities": [1, 2]})


@pytest.mark.parametrize("damage", [zero_header, zero_the_logs_end, delete_all, delete_the_log])
def test_a_publisher_that_lives_through_the_loss_of_the_journal_needs_nothing_done(home: Home, damage: Damage) -> None:
    daemon, publisher = busy_home(home)
    daemon.kill()
    damage(home.state)
    publisher.do("publish(10)")
    home.daemon()
    publisher.do("publish(10)")
    publisher.do("session.flush(timeout_s=20)")
    told = publisher.do("session.checkpoint('after')")
    assert json.loads((home.sessions / told["name"]).read_bytes())["state_info"] == {
        **EXPECTED,
        "n": 170,
        "current_stage": "170",
    }
    sequences = [entry["sequence"] for entry in home.history("s1")]
    assert sequences == sorted(set(sequences))
    publisher.kill()
    assert home.publisher("s1").do("session['n']") == 170


def flip_bits(state: Path) -> None:
    """In the values of rows, where SQLite has no use for them."""
    carry_over(state)
    data = (state / JOURNAL).read_bytes()
    assert data.count(b"current_stage") > 50
    (state / JOURNAL).write_bytes(data.replace(b"current_stage", b"currend_stage"))


def test_bits_that_flipped_in_a_row_are_found_by_its_checksum_and_the_states_come_from_files(home: Home) -> None:
    daemon, publisher = busy_home(home)
    publisher.kill()
    daemon.kill()
    flip_bits(home.state)
    daemon = home.daemon()
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    assert state_of(home, "s1") == EXPECTED
    assert (home.state / "damaged" / JOURNAL).exists()
    assert any("journal set aside" in line and "begins no whole record" in line for line in daemon.stderr)
    found = {trouble["code"]: trouble["message"] for trouble in home.json("status")["degraded"]}
    assert "begins no whole record" in found["journal_begun_anew"]


def replace_with_an_older_copy(state: Path) -> None:
    shutil.copy(state / JOURNAL, state / "copy")
    (state / "copy").rename(state / JOURNAL)


def truncate_under_the_daemon(state: Path) -> None:
    os.truncate(state / JOURNAL, 5000)


def zero_under_the_daemon(state: Path) -> None:
    with (state / JOURNAL).open("r+b") as file:
        file.write(bytes(40_000))


UNDER_THE_DAEMON = [delete_the_log, replace_with_an_older_copy, truncate_under_the_daemon]
if os.environ.get("EDI_TEST_FULL"):
    UNDER_THE_DAEMON += [delete_all, delete_but_the_log, zero_under_the_daemon]


@pytest.mark.parametrize("damage", UNDER_THE_DAEMON, ids=lambda damage: damage.__name__)
def test_a_journal_damaged_under_the_daemon_costs_its_next_one_nothing_that_was_acknowledged(
    home: Home, damage: Damage
) -> None:
    daemon, publisher = busy_home(home)
    damage(home.state)
    publisher.do("publish(10)")  # a commit that would go nowhere ends the daemon; so does a look that meets the damage
    home.json("status")
    assert daemon.wait() == 1
    assert (home.folder / "run" / "daemon.sock").exists()  # as after a death: clients have another started
    publisher.do("publish(10)")
    home.daemon()
    publisher.do("session.flush(timeout_s=20)", timeout_s=30)
    assert state_of(home, "s1") == {**EXPECTED, "n": 170, "current_stage": "170"}
    assert home.json("status")["safe"] is True


@pytest.mark.parametrize("damage", [zero_header, cut_the_log])
def test_a_daemon_that_met_a_damaged_journal_starts_anew_without_complaint(home: Home, damage: Damage) -> None:
    daemon, publisher = busy_home(home)
    publisher.kill()
    daemon.kill()
    damage(home.state)
    home.daemon().kill()
    again = home.daemon()
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    assert not any("set aside" in line for line in again.stderr)
    assert state_of(home, "s1") == EXPECTED


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_next_good_one_is_used(home: Home) -> None:
    daemon = home.daemon("--autosave-every-s", "3600")
    publisher = home.publisher("s1")
    for number in range(3):
        publisher.do(f"session.update(n={number}, answer='typed by hand')")
        publisher.do("session.checkpoint()")
    publisher.do("session.close()")
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    daemon.kill()
    delete_all(home.state)
    (home.sessions / "s1.json").unlink(missing_ok=True)
    *_, good, bad = home.checkpoints("s1")
    bad.write_bytes(bad.read_bytes().replace(b"typed by hand", b"typed by hanD"))
    home.daemon()
    assert home.publisher("s1").do("dict(session)") == {"n": 1, "answer": "typed by hand"}
    assert not bad.exists()
    assert good.exists()
    assert (home.sessions / "damaged" / bad.name).exists()


@pytest.mark.leaves("document_damaged")
@pytest.mark.parametrize("how", ["empty", "half", "zeroed"])
def test_a_checkpoint_that_lost_its_bytes_stands_in_nobodys_way(home: Home, how: str) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    for number in range(3):
        publisher.do(f"session.update(n={number})")
        publisher.do("session.checkpoint()")
    publisher.kill()
    daemon.kill()
    newest = home.checkpoints("s1")[-1]
    data = newest.read_bytes()
    newest.write_bytes({"empty": b"", "half": data[: len(data) // 2], "zeroed": bytes(len(data))}[how])
    home.daemon()
    publisher = home.publisher("s1")
    assert publisher.do("dict(session)") == {"n": 2}
    publisher.do("session.update(n=3)")
    told = publisher.do("session.checkpoint()")
    assert json.loads((home.sessions / told["name"]).read_bytes())["state_info"] == {"n": 3}


def test_a_home_without_any_journal_or_outbox_is_restored_from_checkpoints_alone(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1, scene={'entities': []})")
    publisher.do("session.checkpoint('one')")
    publisher.do("session.close()")
    daemon.kill()
    shutil.rmtree(home.state)
    (home.sessions / "s1.json").unlink(missing_ok=True)
    home.daemon()
    assert state_of(home, "s1") == {"n": 1, "scene": {"entities": []}}
    publisher = home.publisher("s1")
    assert publisher.do("dict(session)") == {"n": 1, "scene": {"entities": []}}
    publisher.do("session.update(n=2)")
    assert publisher.do("session.checkpoint('two')")["sequence"] > 1


def test_a_session_file_newer_than_all_checkpoints_is_what_a_home_without_journal_continues_from(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1, scene={'entities': []})")
    publisher.do("session.checkpoint('one')")
    publisher.do("session.update(n=2)")
    publisher.do("session.flush('checkpointed')")
    publisher.kill()
    daemon.kill()
    shutil.rmtree(home.state)
    home.daemon()
    publisher = home.publisher("s1")
    assert publisher.do("dict(session)") == {"n": 2, "scene": {"entities": []}}
    publisher.do("session.update(m=3)")
    told = publisher.do("session.checkpoint('two')")
    assert json.loads((home.sessions / told["name"]).read_bytes())["state_info"] == {
        "n": 2,
        "scene": {"entities": []},
        "m": 3,
    }


def test_a_look_back_never_shows_a_state_put_together_over_a_gap(home: Home) -> None:
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(early=1)")
    publisher.do("session.flush()")
    shutil.copytree(home.state, home.folder / "older")
    publisher.do("[session.update(n=number) for number in range(10)]")
    publisher.do("session.flush('checkpointed')")
    publisher.kill()
    daemon.kill()
    shutil.rmtree(home.state)
    (home.folder / "older").rename(home.state)  # a restored backup: the journal is behind the files
    shutil.rmtree(home.state / "outbox")
    home.daemon()
    publisher = home.publisher("s1")
    assert publisher.do("dict(session)") == {"early": 1, "n": 9}
    publisher.do("session.update(n=10)")
    publisher.do("session.flush()")
    known = {1: {"early": 1}, 11: {"early": 1, "n": 9}, 12: {"early": 1, "n": 10}}
    for sequence in (1, 2, 10, 11, 12, 13):
        shown = home.json("show", "s1", "--sequence", str(sequence), expect=0 if sequence in known else 3)
        if sequence in known:
            assert shown["state_info"] == known[sequence]
        else:
            assert shown["error"]["code"] == "not_found"


@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_state_whose_history_is_trimmed_to_nothing_survives_the_daemon(home: Home, checkpointed: bool) -> None:
    flags = ("--history-hours", "0", "--autosave-every-s", "3600", "--checkpoint-every-s", "3600")
    daemon = home.daemon(*flags, "--transition-keys", "attempt")
    publisher = home.publisher("s1")
    publisher.do("session.update(answer='typed by hand')")
    if checkpointed:
        publisher.do("session.checkpoint()")
    publisher.do("publish(200, padding=10_000)")
    publisher.do("session.flush()")
    eventually(lambda: len(home.journaled("s1")["s1"]) < 200)
    daemon.kill()
    home.daemon(*flags, "--transition-keys", "attempt")
    publisher.kill()
    again = home.publisher("s1")
    assert (again.do("session['answer']"), again.do("session['n']")) == ("typed by hand", 200)
    told = again.do("session.checkpoint()")
    assert json.loads((home.sessions / told["name"]).read_bytes())["state_info"]["answer"] == "typed by hand"


@pytest.mark.leaves("mode", "outbox_unowned")
def test_rubbish_in_the_outbox_folder_is_left_alone_and_stands_in_nobodys_way(home: Home) -> None:
    outbox = home.state / "outbox"
    for folder in ("s1", "s[1]", "not a session", "empty"):
        (outbox / folder).mkdir(parents=True)
    (outbox / "s1" / f"{'0' * 32}.lock").write_bytes(b"{}")
    (outbox / "s1" / f"{'1' * 32}.lock").write_bytes(b"\0" * 100)
    (outbox / "s1" / f"{'1' * 32}.00000000.seg").write_bytes(b"\xff" * 1000)
    (outbox / "file").write_bytes(b"?")
    daemon = home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    publisher.do("session.checkpoint()")
    publisher.kill()
    eventually(lambda: any("interrupted" in line for line in daemon.stderr))
    assert home.publisher("s1").do("dict(session)") == {"n": 1}
    assert daemon.popen.poll() is None


def a_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path, _: Path) -> None:
    path.mkdir()


def a_link(path: Path, other: Path) -> None:
    path.symlink_to(other)


def a_second_name(path: Path, other: Path) -> None:
    path.hardlink_to(other)


def zeros(path: Path, _: Path) -> None:
    path.write_bytes(bytes(1000))


PLANTS = [a_pipe, a_folder, a_link, a_second_name, zeros]


def test_what_is_no_outbox_under_its_name_is_set_aside_and_told_of_and_holds_nobody_up(home: Home) -> None:
    writer = home.publisher()
    writer.do("held = {name: client.session(name) for name in %r}" % [plant.__name__ for plant in PLANTS])
    writer.do("[session.update(n=1) for session in held.values()]")
    writer.kill()
    precious = home.folder / "precious"
    precious.write_text("of somebody else")
    for plant in PLANTS:
        (lock,) = (home.state / "outbox" / plant.__name__).glob("[!.]*.lock")
        plant(lock.with_suffix(".00000001.seg"), precious)
    assert state_of(home, "a_pipe") == {"n": 1}  # by a command alone
    assert home.json("status")["unacknowledged"] == len(PLANTS)
    daemon = home.daemon()
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    for plant in PLANTS:
        assert state_of(home, plant.__name__) == {"n": 1}
        assert any("not readable to its end" in line and plant.__name__ in line for line in daemon.stderr)
    assert len(list((home.state / "damaged").glob("*.00000001.seg"))) == len(PLANTS)
    assert "outbox_damaged" in [trouble["code"] for trouble in home.json("status")["degraded"]]
    assert precious.read_text() == "of somebody else"


def test_an_entry_that_is_none_is_kept_apart_and_takes_no_other_with_it(home: Home) -> None:
    writer = home.publisher("s1")
    writer.do("publish(3)")
    writer.kill()
    (segment,) = (home.state / "outbox" / "s1").glob("*.seg")
    with segment.open("ab") as file:
        file.write(pack(4, b"no entry") + pack(5, encode_entry(Update(1, {"n": b"5"}))))
    daemon = home.daemon()
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    assert state_of(home, "s1")["n"] == 5
    assert "entries_refused" in [trouble["code"] for trouble in home.json("status")["degraded"]]
    assert any("entries refused session=s1 upto=4" in line for line in daemon.stderr)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_what_is_no_session_file_under_its_name_is_set_aside_and_saving_goes_on(home: Home, plant) -> None:
    home.sessions.mkdir(parents=True, mode=0o700)
    precious = home.folder / "precious"
    precious.write_text("of somebody else")
    plant(home.sessions / "s1.json", precious)
    publisher = home.publisher("s1")  # finds its state by the files alone
    home.daemon()
    publisher.do("session.update(n=1)")
    publisher.do("session.flush('checkpointed', timeout_s=10)")
    assert json.loads((home.sessions / "s1.json").read_bytes())["n"] == 1
    assert (home.sessions / "damaged" / "s1.json").lstat()
    assert precious.read_text() == "of somebody else"


def test_a_torn_end_of_a_dead_publishers_outbox_costs_only_what_was_never_published(home: Home) -> None:
    publisher = home.publisher("s1")
    publisher.do("publish(100)")
    publisher.kill()
    (segment,) = (home.state / "outbox" / "s1").glob("*.seg")
    with segment.open("ab") as file:
        file.write(segment.read_bytes()[:20])  # a header whose entry is cut off
    home.daemon()
    eventually(lambda: not (home.state / "outbox" / "s1").exists())
    entries = home.journaled("s1")["s1"]
    assert [entry["values"]["n"] for entry in entries] == list(range(1, 101))


def test_a_damaged_checkpoint_that_is_read_from_a_running_daemon_is_set_aside_and_told_of(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    for number in range(3):
        publisher.do(f"session.update(n={number})")
        publisher.do("session.checkpoint()")
    first, bad, newest = home.checkpoints("s1")
    bad.write_bytes(bad.read_bytes().replace(b'"n": 1', b'"n": 7'))
    assert home.json("show", "s1", "@2", expect=6)["error"]["code"] == "document_damaged"
    eventually(lambda: (home.sessions / "damaged" / bad.name).exists() and not bad.exists())
    assert [row["name"] for row in home.json("log", "s1")["checkpoints"]] == [first.name, newest.name]
    assert home.json("show", "s1", "@2")["state_info"] == {"n": 0}
    assert [one["code"] for one in home.json("status")["degraded"]] == ["documents_damaged"]
