"""The clean-up of a home: which checkpoints go, which sessions go into the trash, and which leave it for good. Pure.

A session goes as a whole: when it was left, and so many newer ones were, or so long ago. It waits in the trash, and can
be brought back. Bytes come last: beyond `sessions_max_bytes` the trash is emptied earlier, then checkpoints go that
numbers alone keep. What is told apart here for each session and each checkpoint, with its rule, is what is carried out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from edi_checkpoint.documents.trash import Trashed
from edi_checkpoint.model import AUTOMATIC, NOT_OURS
from edi_checkpointd.config import Config
from edi_checkpointd.retention.rules import Dropped, Kept, Own, Plan, StoredCheckpoint, plan_session

_BY_NUMBER: Final = frozenset({"keep_automatic", "keep_per_session", "keep_best", "keep_stages"})  # not by promise


class SessionFacts(NamedTuple):
    """A session as it stands: its condition, when it was last changed, its checkpoints and all its documents' bytes.

    `ours` says that all of its documents can be read and were written by us, `in_use` that it is in the daemon's
    memory, or that an outbox of it lies there.
    """

    session_id: str
    condition: str
    updated: datetime
    held: tuple[StoredCheckpoint, ...]
    size_bytes: int
    own: Own = Own()
    ours: bool = True
    in_use: bool = False
    journaled: datetime | None = None  # the newest of its changes that the journal could do without


class SetAside(NamedTuple):
    """A file that was set aside as damaged, and when (seconds since 1970)."""

    path: Path
    size_bytes: int
    since_s: float


class KeptSession(NamedTuple):
    """A session that stays, and all reasons why."""

    session_id: str
    reasons: tuple[str, ...]


class Departure(NamedTuple):
    """A session that goes, into the trash or out of it, by the rule named: a setting's key."""

    session_id: str
    rule: str
    bytes: int


class Thinned(NamedTuple):
    """A session of which single changes go from the journal, by the rule named."""

    session_id: str
    rule: str


class Cleanup(NamedTuple):
    """What stays and what goes.

    `keep` and `drop` are the checkpoints of `sessions`, those that stay; the sessions of `trash` go into the trash with
    all they have, those of `empty` are deleted from it; of those of `history` the journal keeps the newest state alone
    (beyond `history_max_bytes` as many as it takes); the files of `damaged`, set aside, are deleted. `spare_bytes` is
    by how much documents may grow afterwards; it is negative when those that no rule may delete exceed
    `sessions_max_bytes`. `due` is when the next will go by age.
    """

    keep: tuple[Kept, ...] = ()
    drop: tuple[Dropped, ...] = ()
    sessions: tuple[KeptSession, ...] = ()
    trash: tuple[Departure, ...] = ()
    empty: tuple[Departure, ...] = ()
    history: tuple[Thinned, ...] = ()
    damaged: tuple[SetAside, ...] = ()
    spare_bytes: int = 0
    due: datetime | None = None


def plan_cleanup(
    standings: Sequence[SessionFacts],
    trashed: Sequence[Trashed],
    config: Config,
    now: datetime,
    *,
    doubted: bool = False,
    exempt: Collection[str] = (),
    set_aside: Collection[SetAside] = (),
) -> Cleanup:
    """Return what becomes of the sessions `standings` and of those in the trash, at `now`.

    `doubted`: the clock looks wrong, and nothing goes by age, nor by the order of sessions' times. `exempt` names
    checkpoints in use, `set_aside` the files that were set aside as damaged.
    """
    kept, leaving = _sessions(standings, config, now, doubted=doubted)
    gone = {one.session_id for one in leaving}
    staying = [standing for standing in standings if standing.session_id not in gone]
    plans = {one.session_id: plan_session(one.held, one.own, config, exempt) for one in staying}

    grace = timedelta(days=config.trash_days)
    over = [one for one in trashed if not doubted and _passed(one.trashed, grace, now)]
    empty = [Departure(one.session_id, "trash_days", one.size_bytes) for one in over]

    total = sum(one.size_bytes for one in standings) + sum(one.size_bytes for one in trashed)
    total -= sum(one.bytes for one in empty) + sum(drop.bytes for one in plans.values() for drop in one.drop)
    excess = total - config.sessions_max_bytes
    for one in sorted(trashed, key=lambda one: (one.trashed, one.session_id)):
        if excess > 0 and one not in over:
            empty.append(Departure(one.session_id, "sessions_max_bytes", one.size_bytes))
            excess -= one.size_bytes
    dropped: dict[str, Dropped] = {}
    for held in _given_up(staying, plans):
        if excess > 0:
            dropped[held.name] = Dropped(held.name, "sessions_max_bytes", held.size_bytes)
            excess -= held.size_bytes

    emptied = {one.session_id for one in empty}
    ages = [_after(one.trashed, grace) for one in trashed if one.session_id not in emptied]
    ages += [_after(now, grace) for _ in leaving]
    ages += [_after(one.journaled, _window(config)) for one in staying if one.journaled and not one.in_use]
    ages += [at for one in staying if (at := goes_at(one, config))]
    return Cleanup(
        keep=tuple(keep for plan in plans.values() for keep in plan.keep if keep.name not in dropped),
        drop=(*(drop for plan in plans.values() for drop in plan.drop), *dropped.values()),
        sessions=kept,
        trash=leaving,
        empty=tuple(empty),
        history=tuple(_past_window(staying, config, now, doubted=doubted)),
        damaged=tuple(_oldest_beyond(set_aside, config.damaged_max_bytes)),
        spare_bytes=-excess,
        due=min(ages, default=None),
    )


def _sessions(
    standings: Sequence[SessionFacts], config: Config, now: datetime, *, doubted: bool
) -> tuple[tuple[KeptSession, ...], tuple[Departure, ...]]:
    """Return which sessions stay and which go, newest first."""
    kept, leaving, counted = [], [], 0
    for one in sorted(standings, key=lambda one: (one.updated, one.session_id), reverse=True):
        reasons = _bound(one)
        if not reasons:
            counted += 1
            old = _passed(one.updated, timedelta(days=config.keep_closed_days), now)
            if doubted:
                reasons = ("clock_doubted",)
            elif not old and counted <= config.keep_sessions:
                reasons = ("keep_sessions", "keep_closed_days")
            else:
                leaving.append(
                    Departure(one.session_id, "keep_closed_days" if old else "keep_sessions", one.size_bytes)
                )
                continue
        kept.append(KeptSession(one.session_id, reasons))
    return tuple(kept), tuple(leaving)


def goes_at(one: SessionFacts, config: Config) -> datetime | None:
    """Return when a session goes into the trash by its age; None for one that does not."""
    return None if _bound(one) else _after(one.updated, timedelta(days=config.keep_closed_days))


def _bound(one: SessionFacts) -> tuple[str, ...]:
    """Return why a session may not go whatever its age is; nothing when it may."""
    reasons = {
        one.condition: one.condition in ("live", "interrupted"),
        "in_use": one.in_use,
        "pinned": any(held.pinned for held in one.held),
        "not_ours": not one.ours,
    }
    return tuple(reason for reason, holds in reasons.items() if holds)


def _passed(since: datetime, age: timedelta, now: datetime) -> bool:
    return now - since >= age


def _window(config: Config) -> timedelta:
    return timedelta(hours=config.history_hours)


def _past_window(staying: Sequence[SessionFacts], config: Config, now: datetime, *, doubted: bool) -> Iterator[Thinned]:
    """Yield the sessions at rest that have changes in the journal, oldest first: those past the window, then others."""
    at_rest = sorted((one.journaled, one.session_id) for one in staying if one.journaled and not one.in_use)
    for past in (True, False):
        for journaled, session_id in at_rest:
            if (not doubted and _passed(journaled, _window(config), now)) is past:
                yield Thinned(session_id, "history_hours" if past else "history_max_bytes")


def _oldest_beyond(set_aside: Collection[SetAside], max_bytes: int) -> Iterator[SetAside]:
    """Yield what goes, oldest first, until the rest has at most `max_bytes`."""
    excess = sum(one.size_bytes for one in set_aside) - max_bytes
    for one in sorted(set_aside, key=lambda one: (one.since_s, one.path)):
        if excess > 0:
            yield one
            excess -= one.size_bytes


def _after(time: datetime, age: timedelta) -> datetime:
    try:
        return time + age
    except OverflowError:  # a document may give any year
        return datetime.max.replace(tzinfo=UTC)


def _given_up(staying: Sequence[SessionFacts], plans: dict[str, Plan]) -> Iterator[StoredCheckpoint]:
    """Yield the checkpoints that numbers alone keep: those of automatic kinds before others, of older sessions first.

    Of each session, older ones come first.
    """
    oldest_first = sorted(staying, key=lambda one: (one.updated, one.session_id))
    may_go = {
        keep.name for plan in plans.values() for keep in plan.keep if _BY_NUMBER.issuperset(keep.reasons)
    }  # fmt: skip
    for automatic in (True, False):
        for one in oldest_first:
            for held in sorted(one.held, key=lambda held: (held.sequence, held.name)):
                if held.name in may_go and (held.kind in AUTOMATIC) is automatic and held.kind not in NOT_OURS:
                    yield held
