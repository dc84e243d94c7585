"""What callers are given to look at: immutable values that also go over the wire as they are."""

from __future__ import annotations

from datetime import datetime

import msgspec


class CheckpointInfo(msgspec.Struct, frozen=True):
    """One checkpoint file: `name` is its file name, `kind` one of `document.Kind`, `timestamp` aware.

    `sequence` is the number of the last entry contained, 0 in a file of EDI's own old class.
    """

    name: str
    session_id: str
    sequence: int
    timestamp: datetime
    kind: str
    reason: str
    stage: str
    label: str | None
    pinned: bool
    size_bytes: int


class SessionInfo(msgspec.Struct, frozen=True):
    """One row of a session list; what is not known is None.

    `condition` is live, interrupted, unfinished or ended; `status`, `stage`, `image` (a file's name), `prompt` and
    `score` are EDI's own values; `checkpoints` counts the files.
    """

    session_id: str
    condition: str
    status: str | None
    stage: str | None
    image: str | None
    prompt: str | None
    score: float | None
    started: datetime | None
    updated: datetime | None
    sequence: int
    checkpoints: int
    parent_session: str | None


class Durable(msgspec.Struct, frozen=True):
    """How far a stream's entries have come, by the number of the last one.

    Published; written to the outbox (`spooled`); acknowledged (`journaled`); in a checkpoint or auto-save.
    """

    published: int
    spooled: int
    journaled: int
    checkpointed: int


class Gap(msgspec.Struct, frozen=True):
    """Entries that were published and never came; `sequence` is that of the entry behind them."""

    sequence: int
    missing: int


class HistoryEntry(msgspec.Struct, frozen=True):
    """One journaled entry: `op` is update, base, mark, rollback or pin; `stage` the stage that it set, if any."""

    sequence: int
    timestamp: datetime
    op: str
    keys: tuple[str, ...]
    bytes: int
    stage: str | None
