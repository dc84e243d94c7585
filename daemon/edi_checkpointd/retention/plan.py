"""The clean-up of a home: which checkpoints are deleted, which sessions go into the trash or out of it for good. Pure.

A session goes as a whole: after `keep_closed_days` without a change, or when `keep_sessions` newer ones exist. It waits
in the trash, and a user can restore it. Bytes come last: beyond `sessions_max_bytes` the trash is emptied earlier, then
checkpoints go that only a number keeps. `prune` shows this plan with each rule, and the janitor carries it out.
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
    """A session's condition, time of the last change, checkpoints, and bytes of all its documents.

    `ours`: all of its documents can be read and were written by us. `in_use`: it is in the daemon's memory, or it has
    an outbox.
    """

    session_id: str
    condition: str
    updated: datetime
    checkpoints: tuple[StoredCheckpoint, ...]
    size_bytes: int
    own: Own = Own()
    ours: bool = True
    in_use: bool = False
    journaled: datetime | None = None  # the newest of its changes that the journal does not need


class SetAside(NamedTuple):
    """A file that was set aside as damaged, and when (seconds since 1970)."""

    path: Path
    size_bytes: int
    since_s: float


class KeptSession(NamedTuple):
    """A session that stays, with all reasons."""

    session_id: str
    reasons: tuple[str, ...]


class Departure(NamedTuple):
    """A session that goes into the trash or out of it, with the rule: the key of a setting."""

    session_id: str
    rule: str
    bytes: int


class Thinned(NamedTuple):
    """A session whose single changes the journal deletes, with the rule."""

    session_id: str
    rule: str


class Cleanup(NamedTuple):
    """The plan of one clean-up.

    `sessions` stay, with the checkpoints of `keep` and without those of `drop`. The sessions of `trash` go into the
    trash with all their documents, those of `empty` are deleted from it. For the sessions of `history` the journal
    keeps only the newest state; by the rule `history_max_bytes` it does so until it is small enough. The files of
    `damaged`, set aside, are deleted. `spare_bytes` is how much documents may grow afterwards; it is negative when
    documents that no rule may delete exceed `sessions_max_bytes`. `due` is when something goes by age next.
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
    sessions: Sequence[SessionFacts], trashed: Sequence[Trashed], config: Config, now: datetime, *,
    doubted: bool = False, exempt: Collection[str] = (), set_aside: Collection[SetAside] = (),
) -> Cleanup:  # fmt: skip
    """Return the plan for the `sessions` and for those in the trash, at `now`.

    `doubted`: the clock looks wrong, so nothing goes by age, nor by the order of sessions' times. `exempt` names
    checkpoints in use, `set_aside` the files that were set aside as damaged.
    """
    kept, leaving = _sessions(sessions, config, now, doubted=doubted)
    gone = {one.session_id for one in leaving}
    staying = [one for one in sessions if one.session_id not in gone]
    plans = {one.session_id: plan_session(one.checkpoints, one.own, config, exempt) for one in staying}

    grace = timedelta(days=config.trash_days)
    over = [one for one in trashed if not doubted and now - one.trashed >= grace]
    empty = [Departure(one.session_id, "trash_days", one.size_bytes) for one in over]

    total = sum(one.size_bytes for one in sessions) + sum(one.size_bytes for one in trashed)
    total -= sum(one.bytes for one in empty) + sum(drop.bytes for one in plans.values() for drop in one.drop)
    excess = total - config.sessions_max_bytes
    for one in sorted(trashed, key=lambda one: (one.trashed, one.session_id)):
        if excess > 0 and one not in over:
            empty.append(Departure(one.session_id, "sessions_max_bytes", one.size_bytes))
            excess -= one.size_bytes
    dropped: dict[str, Dropped] = {}
    for checkpoint in _kept_by_number(staying, plans):
        if excess > 0:
            dropped[checkpoint.name] = Dropped(checkpoint.name, "sessions_max_bytes", checkpoint.size_bytes)
            excess -= checkpoint.size_bytes

    emptied, window = {one.session_id for one in empty}, timedelta(hours=config.history_hours)
    ages = [_after(one.trashed, grace) for one in trashed if one.session_id not in emptied]
    ages += [_after(now, grace) for _ in leaving]
    ages += [_after(one.journaled, window) for one in staying if one.journaled and not one.in_use]
    ages += [at for one in staying if (at := goes_at(one, config))]
    return Cleanup(
        keep=tuple(keep for plan in plans.values() for keep in plan.keep if keep.name not in dropped),
        drop=(*(drop for plan in plans.values() for drop in plan.drop), *dropped.values()),
        sessions=kept,
        trash=leaving,
        empty=tuple(empty),
        history=tuple(_history(staying, window, now, doubted=doubted)),
        damaged=tuple(_oldest_beyond(set_aside, config.damaged_max_bytes)),
        spare_bytes=-excess,
        due=min(ages, default=None),
    )


def _sessions(
    sessions: Sequence[SessionFacts], config: Config, now: datetime, *, doubted: bool
) -> tuple[tuple[KeptSession, ...], tuple[Departure, ...]]:
    """Return which sessions stay and which go, newest first."""
    kept, leaving, counted = [], [], 0
    for one in sorted(sessions, key=lambda one: (one.updated, one.session_id), reverse=True):
        reasons = _protections(one)
        if not reasons:
            counted += 1
            old = now - one.updated >= timedelta(days=config.keep_closed_days)
            if not doubted and (old or counted > config.keep_sessions):
                rule = "keep_closed_days" if old else "keep_sessions"
                leaving.append(Departure(one.session_id, rule, one.size_bytes))
                continue
            reasons = ("clock_doubted",) if doubted else ("keep_sessions", "keep_closed_days")
        kept.append(KeptSession(one.session_id, reasons))
    return tuple(kept), tuple(leaving)


def goes_at(one: SessionFacts, config: Config) -> datetime | None:
    """Return when a session goes into the trash by its age; None for a session that stays."""
    return None if _protections(one) else _after(one.updated, timedelta(days=config.keep_closed_days))


def _protections(one: SessionFacts) -> tuple[str, ...]:
    """Return the reasons why a session stays at any age; none when it may go."""
    reasons = {
        one.condition: one.condition in ("live", "interrupted"),
        "in_use": one.in_use,
        "pinned": any(checkpoint.pinned for checkpoint in one.checkpoints),
        "not_ours": not one.ours,
    }
    return tuple(reason for reason, holds in reasons.items() if holds)


def _history(staying: Sequence[SessionFacts], window: timedelta, now: datetime, *, doubted: bool) -> Iterator[Thinned]:
    """Yield the sessions at rest that have changes in the journal, oldest first: those past the window, then others."""
    at_rest = sorted((one.journaled, one.session_id) for one in staying if one.journaled and not one.in_use)
    for past in (True, False):
        for journaled, session_id in at_rest:
            if (not doubted and now - journaled >= window) is past:
                yield Thinned(session_id, "history_hours" if past else "history_max_bytes")


def _oldest_beyond(set_aside: Collection[SetAside], max_bytes: int) -> Iterator[SetAside]:
    """Yield the files to delete, oldest first, until the rest has at most `max_bytes`."""
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


def _kept_by_number(staying: Sequence[SessionFacts], plans: dict[str, Plan]) -> Iterator[StoredCheckpoint]:
    """Yield the checkpoints that only a number keeps: automatic kinds before others, older sessions first.

    Of each session, older ones come first.
    """
    oldest_first = sorted(staying, key=lambda one: (one.updated, one.session_id))
    may_go = {keep.name for plan in plans.values() for keep in plan.keep if _BY_NUMBER.issuperset(keep.reasons)}
    for automatic in (True, False):
        for one in oldest_first:
            for checkpoint in sorted(one.checkpoints, key=lambda checkpoint: (checkpoint.sequence, checkpoint.name)):
                kind = checkpoint.kind
                if checkpoint.name in may_go and (kind in AUTOMATIC) is automatic and kind not in NOT_OURS:
                    yield checkpoint
