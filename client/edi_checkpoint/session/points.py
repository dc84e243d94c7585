"""Points of a session that can be gone back to: a checkpoint, a sequence, a time; and the state that was there.

The daemon answers from the journal and the files; where none does, checkpoints are read from their files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from edi_checkpoint.documents.layout import RESERVED
from edi_checkpoint.documents.names import parse_checkpoint_name
from edi_checkpoint.documents.reader import parse_checkpoint
from edi_checkpoint.errors import DaemonUnavailable, DocumentDamaged, NotFound, UsageError
from edi_checkpoint.link.contracts import SessionLink
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import read_regular
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.records import NUMBER_MAX

_ANSWER_S = 5.0
_EPOCH = datetime.fromtimestamp(0, UTC)


class Point(NamedTuple):
    """A state of the past: compact JSON text by key, its sequence (0: a file that says none), and what it is called."""

    state: dict[str, JsonText]
    sequence: int
    said: str


def find(
    link: SessionLink,
    session_id: str,
    checkpoint: CheckpointInfo | str | None = None,
    sequence: int | None = None,
    time: datetime | None = None,
) -> Point:
    """Return the point that one of the arguments names.

    Raises `NotFound` for one that there is not, `DocumentDamaged`, `DaemonUnavailable` (a sequence or a time needs the
    journal), and `UsageError` unless exactly one is given, of its type.
    """
    if sum(given is not None for given in (checkpoint, sequence, time)) != 1:
        raise UsageError("a checkpoint, a sequence or a time: exactly one is needed")
    for given, wanted in ((checkpoint, CheckpointInfo | str), (sequence, int), (time, datetime)):
        if given is not None and (isinstance(given, bool) or not isinstance(given, wanted)):
            raise UsageError(f"{given!r} is no checkpoint, sequence or time: it is a {type(given).__name__}")
    if sequence is not None and not 0 <= sequence <= NUMBER_MAX:
        raise NotFound(f"session {session_id}: there is no sequence {sequence}")
    name = checkpoint.name if isinstance(checkpoint, CheckpointInfo) else checkpoint
    if time is not None and time.tzinfo is None:
        time = time.astimezone()  # as people mean it
    time_us = None if time is None else (time - _EPOCH) // timedelta(microseconds=1)
    try:
        answer = link.ask(lambda n: messages.GetState(n, session_id, name, sequence, time_us, hold=True), _ANSWER_S)
    except DaemonUnavailable:
        if name is None or link.paths is None:
            raise
        return _from_file(link.paths, session_id, name)
    if not isinstance(answer, messages.StateAt):
        raise NotFound(f"session {session_id}: {type(answer).__name__} is no state")
    return Point(compact(answer.state), answer.sequence, name or f"sequence {answer.sequence}")


class Stated(Protocol):
    """What has a state: a `Point`, a daemon's answer."""

    @property
    def state(self) -> Mapping[str, JsonText]:
        """JSON text by key."""


Found = TypeVar("Found", bound=Stated)


def last_good(
    session_id: str,
    checkpoints: Iterable[CheckpointInfo],
    read: Callable[[CheckpointInfo], Found],
    now: Mapping[str, JsonText],
) -> Found:
    """Return what `read` gives of the newest of `checkpoints` (oldest first) that is intact, not failed and not `now`.

    Raises `NotFound` when there is none.
    """
    here = compact(now)
    for info in reversed(list(checkpoints)):
        try:
            found = read(info)
        except (DocumentDamaged, NotFound):  # it may have been deleted just now
            continue
        state = compact(found.state)
        if state != here and state.get("status") != b'"failed"':
            return found
    raise NotFound(f"session {session_id} has no earlier checkpoint that is intact and not failed")


def with_keys(
    now: Mapping[str, JsonText], then: Mapping[str, JsonText], keys: Collection[str] | None
) -> dict[str, JsonText]:
    """Return the state `then`, or `now` with `keys` alone as they were then."""
    if keys is None:
        return dict(then)
    kept = {key: text for key, text in now.items() if key not in keys}
    return kept | {key: then[key] for key in keys if key in then}


def compact(state: Mapping[str, JsonText]) -> dict[str, JsonText]:
    """Return `state` as `values.codec.encode` writes it, so that a value set again to what it is is known to be the
    same.
    """
    return {key: msgspec.json.format(text, indent=-1) for key, text in state.items() if key != RESERVED}


def _from_file(paths: Paths, session_id: str, name: str) -> Point:
    named = parse_checkpoint_name(name)
    if named is None or named.session_id != session_id:
        raise NotFound(f"session {session_id} has no checkpoint {name}")
    try:
        document = parse_checkpoint(read_regular(paths.sessions / name), name)
    except FileNotFoundError:
        raise NotFound(f"session {session_id} has no checkpoint {name}") from None
    return Point(compact(document.values), document.header.sequence, name)
