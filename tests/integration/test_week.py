"""A week of twenty sessions a day, on real files with a clock that the test moves: what lies on disk stays within its
bounds, and the log tells of each file that is gone by which rule it went.
"""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from threading import Event

import pytest

from edi_checkpoint.catalog import Catalog
from edi_checkpoint.entries import Entry, Mark, Update, encode_entry
from edi_checkpoint.paths import Paths, ensure_private, locate
from edi_checkpoint.records import pack
from edi_checkpoint.sizes import sizes_of
from edi_checkpoint.trash import listed
from edi_checkpointd import inventory
from edi_checkpointd.attachments import Attachments
from edi_checkpointd.checkpointer import Checkpointer, Written
from edi_checkpointd.cleanup import Cleanup
from edi_checkpointd.clock import to_us
from edi_checkpointd.config import Config
from edi_checkpointd.feed import Feed
from edi_checkpointd.fs import Reserve
from edi_checkpointd.journal import Journal
from edi_checkpointd.keeping import Keeping
from edi_checkpointd.ledger import Ledger
from edi_checkpointd.recovery import files_teller
from edi_checkpointd.saving import Saving
from edi_checkpointd.scheduler import Scheduler
from edi_checkpointd.trash import Trash

DAYS = 7
A_DAY = 20 if os.environ.get("EDI_TEST_FULL") == "1" else 6
CONFIG = Config(
    keep_per_session=4, keep_automatic=1, keep_sessions=A_DAY * 2, keep_closed_days=3, trash_days=1.5,
    sessions_max_bytes=A_DAY * 36_000, history_hours=24, history_max_bytes=A_DAY * 60_000, transition_quiet_s=0,
)  # fmt: skip
RULES = {"keep_per_session", "keep_automatic", "keep_sessions", "keep_closed_days", "trash_days", "sessions_max_bytes"}


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.wall = datetime.now(UTC)
        self.stepped = timedelta()  # by how much it was set, which no time has passed for

    def now(self) -> datetime:
        return self.wall + self.stepped

    def monotonic_s(self) -> float:
        return self.wall.timestamp()


class Daemon:
    """The parts of a daemon that keep and forget, as `service` puts them together, but for socket and timers."""

    def __init__(self, paths: Paths, journal: Journal, clock: HandClock) -> None:
        self.paths, self.journal, self.clock = paths, journal, clock
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.catalog = Catalog(paths.sessions)
        self.catalog.load()
        self.scheduler = Scheduler(clock)  # its timers are of this clock, and so go off when we look
        trash = Trash(paths, self.catalog, clock)
        attachments = Attachments(paths.attachments, paths.journal, CONFIG.attachments_max_bytes, clock)
        attachments.count()
        self.ledger = Ledger(journal, attachments, CONFIG, clock, files_teller(paths, self.catalog, trash))

        def written(result: Written) -> None:
            self.calls.put(lambda: self.saving.written(result))

        self.checkpointer = Checkpointer(paths, self.catalog, attachments, CONFIG, clock, written)
        self.saving = Saving(
            self.ledger, self.scheduler, self.checkpointer, Reserve(paths.reserve, 4096), CONFIG, clock, Feed(clock),
            post=self.calls.put, notify=lambda *_: None,
        )  # fmt: skip
        self.keeping = Keeping(
            self.ledger, trash, self.checkpointer, self.scheduler, clock,
            plan=self.plan, aside=lambda work, then: then(work()), post=self.calls.put,
            open_session=lambda session_id: self.ledger.open(session_id)[0],
        )  # fmt: skip
        self.saving.grew = self.keeping.grew
        self.ledger.before_open = self.keeping.opening

    def plan(self, in_memory: frozenset[str], jumped: bool) -> Cleanup:
        now = self.clock.now()
        return inventory.take(
            self.paths, self.catalog, self.journal.read, CONFIG, now, in_memory=in_memory, doubted=jumped
        ).cleanup

    def settle(self) -> None:
        """Do all that is due: what the files thread has told, upkeep, a clean-up."""
        more = True
        while more:
            idle = Event()
            self.checkpointer.delete([], idle.set)
            idle.wait(10)
            while not self.calls.empty():
                self.calls.get()()
                more = True
            more = self.saving.tidy() or self.keeping.step() or self.keeping.pending or not self.calls.empty()

    def look(self) -> None:
        self.keeping.look()
        self.settle()
        for session in list(self.ledger.sessions.values()):
            self.ledger.evict(session)

    def work(self, session_id: str, entries: list[Entry]) -> None:
        """A session from its first entry to its writer's leaving."""
        session, _ = self.ledger.open(session_id)
        stream = self.ledger.attach(session, f"{random.getrandbits(128):032x}", seen=True)
        for number, entry in enumerate(entries, stream.number + 1):
            self.ledger.accept(stream, pack(number, encode_entry(entry)))
            committed = self.ledger.commit()
            for touched, wish in committed.wishes:
                self.saving.wish(touched, wish)
            self.saving.changed(session)
            self.clock.wall += timedelta(seconds=30)
        self.saving.save_now(stream)
        self.settle()
        self.ledger.left(session, cleanly=True)
        self.ledger.forget_stream(stream)
        self.ledger.evict(session)


def session_of(number: int) -> list[Entry]:
    """What a session publishes: stages, each with some changes, a mark, and a clean leave."""
    entries: list[Entry] = []
    for stage in range(6):
        entries.append(Update(0, {"current_stage": b'"stage %d"' % stage, "n": b"%d" % number}))
        entries += [Update(0, {"text": b'"%s"' % (b"%06d" % part * 200)}) for part in range(3)]
        entries.append(Mark(0, "manual", f"step {stage}"))
    return [*entries, Mark(0, "shutdown", "it was left")]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    paths = locate({"EDI_CHECKPOINT_HOME": str(tmp_path / "h")})
    for folder in (paths.sessions, paths.state):
        ensure_private(folder)
    with closing(Journal(paths.journal)) as journal:
        made = Daemon(paths, journal, HandClock())
        yield made
        made.checkpointer.close()
        made.scheduler.close()


def documents(paths: Paths) -> set[str]:
    return {path.name for path in paths.sessions.rglob("*.json")}


def test_a_week_stays_within_its_bounds_and_the_log_explains_every_deletion(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    paths, clock, journal = daemon.paths, daemon.clock, daemon.journal
    ever: set[str] = set()
    for number in range(DAYS * A_DAY):
        begun = clock.wall
        daemon.work(f"session-{number:03}", session_of(number))
        ever |= documents(paths)
        daemon.look()
        sizes = sizes_of(paths, daemon.catalog, {})
        assert sizes["documents"].bytes + sizes["trash"].bytes <= CONFIG.sessions_max_bytes
        assert journal.bytes <= CONFIG.history_max_bytes
        clock.wall = begun + timedelta(days=1 / A_DAY)
    told = "\n".join(record.getMessage() for record in caplog.records)
    rules = dict(re.findall(r"checkpoint deleted name=(\S+) rule=(\w+)", told))
    emptied = dict(re.findall(r"session deleted from the trash session=(\S+) rule=(\w+)", told))
    with_session = {name: emptied[name[: len("session-000")]] for name in re.findall(r"its session name=(\S+)", told)}
    explained, left = rules.keys() | with_session.keys(), documents(paths)
    assert ever - left <= explained
    assert not explained & left
    assert {*rules.values(), *emptied.values()} <= RULES
    assert {"keep_per_session", "sessions_max_bytes"} <= set(rules.values())
    assert set(emptied.values()) & {"trash_days", "sessions_max_bytes"}
    moved = dict(re.findall(r"session moved into the trash session=(\S+) rule=(\w+)", told))
    assert set(moved.values()) <= {"keep_closed_days", "keep_sessions"}
    rows = {row.session_id: row for row in journal.read.sessions()}
    assert rows.keys() == {f"session-{number:03}" for number in range(DAYS * A_DAY)} - emptied.keys()
    thinned = set(re.findall(r"history trimmed session=(\S+) rule=", told)) & rows.keys() - moved.keys()
    assert thinned
    for session_id in rows:
        folder = paths.sessions if session_id not in moved else paths.trash / session_id
        assert (folder / f"{session_id}.json").exists()
    for session_id in thinned:  # the newest state is all there
        state = daemon.ledger.open(session_id)[0].state
        assert state.sequence == len(session_of(0))
        assert {key: value.text for key, value in state.fragments.items()}["n"] == b"%d" % int(session_id[-3:])


def test_by_a_clock_that_looks_wrong_nothing_goes_by_age(daemon: Daemon) -> None:
    clock = daemon.clock
    daemon.journal.remember("cleanup_announced_us", 0)
    daemon.work("left", session_of(1))
    steps = [  # by how much it is set, and how much time passes
        (timedelta(days=400), timedelta()),
        (timedelta(), timedelta(hours=23)),
        (timedelta(days=-402), timedelta(hours=1)),  # before the newest entry
        (timedelta(days=2), timedelta(days=3)),  # right again, three days later: but it has just been set
        (timedelta(), timedelta(hours=23)),
    ]
    for step, passes in steps:
        clock.stepped += step
        clock.wall += passes
        daemon.look()
        assert daemon.catalog.sessions() == ["left"]
    clock.wall += timedelta(hours=2)
    daemon.look()
    assert daemon.catalog.sessions() == []
    assert [one.session_id for one in listed(daemon.paths.trash)] == ["left"]


def state_of(daemon: Daemon, session_id: str) -> dict[str, bytes]:
    session, _ = daemon.ledger.open(session_id)
    return {key: value.text for key, value in session.state.fragments.items()}


def trashed(daemon: Daemon, *session_ids: str) -> None:
    """Sessions that were left, and lie in the trash by now."""
    daemon.journal.remember("cleanup_announced_us", 0)
    for session_id in session_ids:
        daemon.work(session_id, session_of(1))
    daemon.clock.wall += timedelta(days=CONFIG.keep_closed_days)
    daemon.look()
    assert {one.session_id for one in listed(daemon.paths.trash)} == set(session_ids)


def test_what_could_not_come_back_from_the_trash_takes_nothing_of_its_session_along(daemon: Daemon) -> None:
    trashed(daemon, "s")
    (daemon.paths.sessions / "s.json").write_bytes(b'{"session_id": "s", "by": "somebody else"}')
    daemon.catalog.refresh()
    before = state_of(daemon, "s")  # it comes back, but for its auto-save
    daemon.journal.touch(daemon.ledger.sessions["s"].key, to_us(daemon.clock.now()))
    daemon.ledger.evict(daemon.ledger.sessions["s"])
    row = daemon.journal.read.session("s")
    assert {path.name for path in (daemon.paths.trash / "s").iterdir()} == {".trashed", "s.json"}
    daemon.clock.wall += timedelta(days=CONFIG.trash_days)
    daemon.look()
    assert not (daemon.paths.trash / "s").exists()
    assert daemon.journal.read.session("s") == row
    assert state_of(daemon, "s") == before


def test_whoever_opens_a_session_between_a_plan_and_its_carrying_out_keeps_it(daemon: Daemon) -> None:
    daemon.journal.remember("cleanup_announced_us", 0)
    daemon.work("s", session_of(1))
    daemon.clock.wall += timedelta(days=CONFIG.keep_closed_days)
    daemon.keeping.look()
    daemon.ledger.evict(daemon.ledger.open("s")[0])  # somebody was there, and has left
    daemon.settle()
    assert listed(daemon.paths.trash) == []
    daemon.look()
    assert [one.session_id for one in listed(daemon.paths.trash)] == ["s"]
