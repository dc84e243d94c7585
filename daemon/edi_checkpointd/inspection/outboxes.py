"""Inspect outboxes: whether each stream can be read to its end, and which files do not belong there.

The end of a living writer's outbox changes and is not checked. A dead writer's last record may be incomplete: the
writer died in the middle of an append, which it had not reported as published.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from edi_checkpoint.documents.names import check_session_id
from edi_checkpoint.errors import ProtocolError, SessionIdError
from edi_checkpoint.outbox.segments import StreamFiles, is_held, list_streams, read_records
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.wire.entries import decode_entry
from edi_checkpoint.wire.records import ENTRY_MAX_BYTES, HEADER, scan
from edi_checkpointd.inspection.findings import Code, Finding, Severity

_OURS = re.compile(r"([0-9a-f]{32})\.(?:lock|[0-9]{8}\.seg)")
_MAKING = re.compile(r"\.(?:attach|[0-9a-f]{32}\.lock)")
_LEFT: Final = "the daemon does not touch it; delete it if you do not need it"
_DRAINED: Final = "the readable part is recovered; `edi-checkpointd check --repair` then sets the rest aside"
_SET_ASIDE: Final = "`edi-checkpointd check --repair` moves its files into damaged/"


def examine(paths: Paths, checked: Counter[str], reached: dict[str, tuple[str, int]]) -> Iterator[Finding]:
    """Yield the faults of the outboxes, count the streams, and fill `reached`: stream to session and last number.

    Raises OSError if a folder cannot be listed.
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
    return Finding(Severity.NOTE, Code.FOREIGN_FILE, what, "it does not belong to an outbox", _LEFT, path)


def _beside(paths: Paths, folder: Path, streams: set[str]) -> Iterator[Finding]:
    """Yield the files in a session's outbox folder that belong to none of its `streams`."""
    try:
        found = sorted(folder.iterdir())
    except FileNotFoundError:
        return  # the daemon drained it meanwhile
    for path in found:
        ours = _OURS.fullmatch(path.name)
        if ours and ours[1] not in streams:
            what, fault = str(path.relative_to(paths.state)), "it has no readable lock file that names its writer"
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
                fault = f"an entry cannot be decoded: {error}"
                yield Finding(Severity.REPAIRABLE, Code.OUTBOX_DAMAGED, what, fault, _DRAINED, segment)
        if held and segment == files.segments[-1]:
            break
        if found := _end(segment, end):
            cut_off = found == _CUT_OFF and segment == files.segments[-1]
            kind = (Severity.NOTE, Code.OUTBOX_CUT_OFF) if cut_off else (Severity.REPAIRABLE, Code.OUTBOX_DAMAGED)
            yield Finding(*kind, what, found, _DRAINED, segment)
            break  # the daemon stops reading there, too
    reached[stream] = (session_id, last)


_CUT_OFF: Final = "its last record is incomplete: the writer died before it was published"


def _end(segment: Path, end: int) -> str | None:
    """Return the fault of what follows a segment's complete records, which end at byte `end`; None: nothing follows."""
    try:
        with segment.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(end)
            head = file.read(HEADER.size)
    except FileNotFoundError:
        return None  # trimmed or drained meanwhile
    if size == end:
        return None
    if len(head) == HEADER.size and any(head):  # a power cut can leave zeros: that is a cut-off end, too
        length, _, _ = HEADER.unpack(head)
        if length <= ENTRY_MAX_BYTES and end + HEADER.size + length > size:
            return _CUT_OFF
        return f"no record begins at byte {end} of {size}; the rest cannot be read"
    return _CUT_OFF
