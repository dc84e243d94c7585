"""The daemon dies at every durable step there is, under load; what was acknowledged is there, once and in order."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from harness import Home, Process, Publisher, Refused, eventually

from edi_checkpoint.document import parse_autosave, parse_checkpoint
from edi_checkpoint.names import attachment_name, parse_checkpoint_name
from edi_checkpoint.references import references
from edi_checkpointd.faults import CrashPoint

FLAGS = (
    "--transition-keys", "attempt", "--transition-quiet-s", "0.02", "--keep-per-session", "3",
    "--autosave-every-s", "0.1", "--checkpoint-every-s", "0.3", "--collect-every-s", "0.1",
)  # fmt: skip
HITS = (1, 2, 3) if os.environ.get("EDI_TEST_FULL") == "1" else (1,)
ONCE = {CrashPoint.JOURNAL_SET_ASIDE, CrashPoint.RECOVERED}  # reached once in the life of a daemon
REACHED_WITHIN_S = 20.0
TURNS = 8


def attempt(publisher: Publisher, code: str) -> bool:
    """Have it done, daemon or not: who waits for a daemon that has died is told so, and nothing else may fail."""
    try:
        publisher.do(code)
    except Refused as refused:
        if refused.type not in ("FlushTimeout", "DaemonUnavailable"):
            raise
        return False
    return True


def damage_journal(home: Home) -> None:
    for path in home.state.glob("journal.sqlite-wal"):
        path.unlink()
    (home.state / "journal.sqlite").write_bytes(b"damaged" * 10_000)


def load(home: Home, daemon: Process, writer: Publisher) -> list[Publisher]:
    """Do what leads through all durable steps, until the daemon has died of one; return the publishers that died."""
    others: list[Publisher] = []

    def other_dies() -> None:
        alone = daemon.popen.poll() is not None
        other = home.start_publisher("other")
        others.append(other)
        other.send("publish(50, pause_s=0.0005, attempt=1, raw=b'of another')")
        wanted = "= " if alone else "acked "
        eventually(lambda: other.has_said(wanted) or (not alone and daemon.popen.poll() is not None))
        other.kill()

    def transition_and_mark(number: int) -> None:
        writer.do(f"session.update(attempt={number}, raw=[b'{number}', bytes({number})])")
        attempt(writer, f"session.checkpoint('mark {number}', timeout_s=0.2)")

    def goes_back(turn: int) -> None:
        """Back to the checkpoint before, which is pinned for a while, and to a fork of it."""
        if attempt(writer, "told = session.rollback()") and attempt(writer, "session.amend(told.name, pinned=True)"):
            attempt(writer, f"session.fork(told, session_id='fork-{turn}')")
            attempt(writer, "session.amend(told.name, pinned=False)")

    def fought_over() -> None:
        """A writer that hears nothing is taken over, and publishes on before it dies."""
        hung, taker = home.publisher("fought"), home.publisher()
        hung.do("publish(20)")
        hung.go_deaf()
        taker.do("session = client.session('fought', takeover=True)")
        taker.do("session.update(taken=True)")
        hung.do("publish(10)")
        hung.kill()
        eventually(lambda: stranded(home) or daemon.popen.poll() is not None)
        taker.kill()

    for turn in range(TURNS):
        steps = [
            lambda: writer.do("publish(250, padding=5000)"),  # more than the rows that a snapshot is due after
            *(lambda number=turn * 5 + part: transition_and_mark(number) for part in range(5)),
            lambda: attempt(writer, "session.flush('checkpointed', timeout_s=0.2)"),
            lambda turn=turn: goes_back(turn),
            other_dies,
            other_dies,  # and goes on with the session of the one before
            fought_over,
        ]
        for step in steps:
            step()
            if daemon.popen.poll() is not None:
                break
        else:
            continue
        break
    if not others:
        other_dies()
    return others


def stranded(home: Home) -> list[Path]:
    """The checkpoints of branches."""
    return [path for path in home.sessions.glob("fought-stranded-*_checkpoint_*.json") if not path.name.startswith(".")]


def assert_nothing_is_lost_on_either_side(home: Home) -> None:
    """Of each fight over a session: it has what was published before, its branch what was published after."""
    parsed = [parse_checkpoint(path.read_bytes(), path.name) for path in stranded(home)]
    branches = {document.header.session_id: document for document in parsed if document.header.kind == "stranded"}
    for session_id, document in branches.items():
        assert document.header.parent_session == "fought"
        assert numbers(home.journaled(session_id)[session_id]) == list(range(21, 31))
        assert document.values["n"] == b"30"
    if branches:
        held = numbers(home.journaled("fought")["fought"])
        assert sorted(held) == sorted(list(range(1, 21)) * (len(held) // 20))
        assert home.json("show", "fought")["state_info"]["n"] == 20


def assert_the_state_is_what_the_history_says(home: Home, session_id: str) -> None:
    """Rollbacks and all: folded anew, entry by entry, the history gives what is shown."""
    state: dict = {}
    for entry in home.journaled(session_id)[session_id]:
        state = entry["values"] if entry["op"] in ("base", "rollback") else {**state, **entry["values"]}
    assert home.json("show", session_id)["state_info"] == state


def assert_no_file_is_torn(home: Home) -> None:
    for path in home.sessions.glob("*.json"):
        if path.name.startswith("."):
            continue
        parse = parse_checkpoint if parse_checkpoint_name(path.name) else parse_autosave
        assert parse(path.read_bytes(), path.name).header.session_id in path.name


def assert_no_checkpoint_was_made_twice(home: Home, session_id: str) -> None:
    headers = [parse_checkpoint(path.read_bytes(), path.name).header for path in home.checkpoints(session_id)]
    made = Counter((header.sequence, header.kind, header.reason) for header in headers)
    assert {key: count for key, count in made.items() if count > 1} == {}


def numbers(entries: list[dict]) -> list[int]:
    return [entry["values"]["n"] for entry in entries if entry["op"] == "update" and "n" in entry["values"]]


def plant_unnamed(home: Home) -> list[Path]:
    """Put attachments there that nothing names, old enough to be collected."""
    planted = []
    for number in range(4):
        path = home.sessions / "attachments" / attachment_name(f"{number:064}", "raw")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"nothing names it")
        os.utime(path, (1e9, 1e9))
        planted.append(path)
    return planted


def assert_attachments_are_whole(home: Home) -> None:
    """Whatever a visible document names is in a file, bit for bit, at any moment."""
    for path in home.sessions.glob("*.json"):
        if path.name.startswith("."):
            continue
        parse = parse_checkpoint if parse_checkpoint_name(path.name) else parse_autosave
        for text in parse(path.read_bytes(), path.name).values.values():
            for _, reference in references(msgspec.json.decode(text)):
                file = home.sessions / "attachments" / attachment_name(reference.sha256, reference.type)
                assert sha256(file.read_bytes()).hexdigest() == reference.sha256


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.tmp")]


@pytest.mark.crash
@pytest.mark.parametrize("hits", HITS)
@pytest.mark.parametrize("point", CrashPoint)
def test_what_was_acknowledged_survives_the_daemons_death_at(point: CrashPoint, hits: int, home: Home) -> None:
    if hits > 1 and point in ONCE:
        pytest.skip("reached once in the life of a daemon")
    set_aside = point is CrashPoint.JOURNAL_SET_ASIDE
    healthy = home.daemon(*FLAGS)
    writer = home.publisher("s1")
    writer.do("publish(50)")
    attempt(writer, "session.checkpoint('before')")
    writer.do("publish(50)")
    healthy.kill()
    unnamed = plant_unnamed(home)
    if set_aside:
        damage_journal(home)

    dying = home.start_dying(point.name, hits, *FLAGS)
    with contextlib.suppress(AssertionError):  # at some points it dies before it is ready
        dying.wait_line("ready ")
    others = load(home, dying, writer)
    dying.wait(REACHED_WITHIN_S)
    assert dying.popen.returncode == -signal.SIGKILL, f"{point.name} was not reached"
    assert_no_file_is_torn(home)
    assert_attachments_are_whole(home)
    acknowledged = writer.acknowledged
    if not set_aside:
        held = home.journaled("s1")["s1"]
        assert len(held) >= acknowledged
        assert numbers(held) == list(range(1, len(numbers(held)) + 1))

    home.daemon(*FLAGS)
    published = writer.do("publish(20)")
    writer.do("session.flush(timeout_s=20)")
    told = writer.do("session.checkpoint('last')")
    eventually(lambda: not (home.state / "outbox" / "other").exists())
    held = home.journaled("s1", "other")
    if not set_aside:
        assert numbers(held["s1"]) == list(range(1, published + 1))
        assert [entry["sequence"] for entry in held["s1"]] == list(range(1, len(held["s1"]) + 1))
    assert writer.stderr == []
    assert_runs_are_whole(held["other"], others, set_aside=set_aside)
    assert_no_file_is_torn(home)
    for session_id in ("s1", "other"):
        assert_no_checkpoint_was_made_twice(home, session_id)
    document = parse_checkpoint((home.sessions / told["name"]).read_bytes(), told["name"])
    assert document.values["n"] == str(published).encode()
    if "attempt" in document.values:  # else it died before the first
        assert writer.do("session['raw'][0].decode()") == document.values["attempt"].decode()
    assert_attachments_are_whole(home)
    eventually(lambda: writer.do("session.update(turn=1)") or not any(path.exists() for path in unnamed))
    writer.do("client.close()")
    eventually(lambda: list((home.state / "outbox").iterdir()) == [] and temporaries(home.sessions) == [])
    if not set_aside:
        assert_nothing_is_lost_on_either_side(home)
        assert_the_state_is_what_the_history_says(home, "s1")
        for row in home.json("sessions")["sessions"]:
            if row["session_id"].startswith("fork-") and row["sequence"]:
                assert row["parent_session"] == "s1"
                assert_the_state_is_what_the_history_says(home, row["session_id"])
    rows = {row["session_id"]: row for row in home.json("sessions")["sessions"]}
    assert rows["s1"]["condition"] == "unfinished"
    if held["other"]:  # else it was killed before it had published anything
        assert rows["other"]["condition"] == "interrupted"


def assert_runs_are_whole(entries: list[dict], others: list[Publisher], *, set_aside: bool) -> None:
    """Each publisher's entries stand there from its first on, once and in order, with all that were acknowledged."""
    runs: list[list[int]] = []
    for number in numbers(entries):
        if number == 1:
            runs.append([])
        runs[-1].append(number)
    assert all(run == list(range(1, len(run) + 1)) for run in runs)
    if not set_aside:
        wrote = [other for other in others if other.acknowledged]
        assert len(runs) >= len(wrote)
        assert sorted(map(len, runs), reverse=True) >= sorted((other.acknowledged for other in wrote), reverse=True)
