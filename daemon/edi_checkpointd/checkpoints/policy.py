"""Which checkpoints marks, rollbacks and transitions cause, and when a pending one is due. No clock and no disk.

The coordinator adds those of timers and of the daemon's end.

A transition opens a pending point. Its checkpoint is written once the session has been quiet for `transition_quiet_s`,
or after `transition_max_s` at the latest. A further transition replaces a younger point, and has an older one written
first. This avoids checkpoints of half-finished stage changes and limits how many a fast counter can cause. A mark or a
rollback cancels the pending point.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edi_checkpoint.model import Kind
from edi_checkpoint.wire.entries import Pin
from edi_checkpointd.state import MarkMoment, Moment, PinMoment, RollbackMoment, State, TransitionMoment


@dataclass(frozen=True, slots=True)
class PendingPoint:
    """The pending checkpoint of a transition: its key, its reason, its sequence and when it was opened.

    `opened_us` is by the publisher's wall clock, `opened_s` by the daemon's monotonic clock.
    """

    rule: str
    reason: str | None
    sequence: int
    opened_us: int
    opened_s: float


@dataclass(frozen=True, slots=True)
class Amendment:
    """A change of an existing checkpoint's header: `pin`, asked for by the entry `mark` that led to `state`."""

    state: State
    mark: int
    pin: Pin


PINS_MAX = 50  # of one session; no retention rule limits pins, since they do not count as kept


@dataclass(frozen=True, slots=True)
class Wish:
    """A checkpoint to be written: of which state, why, and for which entry `mark` if a client asked."""

    state: State
    kind: Kind
    reason: str
    label: str | None = None
    pinned: bool = False
    mark: int | None = None
    rule: str | None = None  # the key whose change was the transition


def decide(
    point: PendingPoint | None, moments: Iterable[Moment], *, checkpointed: int, quiet_s: float, now_s: float
) -> tuple[PendingPoint | None, list[Wish | Amendment]]:
    """Return the pending point after `moments`, and what is to be written because of them, in order.

    `checkpointed` is the sequence of the newest checkpoint. A point that it contains is no longer pending; this happens
    only in a replay. The publisher's clock spaces the transitions: an outbox that is drained an hour later leads to the
    same checkpoints as live traffic.
    """
    wishes: list[Wish | Amendment] = []
    for moment in moments:
        if point and point.sequence <= checkpointed:
            point = None
        match moment:
            case MarkMoment(state, number, mark):
                if mark.kind == Kind.MANUAL:
                    wishes.append(Wish(state, Kind.MANUAL, mark.reason, mark.label, mark.pinned, number))
                elif state.changed > max(
                    [checkpointed, *(one.state.sequence for one in wishes if isinstance(one, Wish))]
                ):
                    own = Wish(state, Kind(mark.kind), mark.reason, mark=number)
                    wishes.append(transition_wish(point, state) if point and mark.kind == Kind.SHUTDOWN else own)
                point = None
            case RollbackMoment(before, after, number, reason):
                wishes += [Wish(before, Kind.BEFORE_ROLLBACK, reason), Wish(after, Kind.ROLLBACK, reason, mark=number)]
                point = None
            case PinMoment(state, number, pin):
                wishes.append(Amendment(state, number, pin))
            case TransitionMoment(before, rule, reason, time_us):
                if point and time_us - point.opened_us > quiet_s * 1_000_000:
                    wishes.append(transition_wish(point, before))
                    point = None
                opened_us, opened_s = (point.opened_us, point.opened_s) if point else (time_us, now_s)
                point = PendingPoint(rule, reason, before.sequence + 1, opened_us, opened_s)
    return (None if point and point.sequence <= checkpointed else point), wishes


def transition_wish(point: PendingPoint, state: State) -> Wish:
    """Return the wish for the checkpoint of the pending `point`, with the state `state`."""
    return Wish(state, Kind.TRANSITION, point.reason or f"{point.rule} changed", rule=point.rule)


def point_due_s(point: PendingPoint, touched_s: float, *, quiet_s: float, max_s: float) -> float:
    """Return when `point` is to be written, in monotonic seconds, if its session was last changed at `touched_s`."""
    return min(touched_s + quiet_s, point.opened_s + max_s)
