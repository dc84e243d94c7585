"""Retention: which of a session's checkpoints stay and which go, each with its reason. Pure; it deletes nothing.

Checkpoints of automatic kinds have a few slots of their own within the session's number. So a timer never displaces a
checkpoint that a person made. The others use the slots that automatic kinds do not need. Order decides here, not age.
`retention.plan` plans deletions by age and bytes, for a whole home.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, TypeVar

from edi_checkpoint.model import AUTOMATIC, NOT_OURS, CheckpointInfo, Kind
from edi_checkpointd.config import Config

T = TypeVar("T")


class StoredCheckpoint(NamedTuple):
    """An existing checkpoint: its file's name and size, and what its header says."""

    name: str
    sequence: int
    kind: str
    pinned: bool
    stage: str = ""
    score: float | None = None
    size_bytes: int = 0


class Kept(NamedTuple):
    """A checkpoint that stays, with all reasons."""

    name: str
    reasons: tuple[str, ...]


class Dropped(NamedTuple):
    """A checkpoint that is deleted, with the rule: the key of a setting."""

    name: str
    rule: str
    bytes: int = 0


class Plan(NamedTuple):
    """Which checkpoints stay and which are deleted, each oldest first; together all that exist."""

    keep: tuple[Kept, ...]
    drop: tuple[Dropped, ...]


def plan(
    checkpoints: Iterable[StoredCheckpoint], *, keep: int, keep_automatic: int, keep_best: int = 0,
    keep_stages: int = 0, exempt: Collection[str] = (), unseen: Collection[str] = (),
) -> Plan:  # fmt: skip
    """Return which of the valid `checkpoints` of one session stay and which are deleted; they come in any order.

    `keep` (at least 1) are kept in all, at most `keep_automatic` of them of automatic kinds. Not counted, and kept too:
    files that are not ours, pinned ones, and the `keep_best` of the highest score. So are the last ones of the
    `keep_stages` newest stages. Always kept: the newest of ours, those that `exempt` names (in use), and the
    `interrupted` ones that `unseen` names. With `keep` 1, a newer automatic one does not displace the newest other:
    both stay.
    """
    in_order = sorted(checkpoints, key=lambda checkpoint: (checkpoint.sequence, checkpoint.name))
    ours = [checkpoint for checkpoint in in_order if checkpoint.kind not in NOT_OURS]
    newest = ours[-1].name if ours else None
    counted = [checkpoint for checkpoint in ours if not checkpoint.pinned]
    automatic = [checkpoint.name for checkpoint in counted if checkpoint.kind in AUTOMATIC]
    others = [checkpoint.name for checkpoint in counted if checkpoint.kind not in AUTOMATIC]

    slots = min(keep_automatic, keep - 1 if others else keep)
    if newest in automatic:
        slots = max(slots, 1)
    kept_automatic = _last(automatic, slots)
    kept_others = _last(others, max(keep - len(kept_automatic), 1))
    scored = sorted((checkpoint.score, at) for at, checkpoint in enumerate(counted) if checkpoint.score is not None)
    best = [counted[at].name for _, at in _last(scored, keep_best)]
    ends = {checkpoint.stage: checkpoint for checkpoint in counted}.values()
    stages = [name for _, name in _last(sorted((end.sequence, end.name) for end in ends), keep_stages)]

    kept: list[Kept] = []
    dropped: list[Dropped] = []
    for checkpoint in in_order:
        name, kind = checkpoint.name, checkpoint.kind
        reasons = {
            "newest_valid": name == newest,
            "pinned": checkpoint.pinned,
            str(kind): kind in NOT_OURS,
            "exempt": name in exempt,
            "unseen": kind == Kind.INTERRUPTED and name in unseen,
            "keep_automatic": name in kept_automatic,
            "keep_per_session": name in kept_others,
            "keep_best": name in best,
            "keep_stages": name in stages,
        }
        if any(reasons.values()):
            kept.append(Kept(name, tuple(reason for reason, holds in reasons.items() if holds)))
        else:
            rule = "keep_automatic" if kind in AUTOMATIC else "keep_per_session"
            dropped.append(Dropped(name, rule, checkpoint.size_bytes))
    return Plan(tuple(kept), tuple(dropped))


class Own(NamedTuple):
    """A session's own number of checkpoints kept (None: the setting's), and the newest sequence shown to a writer.

    `interrupted` checkpoints after that sequence are unseen.
    """

    keep: int | None = None
    seen: int = 0


def plan_session(
    checkpoints: Sequence[StoredCheckpoint], own: Own, config: Config, exempt: Collection[str] = ()
) -> Plan:
    """Return which of a session's checkpoints stay, by its own numbers and the settings."""
    keep = own.keep or config.keep_per_session
    interrupted = sorted((one.sequence, one.name) for one in checkpoints if one.kind == Kind.INTERRUPTED)
    # At most `keep` are unseen: a writer that dies over and over does not fill the disk.
    unseen = [name for sequence, name in interrupted if sequence > own.seen][-keep:]
    return plan(
        checkpoints, keep=keep, keep_automatic=config.keep_automatic, keep_best=config.keep_best,
        keep_stages=config.keep_stages, exempt=exempt, unseen=unseen,
    )  # fmt: skip


def goes_after(checkpoints: Sequence[StoredCheckpoint], name: str, own: Own, config: Config) -> tuple[str, int] | None:
    """Return the rule that deletes the checkpoint `name`, and after how many more of its class; None: no rule does."""
    (found,) = (checkpoint for checkpoint in checkpoints if checkpoint.name == name)
    newest = max(checkpoint.sequence for checkpoint in checkpoints)
    kind = Kind.INTERVAL if found.kind in AUTOMATIC else Kind.MANUAL
    coming: list[StoredCheckpoint] = []
    for count in range(1, len(checkpoints) + (own.keep or config.keep_per_session) + config.keep_stages + 1):
        coming.append(StoredCheckpoint(f"~{count:06}", newest + count, kind, pinned=False, stage=f"~{count}"))
        for dropped in plan_session([*checkpoints, *coming], own, config).drop:
            if dropped.name == name:
                return dropped.rule, count
    return None


def stored(infos: Iterable[CheckpointInfo]) -> list[StoredCheckpoint]:
    """Return the rows of checkpoints in the form that a plan needs."""
    return [
        StoredCheckpoint(info.name, info.sequence, info.kind, info.pinned, info.stage, info.score, info.size_bytes)
        for info in infos
    ]


def _last(items: Sequence[T], count: int) -> Sequence[T]:
    return items[max(len(items) - count, 0) :]
