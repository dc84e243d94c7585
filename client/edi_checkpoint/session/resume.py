"""The resume report: where a session's state came from, how the last writer left it, and how much work it contains.

The daemon resumes a session (`WriterAccess.attach`); this module only words the report. It is made from the daemon's
answer, or from the files, and from the state itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from edi_checkpoint.documents.fragments import Fragment, stage_of, summarise
from edi_checkpoint.documents.layout import AUTOSAVE
from edi_checkpoint.home.offline import FoundState
from edi_checkpoint.model import NOT_OURS, ResumeReport
from edi_checkpoint.system.times import to_us
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.messages import Resumed

CRASH_LOOP: Final = 3  # writers in a row that died soon after they resumed; then an older checkpoint is offered
TIMINGS: Final = "stage_timings"  # a key of EDI's pipeline: seconds by stage
_SECONDS_MAX = 1e9  # of one stage; a larger number is no duration
_DEPTH_MAX = 4  # of containers around the timings


def report(
    session_id: str, state: Mapping[str, JsonText], sequence: int, resumed: Resumed, now: datetime
) -> ResumeReport:
    """Return the report for a writer that continues `state` (JSON text by key) at `now` (aware)."""
    fragments = {key: Fragment(text) for key, text in state.items()}
    updated = datetime.fromtimestamp(resumed.time_us / 1_000_000, UTC) if state and resumed.time_us > 0 else None
    status = summarise(fragments)["status"]
    journal = (resumed.first, resumed.last) if resumed.last >= resumed.first else (None, None)
    used = {"file": resumed.document is not None, "journal": journal != (None, None), "outbox": resumed.drained > 0}
    sources = tuple(name for name, is_used in used.items() if is_used) or ("journal",)
    return ResumeReport(
        session_id=session_id, resumed=bool(state), left_as=resumed.left_as or None,
        stage=stage_of(fragments), status=status if isinstance(status, str) else None, sequence=sequence,
        updated=updated, age_s=None if updated is None else max(0.0, (now - updated).total_seconds()),
        sources=sources if state else (), document=resumed.document, from_outbox=resumed.drained,
        journal_first=journal[0], journal_last=journal[1], gaps=resumed.gaps,
        work_s=sum(map(_work_s, state.values())), checkpoint=resumed.newest, short_lives=resumed.short_lives,
        offered=resumed.before if resumed.short_lives >= CRASH_LOOP else None,
    )  # fmt: skip


def resumed_from_files(found: FoundState) -> Resumed:
    """Return what files and outboxes say about a state, without a daemon. They do not say how the last writer left."""
    header = found.header
    saved_us = 0 if header is None or header.kind in NOT_OURS else to_us(header.timestamp)
    newest = found.name if header is None or header.kind != AUTOSAVE else header.previous
    newest_us = max(saved_us, found.time_us)
    return Resumed("", newest_us, 1, 0, drained=found.from_outbox, document=found.name, newest=newest)


def _work_s(text: JsonText) -> float:
    """Return the sum of all `stage_timings` in a value, in seconds: the work to repeat if the value were lost."""
    if TIMINGS.encode() not in text:
        return 0.0
    found = [seconds for timings in _timings(msgspec.json.decode(text), 0) for seconds in timings.values()]
    return sum(float(number) for number in found if isinstance(number, int | float) and 0 <= number < _SECONDS_MAX)


def _timings(value: object, depth: int) -> Iterator[dict[str, object]]:
    """Yield each dict under a key `stage_timings` in `value`, which lies in `depth` containers."""
    if depth > _DEPTH_MAX or not isinstance(value, dict | list):
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        if key == TIMINGS and isinstance(part, dict):
            yield part
        else:
            yield from _timings(part, depth + 1)
