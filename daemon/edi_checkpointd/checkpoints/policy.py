"""When a checkpoint is due, and why: decisions on values, no clock and no disk (design: "When").

A transition opens a pending point. It is written when its session was quiet, after `transition_max_s` at the latest, or
just before the next transition when it is older than `transition_quiet_s`; a newer one before that takes it over. So a
half-made stage change is not photographed, and a counter cannot flood. A mark replaces the pending point.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edi_checkpoint.model import Kind
from edi_checkpoint.wire.entries import Pin
from edi_checkpointd.state import MarkMoment, Moment, PinMoment, RollbackMoment, State, TransitionMoment


@dataclass(frozen=True, slots=True)
class PendingPoint:
    """A pending point: the transition's key, reason and sequence, and when it was opened, by the publisher's clock and
    by ours.
    """

    rule: str
    reason: str | None
    sequence: int
    opened_us: int
    opened_s: float


@dataclass(frozen=True, slots=True)
class Amendment:
    """A checkpoint that is there shall say something else in its header, by the entry `mark` after `state`."""

    state: State
    mark: int
    pin: Pin


PINS_MAX = 50  # of one session; they do not count as kept, so something else has to end their number


@dataclass(frozen=True, slots=True)
class Wish:
    """A checkpoint that shall be written: of which state, why, and for the entry `mark` if somebody asked for it."""

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

    `checkpointed` is the sequence of the newest checkpoint; a point that it contains is pending no more, which only a
    replay meets. The spacing of transitions goes by the publisher's clock: an outbox that is drained after an hour
    leads to the checkpoints that it would have led to live.
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
                    [checkpointed, *(wish.state.sequence for wish in wishes if isinstance(wish, Wish))]
                ):
                    if point and mark.kind == Kind.SHUTDOWN:
                        wishes.append(transition_wish(point, state))
                    else:
                        wishes.append(Wish(state, Kind(mark.kind), mark.reason, mark=number))
                point = None
            case RollbackMoment(before, after, number, reason):
                wishes.append(Wish(before, Kind.BEFORE_ROLLBACK, reason))
                wishes.append(Wish(after, Kind.ROLLBACK, reason, mark=number))
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
    """Return the wish for the pending `point`, whose photograph is `state`."""
    return Wish(state, Kind.TRANSITION, point.reason or f"{point.rule} changed", rule=point.rule)


def point_due_s(point: PendingPoint, touched_s: float, *, quiet_s: float, max_s: float) -> float:
    """Return when `point` is to be written, in monotonic seconds, if its session was last changed at `touched_s`."""
    return min(touched_s + quiet_s, point.opened_s + max_s)
