"""Earlier states of a session: find the state at a checkpoint, a sequence or a time.

The daemon answers from the journal and the files. Without a daemon, a checkpoint is read from its file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec

from edi_checkpoint.documents.layout import RESERVED
from edi_checkpoint.documents.names import parse_checkpoint_name
from edi_checkpoint.documents.reader import parse_checkpoint
from edi_checkpoint.errors import DaemonUnavailable, DocumentDamaged, NotFound, UsageError
from edi_checkpoint.link.contracts import SessionLink
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import read_regular
from edi_checkpoint.system.times import to_us
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.messages import GetState, StateAt
from edi_checkpoint.wire.records import NUMBER_MAX

_ANSWER_S = 5.0


class Point(NamedTuple):
    """An earlier state: compact JSON text by key, its sequence (0 if its file has none), and a name for people."""

    state: dict[str, JsonText]
    sequence: int
    name: str


def find(
    link: SessionLink, session_id: str, checkpoint: CheckpointInfo | str | None = None,
    sequence: int | None = None, time: datetime | None = None,
) -> Point:  # fmt: skip
    """Return the state at a checkpoint, a sequence or a time. A time without a time zone is local time.

    Raises `NotFound`, `DocumentDamaged`, and `DaemonUnavailable` when a sequence or a time needs the journal. Raises
    `UsageError` unless exactly one of the three is given, and has its type.
    """
    if sum(given is not None for given in (checkpoint, sequence, time)) != 1:
        raise UsageError("give exactly one of a checkpoint, a sequence and a time")
    for given, kind in ((checkpoint, CheckpointInfo | str), (sequence, int), (time, datetime)):
        if given is not None and (isinstance(given, bool) or not isinstance(given, kind)):
            raise UsageError(f"{given!r} is a {type(given).__name__}, not a checkpoint, a sequence or a time")
    if sequence is not None and not 0 <= sequence <= NUMBER_MAX:
        raise NotFound(f"session {session_id} has no sequence {sequence}")
    name = checkpoint.name if isinstance(checkpoint, CheckpointInfo) else checkpoint
    time_us = None if time is None else to_us(time if time.tzinfo else time.astimezone())
    try:
        answer = link.ask(lambda n: GetState(n, session_id, name, sequence, time_us, hold=True), _ANSWER_S)
    except DaemonUnavailable:
        if name is None or link.paths is None:
            raise
        return _from_file(link.paths, session_id, name)
    if not isinstance(answer, StateAt):
        raise NotFound(f"session {session_id}: the daemon answered {type(answer).__name__} instead of a state")
    return Point(compact(answer.state), answer.sequence, name or f"sequence {answer.sequence}")


Found = TypeVar("Found", Point, StateAt)


def last_good(
    session_id: str, checkpoints: Iterable[CheckpointInfo],
    read: Callable[[CheckpointInfo], Found], now: Mapping[str, JsonText],
) -> Found:  # fmt: skip
    """Return the newest of `checkpoints` (oldest first) that is intact, has not failed, and differs from `now`.

    `read` reads a checkpoint. Raises `NotFound` when there is none.
    """
    present = compact(now)
    for info in reversed(list(checkpoints)):
        try:
            found = read(info)
        except (DocumentDamaged, NotFound):  # it may have been deleted just now
            continue
        state = compact(found.state)
        if state != present and state.get("status") != b'"failed"':
            return found
    raise NotFound(f"session {session_id} has no earlier checkpoint that is intact and not failed")


def with_keys(
    now: Mapping[str, JsonText], then: Mapping[str, JsonText], keys: Collection[str] | None
) -> dict[str, JsonText]:
    """Return the state `now` with the values that `keys` had `then`; None means all keys."""
    if keys is None:
        return dict(then)
    return {key: text for key, text in now.items() if key not in keys} | {key: then[key] for key in keys if key in then}


def compact(state: Mapping[str, JsonText]) -> dict[str, JsonText]:
    """Return `state` in the form that `values.codec.encode` writes, so that equal values have equal texts."""
    return {key: msgspec.json.format(text, indent=-1) for key, text in state.items() if key != RESERVED}


def _from_file(paths: Paths, session_id: str, name: str) -> Point:
    missing = NotFound(f"session {session_id} has no checkpoint {name}")
    named = parse_checkpoint_name(name)
    if named is None or named.session_id != session_id:
        raise missing
    try:
        document = parse_checkpoint(read_regular(paths.sessions / name), name)
    except FileNotFoundError:
        raise missing from None
    return Point(compact(document.values), document.header.sequence, name)
