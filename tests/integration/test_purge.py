"""A purge forgets wholly: real processes, then a search through every byte that the software has written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Home, Publisher, Refused, eventually

from edi_checkpointd.faults import CrashPoint

STEPS = [point for point in CrashPoint if "FORG" in point.name or point is CrashPoint.WAL_EMPTIED]
if os.environ.get("EDI_TEST_FULL") != "1":  # of one session they are all in tests/crash
    STEPS = [CrashPoint.ROWS_FORGOTTEN]
SECRET = "the old lighthouse keeper"  # typed by a person, in every session that is to be forgotten


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home whose daemon, which may be nobody's child, is ended too."""
    made = Home(tmp_path / "h")
    yield made
    stop(made)
    made.close()


def stop(home: Home) -> None:
    assert home.start([sys.executable, "-m", "edi_checkpointd", "stop"]).wait() == 0


def purge(asker: Publisher, *session_ids: str, options: str = "") -> None:
    asker.do(f"client.ask(lambda n: edi_checkpoint.wire.messages.Purge(n, {session_ids!r}{options}), 20)")


def fill(publisher: Publisher, session_id: str) -> None:
    """Give a session all that one may have: values, attachments, checkpoints, a rollback, history."""
    publisher.do(f"session.update(naive_prompt='{SECRET}', n=1, raw=b'{SECRET} of {session_id}')")
    publisher.do("session.checkpoint('one', label='first')")
    publisher.do("session.transition('refinement')")
    publisher.do("session.update(n=2, shared=b'content that both have')")
    publisher.do("session.checkpoint('two', pin=True)")
    publisher.do("session.rollback()")
    publisher.do("session.flush('checkpointed')")


def names_and_bytes(home: Home) -> dict[str, bytes]:
    return {
        str(path.relative_to(home.folder)): path.read_bytes() if path.is_file() else b""
        for path in home.folder.rglob("*")
        if not path.is_socket()
    }


def found(home: Home, *texts: str) -> list[str]:
    """Where any of the texts is found: in names, in bytes, SQLite's free pages and WAL and all."""
    wanted = re.compile("|".join(map(re.escape, texts)).encode())
    held = names_and_bytes(home)
    return sorted(name for name, data in held.items() if wanted.search(name.encode()) or wanted.search(data))


def test_of_a_purged_session_nothing_is_found_and_of_the_others_all(home: Home) -> None:
    home.daemon()
    doomed, other = home.publisher("doomed-session"), home.publisher("other")
    fill(doomed, "doomed-session")
    other.do("session.update(n=1, shared=b'content that both have', own=b'own content')")
    other.do("session.checkpoint('kept')")
    doomed.do("session.close()")
    assert len(found(home, SECRET, "doomed-session")) > 5
    before = home.json("show", "other"), home.history("other"), [p.read_bytes() for p in home.checkpoints("other")]

    purge(other, "doomed-session")

    assert found(home, SECRET, "doomed-session") == []
    after = home.json("show", "other"), home.history("other"), [p.read_bytes() for p in home.checkpoints("other")]
    assert after == before
    assert other.do("session['shared'].decode(), session['own'].decode()") == ["content that both have", "own content"]
    assert len(list((home.sessions / "attachments").glob("*/*.raw"))) == 2
    other.do("session.update(n=2)")
    other.do("session.flush()")
    again = home.publisher("doomed-session")
    assert again.do("dict(session)") == {}


def test_a_session_that_somebody_writes_is_purged_by_takeover_only_and_its_writer_is_told(home: Home) -> None:
    home.daemon()
    writer, asker = home.publisher("doomed-session"), home.publisher()
    fill(writer, "doomed-session")
    with pytest.raises(Refused, match="session_busy") as refused:
        purge(asker, "doomed-session")
    assert refused.value.pid == writer.pid
    assert len(found(home, SECRET)) > 5

    purge(asker, "doomed-session", options=", takeover=True")

    assert found(home, SECRET, "doomed-session") == []
    assert writer.sees("session._stream.fenced is not None")
    for call in ("session.update(n=3)", "session.checkpoint()", "session.flush()"):
        with pytest.raises(Refused, match="SessionPurged session_purged: session doomed-session was purged"):
            writer.do(call)
    writer.do("session.close()")
    writer.do("session = client.session('doomed-session')")
    assert writer.do("dict(session)") == {}


def test_what_a_writer_publishes_that_does_not_hear_of_the_purge_is_kept_nowhere(home: Home) -> None:
    daemon = home.daemon()
    hung, asker = home.publisher("doomed-session"), home.publisher()
    fill(hung, "doomed-session")
    hung.go_deaf()
    purge(asker, "doomed-session", options=", takeover=True")
    hung.do("publish(100, padding=1000, prompt='" + SECRET + "')")
    daemon.kill()
    home.daemon()
    hung.kill()
    asker.do("client.sessions()")
    assert found(home, SECRET, "doomed-session") == []


def test_a_writer_of_a_purged_session_that_comes_back_to_another_daemon_is_told(home: Home) -> None:
    daemon = home.daemon()
    stopped, asker = home.publisher("doomed-session"), home.publisher()
    fill(stopped, "doomed-session")
    stopped.kill(signal.SIGSTOP)
    purge(asker, "doomed-session", options=", takeover=True")
    daemon.kill()
    home.daemon()
    stopped.kill(signal.SIGCONT)
    assert stopped.sees("session._stream.fenced is not None")
    with pytest.raises(Refused, match="SessionPurged"):
        stopped.do("session.update(n=3)")
    assert found(home, SECRET, "doomed-session") == []


def test_a_writer_learns_without_a_daemon_that_its_outbox_is_gone(home: Home) -> None:
    daemon = home.daemon()
    writer, asker = home.publisher("doomed-session"), home.publisher()
    fill(writer, "doomed-session")
    writer.do("session._link._on_error, session._link._on_error_ = (lambda message: None), session._link._on_error")
    purge(asker, "doomed-session", options=", takeover=True")
    daemon.kill()
    assert writer.sees("session._stream.fenced is not None")
    with pytest.raises(Refused, match="SessionPurged"):
        writer.do("session.update(n=3)")


def full(home: Home) -> None:
    """A home with everything in it that there is a place for; nobody writes, no daemon runs."""
    kept = home.publisher("doomed-kept", EDI_CHECKPOINT_AUTOSTART="1")  # a daemon that logs into its file
    dead = home.publisher("doomed-dead")
    fill(kept, "doomed-kept")
    kept.do("session.fork(session_id='doomed-fork')")
    kept.do("session._stream.outbox.append(b'no entry') and session._link.wake()")
    eventually(lambda: list((home.state / "damaged").glob("frame-*")))
    kept.do("client.close()")
    fill(dead, "doomed-dead")
    hung = home.publisher("doomed-fought")
    fill(hung, "doomed-fought")
    hung.go_deaf()
    dead.do("client.session('doomed-fought', takeover=True).update(n=5)")
    hung.do(f"session.update(naive_prompt='{SECRET}, once more')")
    for publisher in (hung, dead):
        publisher.kill()
    eventually(lambda: list(home.sessions.glob("doomed-fought-stranded-*")))
    stop(home)
    trashed = home.sessions / "trash" / "doomed-trashed"
    trashed.mkdir(parents=True)
    for path in home.checkpoints("doomed-dead")[:1]:
        text = path.read_text().replace("doomed-dead", "doomed-trashed")
        (trashed / path.name.replace("doomed-dead", "doomed-trashed")).write_text(text)
    (trashed / ".trashed").write_text('{"trashed": "2026-11-20T00:00:00Z", "rule": "keep_sessions"}')
    (home.sessions / "damaged").mkdir()
    (home.sessions / "damaged" / "doomed-kept.json.1").write_text(f"{SECRET} and so on")
    (home.sessions / ".doomed-kept.json.tmp").write_text(f"{SECRET} and so")
    (home.sessions / "doomed-old_checkpoint_20240101_000000.json").write_text(
        f'{{"session_id": "doomed-old", "state_info": {{"naive_prompt": "{SECRET}"}}}}'
    )
    shutil.copy(home.state / "journal.sqlite", home.state / "damaged" / "journal.sqlite")
    for path in (*home.sessions.rglob("*"), *home.state.rglob("*")):  # as the software would have made them
        path.chmod(0o700 if path.is_dir() else 0o600)
    alone = home.publisher("doomed-alone")
    alone.do(f"session.update(naive_prompt='{SECRET}', raw=b'{SECRET}')")
    alone.kill()
    log = home.state / "daemon.log"
    shutil.copy(log, home.state / "daemon.log.1")
    assert b"doomed-kept" in log.read_bytes()


def test_after_purging_everything_no_byte_tells_of_any_session(home: Home) -> None:
    full(home)
    assert len(found(home, SECRET)) > 20
    home.environment["EDI_CHECKPOINT_AUTOSTART"] = "1"

    told = home.json("purge", "--all", "--yes")

    assert told["left"] == []
    assert len(told["sessions"]) == 8
    assert told["removed"]["checkpoints"] > 10
    assert told["removed"]["entries"] > 20
    assert told["removed"]["attachments"] > 3
    assert found(home, SECRET, "doomed") == []
    assert [path for path in home.sessions.rglob("*") if path.is_file() and path.name[0] != "."] == []
    stop(home)
    assert found(home, SECRET, "doomed") == []
    assert home.json("sessions")["sessions"] == []


@pytest.mark.crash
@pytest.mark.parametrize("point", STEPS, ids=[point.name for point in STEPS])
def test_a_purge_of_everything_ends_the_same_when_it_is_killed_at(point: CrashPoint, home: Home) -> None:
    full(home)
    asker = home.publisher()
    dying = home.start_dying(point.name, 2 if point is CrashPoint.ROWS_FORGOTTEN else 1)
    dying.wait_line("ready ")
    asker.sees("client.connected")
    asker.send("client.ask(lambda n: edi_checkpoint.wire.messages.Purge(n, (), True), 20)")
    assert dying.wait() == -signal.SIGKILL, "\n".join(dying.stderr[-25:])
    asker.kill()
    home.daemon()
    assert found(home, SECRET, "doomed") == []
    assert home.json("sessions")["sessions"] == []


@pytest.mark.parametrize("note", [b"{", b'{"sessions": ["../sessions/kept"], "purge": true}', b'{"sessions": 1}', b""])
def test_a_note_of_a_purge_that_is_none_removes_nothing_and_keeps_no_daemon_from_starting(
    note: bytes, home: Home
) -> None:
    home.daemon()
    writer = home.publisher("kept")
    writer.do("session.update(n=1)")
    writer.do("session.checkpoint('one')")
    writer.do("client.close()")
    stop(home)
    (home.state / "forgetting.json").write_bytes(note)
    daemon = home.daemon()
    assert any("ask for it again" in line for line in daemon.stderr)
    assert home.json("show", "kept")["state_info"] == {"n": 1}
    assert not (home.state / "forgetting.json").exists()


def test_purging_asks_first_and_says_what_it_does_not_do(home: Home) -> None:
    home.daemon()
    writer = home.publisher("doomed-session")
    fill(writer, "doomed-session")
    writer.do("session.fork(session_id='its-fork')")
    for arguments in (["purge", "doomed-session"], ["purge", "doomed-session", "--json"], ["purge", "--yes"]):
        home.command(*arguments, expect=2)
    assert home.json("purge", "doomed-session", "--yes", expect=5)["error"]["code"] == "session_busy"
    assert home.json("purge", "unknown", "--yes", expect=3)["error"]["code"] == "not_found"
    assert len(found(home, SECRET)) > 5

    told = home.json("purge", "doomed-session", "--yes", "--takeover")

    assert {one["session_id"] for one in told["left"]} == {"its-fork"}
    assert home.json("show", "its-fork")["state_info"]["naive_prompt"] == SECRET
    assert home.json("purge", "its-fork", "--yes")["left"] == []
    assert found(home, SECRET, "doomed-session", "its-fork") == []


def test_a_session_that_nobody_knows_is_not_purged(home: Home) -> None:
    home.daemon()
    asker = home.publisher("other")
    asker.do("session.update(n=1)")
    with pytest.raises(Refused, match="not_found"):
        purge(asker, "unknown")
    with pytest.raises(Refused, match="session_id"):
        purge(asker, "../other")
    assert asker.do("session.checkpoint().sequence") == 1 + 1
