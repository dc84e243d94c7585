"""A session's row as lists show it, from what files tell and, where there is one, what the journal notes.

The daemon, the command without one and a client without one all make their lists here, so that they are the same list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.fragments import Fragment, parent_of, stage_of, summarise
from edi_checkpoint.documents.layout import AUTOSAVE, Header
from edi_checkpoint.home import condition
from edi_checkpoint.home.condition import Condition
from edi_checkpoint.model import CheckpointInfo, SessionInfo
from edi_checkpoint.outbox.survey import WaitingStream
from edi_checkpoint.system.times import EPOCH, from_us


class Journaled(NamedTuple):
    """What a journal notes of a session: when it began, how its last writer left (live, clean, interrupted), its epoch,
    and the epoch and highest committed number of each stream.
    """

    started: datetime
    left_as: str
    epoch: int
    streams: Mapping[str, tuple[int, int]]


def session_info(
    session_id: str,
    catalog: Catalog,
    streams: Sequence[WaitingStream],
    journaled: Journaled | None,
    latest: Callable[[Header | None], Header | None],
) -> SessionInfo:
    """Return the row of a session whose outboxes are `streams`; `journaled` is None without a journal that knows it.

    `latest` is given the header of the newest document and returns that of the newest state, which journal or outboxes
    may have; it reads the state itself only then.
    """
    checkpoints = catalog.checkpoints(session_id)
    header = catalog.newest_header(session_id)
    shown = latest(header)
    summary = shown.summary if shown else {}
    status = _text(summary.get("status"))
    updated = shown.timestamp if shown and shown.timestamp > EPOCH else None
    return SessionInfo(
        session_id=session_id,
        condition=condition_of(checkpoints, header, streams, journaled, status),
        status=status,
        stage=shown.stage if shown else None,
        image=_text(summary.get("image")),
        prompt=_text(summary.get("prompt")),
        score=shown.score if shown else None,
        started=min(_beginnings(checkpoints, header, journaled), default=_attached(streams)),
        updated=updated,
        sequence=shown.sequence if shown else 0,
        checkpoints=len(checkpoints),
        parent_session=(shown and shown.parent_session) or (streams[0].files.owner.parent_session if streams else None),
    )


def header_of(
    session_id: str, fragments: Mapping[str, Fragment], sequence: int, time_us: int, parent_session: str | None
) -> Header:
    """Return what the header of a document would say of a state that no document holds yet."""
    stage, parent = stage_of(fragments), parent_of(fragments) or parent_session
    return Header(
        session_id=session_id, timestamp=from_us(time_us), kind=AUTOSAVE, sequence=sequence, stage=stage,
        parent_session=parent, summary=summarise(fragments),
    )  # fmt: skip


def numbers_held(header: Header | None, journaled: Journaled | None) -> dict[str, int]:
    """Return, by stream, the highest number that a document or the journal has."""
    taken = dict(header.streams) if header else {}
    for stream, (_, number) in journaled.streams.items() if journaled else ():
        taken[stream] = max(number, taken.get(stream, 0))
    return taken


def condition_of(
    checkpoints: Sequence[CheckpointInfo],
    header: Header | None,
    streams: Sequence[WaitingStream],
    journaled: Journaled | None,
    status: str | None,
) -> Condition:
    """Return a session's condition from its outboxes, the journal's notes and its documents, in this order.

    `checkpoints` are oldest first, `header` is that of the newest document.
    """
    fenced = {stream for seen in streams for stream in seen.files.owner.fenced}
    current = [seen for seen in streams if seen.files.owner.stream not in fenced and not _followed(seen, journaled)]
    newest = checkpoints[-1] if checkpoints else None
    gone_on = newest is not None and header is not None and header.sequence > newest.sequence
    return condition.decide(
        held=any(seen.held for seen in current),
        left_cleanly=_left_cleanly(current, journaled),
        newest=newest.kind if newest and not gone_on else None,
        status=status,
    )


def newest_first(rows: Iterable[SessionInfo], wanted: str | None = None) -> list[SessionInfo]:
    """Return the rows of the condition `wanted`, or all, newest first."""
    found = [info for info in rows if wanted in (None, info.condition)]
    return sorted(found, key=lambda info: info.updated or info.started or EPOCH, reverse=True)


def _followed(seen: WaitingStream, journaled: Journaled | None) -> bool:
    """Return whether another stream has followed this one: its writer, should it live, is in the session no more."""
    if journaled is None:
        return False
    epoch, _ = journaled.streams.get(seen.files.owner.stream, (0, 0))
    return 0 < epoch < journaled.epoch


def _left_cleanly(streams: Sequence[WaitingStream], journaled: Journaled | None) -> bool | None:
    """Return how the last writer left: as the journal notes, unless its outbox tells what the journal has not taken."""
    as_journaled = None if journaled is None or journaled.left_as == "live" else journaled.left_as == "clean"
    if streams:
        newest = streams[-1]
        _, taken = journaled.streams.get(newest.files.owner.stream, (0, -1)) if journaled else (0, -1)
        if as_journaled is None or taken < newest.last:
            return newest.cleanly
    elif journaled and journaled.left_as == "live":
        return False  # it is gone, with its outbox
    return as_journaled


def _beginnings(
    checkpoints: Sequence[CheckpointInfo], header: Header | None, journaled: Journaled | None
) -> Iterator[datetime]:
    """Yield when the session is known to have been there: a journal begun anew knows less of that than documents."""
    yield from (info.timestamp for info in checkpoints)
    if journaled:
        yield journaled.started
    with suppress(ValueError, OverflowError):
        yield datetime.fromisoformat(_text(header.summary.get("started")) or "" if header else "").astimezone(UTC)


def _attached(streams: Sequence[WaitingStream]) -> datetime | None:
    """Return when the oldest of the writers attached, to the second."""
    for seen in streams:
        with suppress(ValueError):
            return datetime.fromisoformat(seen.files.owner.since)
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
