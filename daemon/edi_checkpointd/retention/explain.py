"""Why a checkpoint is there: what it was made by, which rules keep it, and which one deletes it and when. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from edi_checkpoint.model import NOT_OURS, CheckpointInfo, Kind
from edi_checkpointd.config import Config
from edi_checkpointd.retention.plan import Cleanup, SessionFacts, goes_at
from edi_checkpointd.retention.rules import goes_after


class MadeBy(msgspec.Struct, frozen=True):
    """The kind of a checkpoint; the rule that made it (the key that changed, the setting of the timer, else None), and
    the reason that its file gives.
    """

    kind: str
    rule: str | None
    reason: str


class Deleted(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rule that deletes a checkpoint: after so many more of its class, or with its whole session at a time."""

    rule: str
    after_checkpoints: int | None = None
    at: datetime | None = None


class Why(msgspec.Struct, frozen=True):
    """The document of `edi-checkpoint why --json`, without its format."""

    name: str
    made_by: MadeBy
    kept_by: tuple[str, ...]
    deleted_when: Deleted | None


def why(info: CheckpointInfo, standing: SessionFacts, cleanup: Cleanup, config: Config, now: datetime) -> Why:
    """Return why the checkpoint `info` of the session `standing` is there, by the plan `cleanup` made at `now`."""
    kept = {keep.name: keep.reasons for keep in cleanup.keep}
    return Why(info.name, _made_by(info), kept.get(info.name, ()), _deleted(info, standing, cleanup, config, now))


def _made_by(info: CheckpointInfo) -> MadeBy:
    rule = info.rule
    if rule is None and info.kind == Kind.TRANSITION:  # of an older version, which wrote its key into the reason alone
        rule = info.reason.removesuffix(" changed") if info.reason.endswith(" changed") else None
    elif info.kind == Kind.INTERVAL:
        rule = "checkpoint_every_s"
    return MadeBy(info.kind, rule, info.reason)


def _deleted(
    info: CheckpointInfo, standing: SessionFacts, cleanup: Cleanup, config: Config, now: datetime
) -> Deleted | None:
    for dropped in cleanup.drop:
        if dropped.name == info.name:
            return Deleted(dropped.rule, at=now)
    for leaving in cleanup.trash:
        if leaving.session_id == standing.session_id:
            return Deleted(leaving.rule, at=now)
    if info.pinned or info.kind in NOT_OURS:
        return None
    if (at := goes_at(standing, config)) is not None:
        return Deleted("keep_closed_days", at=at)
    found = goes_after(standing.held, info.name, standing.own, config)
    return None if found is None else Deleted(found[0], after_checkpoints=found[1])
