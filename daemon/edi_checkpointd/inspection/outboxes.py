"""Outboxes: whether each stream can be read to its end, and what lies beside the streams.

The end of a living writer's outbox is in motion and never looked at. A dead one's may be cut off: an append that was
under way when it died was never reported as published.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from edi_checkpoint.entries import decode_entry
from edi_checkpoint.errors import ProtocolError, SessionIdError
from edi_checkpoint.names import check_session_id
from edi_checkpoint.paths import Paths
from edi_checkpoint.records import ENTRY_MAX_BYTES, HEADER, scan
from edi_checkpoint.spool import StreamFiles, is_held, list_streams, read_records
from edi_checkpointd.inspection.findings import Code, Finding, Severity

_OURS = re.compile(r"([0-9a-f]{32})\.(?:lock|[0-9]{8}\.seg)")
_MAKING = re.compile(r"\.(?:attach|[0-9a-f]{32}\.lock)")
_LEFT: Final = "it is left alone; delete it when you have no use for it"
_DRAINED: Final = "what can be read is taken in; `edi-checkpointd check --repair` then sets the rest aside"
_SET_ASIDE: Final = "`edi-checkpointd check --repair` moves its files into damaged/"


def examine(paths: Paths, checked: Counter[str], reached: dict[str, tuple[str, int]]) -> Iterator[Finding]:
    """Yield what is wrong with the outboxes; count the streams; fill `reached`, by stream: its session, and how far.

    Raises OSError for a folder that cannot be listed.
    """
    for folder in sorted(paths.outbox.iterdir()) if paths.outbox.exists() else ():
        if folder.is_symlink() or not folder.is_dir() or not _names_session(folder.name):
            yield _foreign(paths, folder)
            continue
        streams = list_streams(folder)
        for files in streams:
            checked["outboxes"] += 1
            yield from _stream(paths, files, reached)
        yield from _beside(paths, folder, {files.owner.stream for files in streams})


def _names_session(name: str) -> bool:
    try:
        check_session_id(name)
    except SessionIdError:
        return False
    return True


def _foreign(paths: Paths, path: Path) -> Finding:
    what = str(path.relative_to(paths.state))
    return Finding(Severity.NOTE, Code.FOREIGN_FILE, what, "it is no part of an outbox", _LEFT, path)


def _beside(paths: Paths, folder: Path, streams: set[str]) -> Iterator[Finding]:
    """Yield what lies in a session's outbox folder beside the files of its `streams`."""
    try:
        found = sorted(folder.iterdir())
    except FileNotFoundError:
        return  # drained meanwhile
    for path in found:
        ours = _OURS.fullmatch(path.name)
        if ours and ours[1] not in streams:
            what, fault = str(path.relative_to(paths.state)), "no lock file that can be read says whose it is"
            yield Finding(Severity.REPAIRABLE, Code.OUTBOX_UNOWNED, what, fault, _SET_ASIDE, path)
        elif not ours and not _MAKING.fullmatch(path.name):
            yield _foreign(paths, path)


def _stream(paths: Paths, files: StreamFiles, reached: dict[str, tuple[str, int]]) -> Iterator[Finding]:
    session_id, stream = files.owner.session_id, files.owner.stream
    held = is_held(files.lock)
    last = 0
    for segment in files.segments:
        what = str(segment.relative_to(paths.state))
        end = 0
        for chunk in read_records(replace(files, segments=(segment,))):
            end += len(chunk)
            records = scan(chunk)
            last = max(last, records[-1].number)
            try:
                for record in records:
                    decode_entry(record.entry)
            except ProtocolError as error:
                fault = f"an entry that nobody can read: {error}"
                yield Finding(Severity.REPAIRABLE, Code.OUTBOX_DAMAGED, what, fault, _DRAINED, segment)
        if held and segment == files.segments[-1]:
            break
        if found := _end(segment, end):
            if found == _CUT_OFF and segment == files.segments[-1]:
                yield Finding(Severity.NOTE, Code.OUTBOX_CUT_OFF, what, found, _DRAINED, segment)
            else:
                yield Finding(Severity.REPAIRABLE, Code.OUTBOX_DAMAGED, what, found, _DRAINED, segment)
            break  # readers stop there too
    reached[stream] = (session_id, last)


_CUT_OFF: Final = "its last record was cut off with its writer, and never reported as published"


def _end(segment: Path, end: int) -> str | None:
    """Return what is wrong with a segment behind its whole records, which end at byte `end`; None: nothing follows."""
    try:
        with segment.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(end)
            head = file.read(HEADER.size)
    except FileNotFoundError:
        return None  # trimmed or drained meanwhile
    if size == end:
        return None
    if len(head) == HEADER.size and any(head):  # zeros, too, as a power cut leaves them
        length, _, _ = HEADER.unpack(head)
        if length <= ENTRY_MAX_BYTES and end + HEADER.size + length > size:
            return _CUT_OFF
        return f"byte {end} of {size} begins no record; what follows cannot be read"
    return _CUT_OFF
