"""What a writer that resumes a session is told: where its state came from, how it was left, how much work is in it.

Pure: made of what the daemon answered, or of what was found in files, and of the state itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from edi_checkpoint.documents.fragments import Fragment
from edi_checkpoint.documents.layout import AUTOSAVE
from edi_checkpoint.documents.reader import stage_of, summarise
from edi_checkpoint.home.offline import FoundState
from edi_checkpoint.model import NOT_OURS, ResumeReport
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.messages import Resumed

CRASH_LOOP: Final = 3  # so many writers in a row died soon after they were shown the state: the point before is offered
TIMINGS: Final = "stage_timings"  # as EDI's pipeline keeps them: seconds by stage
_FOREVER_S = 1e9  # no time that a stage takes
_TIMINGS_DEPTH = 4  # containers around them, at most


def report(session_id: str, state: Mapping[str, JsonText], sequence: int, told: Resumed, now: datetime) -> ResumeReport:
    """Return the report of a writer that continues `state` (key to JSON text) at `now` (aware)."""
    fragments = {key: Fragment(text) for key, text in state.items()}
    updated = datetime.fromtimestamp(told.time_us / 1_000_000, UTC) if state and told.time_us > 0 else None
    status = summarise(fragments)["status"]
    carriers = {
        "file": told.document is not None,
        "journal": told.last >= told.first,
        "outbox": told.drained > 0,
    }
    sources = tuple(name for name, was in carriers.items() if was) or ("journal",)
    return ResumeReport(
        session_id=session_id,
        resumed=bool(state),
        left_as=told.left_as or None,
        stage=stage_of(fragments),
        status=status if isinstance(status, str) else None,
        sequence=sequence,
        updated=updated,
        age_s=None if updated is None else max(0.0, (now - updated).total_seconds()),
        sources=sources if state else (),
        document=told.document,
        from_outbox=told.drained,
        journal_first=told.first if told.last >= told.first else None,
        journal_last=told.last if told.last >= told.first else None,
        gaps=told.gaps,
        work_s=sum(_timed_s(text) for text in state.values()),
        checkpoint=told.newest,
        short_lives=told.short_lives,
        offered=told.before if told.short_lives >= CRASH_LOOP else None,
    )


def told_by_files(found: FoundState) -> Resumed:
    """Return what files and outboxes tell of a state where no daemon does; how it was left they do not."""
    header = found.header
    saved_us = 0 if header is None or header.kind in NOT_OURS else int(header.timestamp.timestamp() * 1_000_000)
    newest_us = max(saved_us, found.time_us)
    newest = found.name if header is None or header.kind != AUTOSAVE else header.previous
    return Resumed("", newest_us, 1, 0, drained=found.from_outbox, document=found.name, newest=newest)


def _timed_s(text: JsonText) -> float:
    """Return the seconds in all `stage_timings` of a value: work that would have to be done again without it."""
    if TIMINGS.encode() not in text:
        return 0.0
    found = [seconds for timings in _timings(msgspec.json.decode(text), 0) for seconds in timings.values()]
    return sum(float(number) for number in found if isinstance(number, int | float) and 0 <= number < _FOREVER_S)


def _timings(value: object, depth: int) -> Iterator[dict[str, object]]:
    if depth > _TIMINGS_DEPTH:
        return
    if isinstance(value, dict):
        for key, part in value.items():
            if key == TIMINGS and isinstance(part, dict):
                yield part
            else:
                yield from _timings(part, depth + 1)
    elif isinstance(value, list):
        for part in value:
            yield from _timings(part, depth + 1)
