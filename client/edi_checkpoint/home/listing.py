"""Makes the rows of session lists from files and, if there is one, from the journal's notes.

The daemon, the command without a daemon and a client without a daemon all make their lists here, so all lists agree.
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
    """The journal's notes about a session.

    `left_as` is how the last writer ended: live (not yet), clean or interrupted. `streams` has, by stream, its epoch
    and its highest committed number.
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
    """Return the row of a session whose outboxes are `streams`; `journaled` is None if no journal knows the session.

    `latest` gets the header of the newest document and returns the header of the newest state. It reads the state only
    if the journal or an outbox has a newer one.
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
        started=min(_start_times(checkpoints, header, journaled), default=_attach_time(streams)),
        updated=updated,
        sequence=shown.sequence if shown else 0,
        checkpoints=len(checkpoints),
        parent_session=(shown and shown.parent_session) or (streams[0].files.owner.parent_session if streams else None),
    )


def header_of(
    session_id: str, fragments: Mapping[str, Fragment], sequence: int, time_us: int, parent_session: str | None
) -> Header:
    """Return the header that a document of this state would have."""
    stage, parent = stage_of(fragments), parent_of(fragments) or parent_session
    return Header(
        session_id=session_id, timestamp=from_us(time_us), kind=AUTOSAVE, sequence=sequence, stage=stage,
        parent_session=parent, summary=summarise(fragments),
    )  # fmt: skip


def numbers_held(header: Header | None, journaled: Journaled | None) -> dict[str, int]:
    """Return, by stream, the highest number that a document or the journal has."""
    numbers = dict(header.streams) if header else {}
    for stream, (_, number) in journaled.streams.items() if journaled else ():
        numbers[stream] = max(number, numbers.get(stream, 0))
    return numbers


def condition_of(
    checkpoints: Sequence[CheckpointInfo],
    header: Header | None,
    streams: Sequence[WaitingStream],
    journaled: Journaled | None,
    status: str | None,
) -> Condition:
    """Return a session's condition, decided by its outboxes, the journal's notes and its documents, in this order.

    `checkpoints` are oldest first, `header` is that of the newest document.
    """
    fenced = {stream for waiting in streams for stream in waiting.files.owner.fenced}
    current = [one for one in streams if one.files.owner.stream not in fenced and not _superseded(one, journaled)]
    newest = checkpoints[-1] if checkpoints else None
    if newest and header and header.sequence > newest.sequence:
        newest = None  # the auto-save has passed it
    return condition.decide(
        live=any(waiting.held for waiting in current),
        clean_end=_clean_end(current, journaled),
        newest=newest.kind if newest else None,
        status=status,
    )


def newest_first(rows: Iterable[SessionInfo], condition: str | None = None) -> list[SessionInfo]:
    """Return the rows of one condition, or all, newest first."""
    found = [info for info in rows if condition in (None, info.condition)]
    return sorted(found, key=lambda info: info.updated or info.started or EPOCH, reverse=True)


def _superseded(stream: WaitingStream, journaled: Journaled | None) -> bool:
    """Return whether a newer stream has replaced this one; its writer, even a living one, lost the session."""
    if journaled is None:
        return False
    epoch, _ = journaled.streams.get(stream.files.owner.stream, (0, 0))
    return 0 < epoch < journaled.epoch


def _clean_end(streams: Sequence[WaitingStream], journaled: Journaled | None) -> bool | None:
    """Return whether the last writer closed the session cleanly, None if nothing tells.

    The journal's note counts, unless the outbox has entries that the journal lacks.
    """
    as_journaled = None if journaled is None or journaled.left_as == "live" else journaled.left_as == "clean"
    if streams:
        newest = streams[-1]
        _, number = journaled.streams.get(newest.files.owner.stream, (0, -1)) if journaled else (0, -1)
        if as_journaled is None or number < newest.last:
            return newest.cleanly
    elif journaled and journaled.left_as == "live":
        return False  # a live writer has an outbox, so this one died
    return as_journaled


def _start_times(
    checkpoints: Sequence[CheckpointInfo], header: Header | None, journaled: Journaled | None
) -> Iterator[datetime]:
    """Yield times at which the session existed; a journal made after the loss of one knows less than documents."""
    yield from (info.timestamp for info in checkpoints)
    if journaled:
        yield journaled.started
    with suppress(ValueError, OverflowError):
        yield datetime.fromisoformat(_text(header.summary.get("started")) or "" if header else "").astimezone(UTC)


def _attach_time(streams: Sequence[WaitingStream]) -> datetime | None:
    """Return when the first of the writers attached, to the second."""
    for stream in streams:
        with suppress(ValueError):
            return datetime.fromisoformat(stream.files.owner.since)
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
