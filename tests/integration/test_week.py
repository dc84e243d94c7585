"""A week of twenty sessions a day, on real files with a clock that the test moves: what lies on disk stays within its
bounds, and the log tells of each file that is gone by which rule it went.
"""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.trash import listed
from edi_checkpoint.home.sizes import sizes_of
from edi_checkpoint.system.paths import Paths, ensure_private, locate
from edi_checkpoint.wire.entries import Entry, Mark, Update, encode_entry
from edi_checkpoint.wire.records import pack
from edi_checkpointd.attachments.garbage import GarbageCollector
from edi_checkpointd.attachments.store import AttachmentStore
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.checkpoints.damaged import DamagedDocuments
from edi_checkpointd.checkpoints.writer import CheckpointWriter
from edi_checkpointd.config import Config, LiveConfig
from edi_checkpointd.journal import Journal, JournalDamaged
from edi_checkpointd.recovery.session_files import SessionDocuments
from edi_checkpointd.retention.deletion import Deletion, InUse
from edi_checkpointd.retention.inventory import Planner
from edi_checkpointd.retention.janitor import Janitor
from edi_checkpointd.retention.trash import Trash
from edi_checkpointd.sessions.feed import Feed
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.loading import SessionLoader
from edi_checkpointd.sessions.session import OpenSession
from edi_checkpointd.sessions.upkeep import Upkeep
from edi_checkpointd.system.clock import Jumps, to_us
from edi_checkpointd.system.fs import Reserve
from edi_checkpointd.system.timers import Scheduler
from edi_checkpointd.system.worker import Mailbox, Worker

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
        self.mailbox = Mailbox()
        self.catalog = Catalog(paths.sessions)
        self.catalog.load()
        self.scheduler = Scheduler(clock, self.mailbox.post)  # its timers are of this clock, and go off when we look
        self.files, self.reader = Worker("files", self.mailbox), Worker("requests", self.mailbox)
        config = LiveConfig(CONFIG)
        attachments = AttachmentStore(paths.attachments, paths.journal, CONFIG.attachments_max_bytes, clock)
        attachments.count()
        damaged = DamagedDocuments(paths, self.catalog, self.files)
        collector = GarbageCollector(paths, attachments, self.files, clock, config)
        trash = Trash(paths, self.catalog, journal, clock)
        loader = SessionLoader(journal, SessionDocuments(paths.sessions, self.catalog, trash, damaged), clock, config)
        self.ledger = Ledger(journal, attachments, loader, clock, config)
        self.upkeep = Upkeep(self.ledger, self.scheduler, collector, Reserve(paths.reserve, 4096), clock, config)
        in_use = InUse(clock)
        deletion = Deletion(paths.sessions, self.catalog, in_use, self.files, config)
        planner = Planner(paths, self.catalog, in_use, Jumps(clock), clock, config)
        self.keeping = Janitor(self.ledger, loader, trash, deletion, planner, self.reader, self.scheduler)
        writer = CheckpointWriter(paths, self.catalog, attachments, collector, damaged, self.files, clock, config)
        self.coordinator = Coordinator(
            self.ledger, self.scheduler, writer, self.upkeep, self.keeping, Feed(clock), clock, lambda *_: None
        )

    def settle(self) -> None:
        """Do all that is due: what the files thread has told, upkeep, a clean-up."""
        more = True
        while more:
            for thread in (self.files, self.reader):
                thread.call(lambda: None).result(10)
            self.mailbox.run()
            more = self.upkeep.step() or self.keeping.step() or self.keeping.pending or self.mailbox.waiting

    def look(self) -> None:
        self.keeping.clean_up()
        self.settle()
        for session in list(self.ledger.sessions.values()):
            self.drop(session)

    def drop(self, session: OpenSession) -> None:
        self.ledger.evict(session)
        self.coordinator.release(session)

    def work(self, session_id: str, entries: list[Entry]) -> None:
        """A session from its first entry to its writer's leaving."""
        opened = self.ledger.open(session_id)
        self.coordinator.opened(opened)
        session = opened.session
        stream = self.ledger.attach(session, f"{random.getrandbits(128):032x}", seen=True)
        for number, entry in enumerate(entries, stream.number + 1):
            self.ledger.accept(stream, pack(number, encode_entry(entry)))
            for change in self.ledger.commit().changes:
                self.coordinator.committed(change.session, change.moments)
            self.coordinator.changed(session)
            self.clock.wall += timedelta(seconds=30)
        self.coordinator.save_now(stream)
        self.settle()
        self.ledger.detach(session, cleanly=True)
        self.ledger.delete_stream(stream)
        self.drop(session)


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
        made.files.close()
        made.reader.close()
        made.scheduler.close()
        made.mailbox.close(ignored=JournalDamaged)


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
    session = daemon.ledger.open(session_id).session
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
    daemon.keeping.clean_up()
    daemon.ledger.evict(daemon.ledger.open("s")[0])  # somebody was there, and has left
    daemon.settle()
    assert listed(daemon.paths.trash) == []
    daemon.look()
    assert [one.session_id for one in listed(daemon.paths.trash)] == ["s"]
