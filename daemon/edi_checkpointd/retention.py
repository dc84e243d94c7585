"""Retention: which of a session's checkpoints stay and which go, each with its reason. Pure; it deletes nothing.

Checkpoints of automatic kinds have a few slots of their own within the session's number, so a timer never pushes out
what a person did; slots that they do not need are lent to the others. Age decides nothing here: order does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from edi_checkpoint.layout import AUTOMATIC, NOT_OURS, Kind


class Held(NamedTuple):
    """A checkpoint that is there: its file's name and what its header says."""

    name: str
    sequence: int
    kind: str
    pinned: bool


class Kept(NamedTuple):
    """A checkpoint that stays, and all reasons why."""

    name: str
    reasons: tuple[str, ...]


class Dropped(NamedTuple):
    """A checkpoint that goes, by the rule named: `keep_automatic` or `keep_per_session`."""

    name: str
    rule: str


class Plan(NamedTuple):
    """What stays and what goes, each oldest first; together all that is held."""

    keep: tuple[Kept, ...]
    drop: tuple[Dropped, ...]


def plan(
    held: Sequence[Held],
    *,
    keep: int,
    keep_automatic: int,
    exempt: Collection[str] = (),
    unseen: Collection[str] = (),
) -> Plan:
    """Return what becomes of the valid checkpoints `held` of one session, given in any order.

    `keep` (at least 1) are kept in all, at most `keep_automatic` of them of automatic kinds. Kept besides, and not
    counted: files that are not ours, and pinned ones. Kept in any case: the newest of ours, those that `exempt` names
    (in use), and `interrupted` ones that `unseen` names. With `keep` 1, a newer automatic one does not push out the
    newest other: both stay.
    """
    held = sorted(held, key=lambda checkpoint: (checkpoint.sequence, checkpoint.name))
    ours = [checkpoint for checkpoint in held if checkpoint.kind not in NOT_OURS]
    newest = ours[-1].name if ours else None
    counted = [checkpoint for checkpoint in ours if not checkpoint.pinned]
    automatic = [checkpoint.name for checkpoint in counted if checkpoint.kind in AUTOMATIC]
    others = [checkpoint.name for checkpoint in counted if checkpoint.kind not in AUTOMATIC]

    slots = min(keep_automatic, keep - 1 if others else keep)
    if newest in automatic:
        slots = max(slots, 1)
    kept_automatic = automatic[max(len(automatic) - slots, 0) :]
    kept_others = others[-max(keep - len(kept_automatic), 1) :]

    kept: list[Kept] = []
    dropped: list[Dropped] = []
    for checkpoint in held:
        name, kind = checkpoint.name, checkpoint.kind
        reasons = {
            "newest_valid": name == newest,
            "pinned": checkpoint.pinned,
            str(kind): kind in NOT_OURS,
            "exempt": name in exempt,
            "unseen": kind == Kind.INTERRUPTED and name in unseen,
            "keep_automatic": name in kept_automatic,
            "keep_per_session": name in kept_others,
        }
        if any(reasons.values()):
            kept.append(Kept(name, tuple(reason for reason, holds in reasons.items() if holds)))
        else:
            dropped.append(Dropped(name, "keep_automatic" if kind in AUTOMATIC else "keep_per_session"))
    return Plan(tuple(kept), tuple(dropped))
