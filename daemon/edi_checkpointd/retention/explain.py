"""Why a checkpoint exists: what made it, which rules keep it, and which rule deletes it and when. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from edi_checkpoint.model import NOT_OURS, CheckpointInfo, Kind
from edi_checkpointd.config import Config
from edi_checkpointd.retention.plan import Cleanup, SessionFacts, goes_at
from edi_checkpointd.retention.rules import goes_after


class MadeBy(msgspec.Struct, frozen=True):
    """A checkpoint's kind, the rule that made it, and the reason that its file gives.

    The rule is the key that changed, or the setting of the timer, else None.
    """

    kind: str
    rule: str | None
    reason: str


class Deleted(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rule that deletes a checkpoint: after a number of further ones, or at a time with its session."""

    rule: str
    after_checkpoints: int | None = None
    at: datetime | None = None


class Why(msgspec.Struct, frozen=True):
    """The document of `edi-checkpoint why --json`, without its format."""

    name: str
    made_by: MadeBy
    kept_by: tuple[str, ...]
    deleted_when: Deleted | None


def why(info: CheckpointInfo, session: SessionFacts, cleanup: Cleanup, config: Config, now: datetime) -> Why:
    """Return why the checkpoint `info` of `session` exists, by the plan `cleanup` made at `now`."""
    kept = {keep.name: keep.reasons for keep in cleanup.keep}
    return Why(info.name, _made_by(info), kept.get(info.name, ()), _deleted(info, session, cleanup, config, now))


def _made_by(info: CheckpointInfo) -> MadeBy:
    rule = info.rule
    if rule is None and info.kind == Kind.TRANSITION:  # an older version wrote the key into the reason only
        rule = info.reason.removesuffix(" changed") if info.reason.endswith(" changed") else None
    elif info.kind == Kind.INTERVAL:
        rule = "checkpoint_every_s"
    return MadeBy(info.kind, rule, info.reason)


def _deleted(
    info: CheckpointInfo, session: SessionFacts, plan: Cleanup, config: Config, now: datetime
) -> Deleted | None:
    rules = [dropped.rule for dropped in plan.drop if dropped.name == info.name]
    rules += [departure.rule for departure in plan.trash if departure.session_id == session.session_id]
    if rules:
        return Deleted(rules[0], at=now)
    if info.pinned or info.kind in NOT_OURS:
        return None
    if (at := goes_at(session, config)) is not None:
        return Deleted("keep_closed_days", at=at)
    found = goes_after(session.checkpoints, info.name, session.own, config)
    return None if found is None else Deleted(found[0], after_checkpoints=found[1])
