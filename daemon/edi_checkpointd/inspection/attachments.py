"""Inspect attachments: the digest of each file, and whether every attachment that a document names exists."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Final

from edi_checkpoint.documents.attachments import has_file, read_outboxes
from edi_checkpoint.documents.names import attachment_name
from edi_checkpoint.errors import VersionMismatch
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import NotRegular, open_regular
from edi_checkpointd.attachments.garbage import unnamed
from edi_checkpointd.attachments.store import Filed
from edi_checkpointd.inspection.documents import Named
from edi_checkpointd.inspection.findings import Code, Finding, Severity
from edi_checkpointd.journal import JournalDamaged, Reader, journal_exists

_PUBLISH: Final = "restore the file from a backup, or save the value again (draw the mask again)"
_SET_ASIDE: Final = "`edi-checkpointd check --repair` moves it into damaged/; then save the value again"
_COLLECTED: Final = "the daemon deletes attachments that have been unused for a day"


def examine(
    paths: Paths, filed: Iterable[Filed], named: Named, checked: Counter[str], progress: Callable[[int], None]
) -> Iterator[Finding]:
    """Yield the faults of the files `filed`, which are counted, and each attachment in `named` without content."""
    for one in filed:
        yield from _file(paths, one, checked, progress)
    for (digest, kind), documents in named.items():
        if has_file(paths.attachments, digest) or _elsewhere(paths, digest):
            continue
        if left := [name for name in documents if (paths.sessions / name).exists()]:
            path = paths.attachments / attachment_name(digest, kind)
            fault = f"it is missing; used by {left[0]}{f' and {len(left) - 1} more' if left[1:] else ''}"
            yield Finding(Severity.REPAIRABLE, Code.ATTACHMENT_MISSING, _what(paths, path), fault, _PUBLISH, path)


def _file(paths: Paths, filed: Filed, checked: Counter[str], progress: Callable[[int], None]) -> Iterator[Finding]:
    try:
        with open_regular(filed.path) as file:
            whole = _digest(file, progress) == filed.digest
    except (FileNotFoundError, NotRegular):
        return  # the daemon deleted it meanwhile
    checked["attachments"] += 1
    if not whole:
        what = _what(paths, filed.path)
        yield Finding(Severity.REPAIRABLE, Code.ATTACHMENT_DAMAGED, what, "digest differs", _SET_ASIDE, filed.path)


def _digest(file: FileIO, progress: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
        progress(len(part))
    return digest.hexdigest()


def _elsewhere(paths: Paths, digest: str) -> bool:
    """Return whether the journal or an outbox has the content of an attachment."""
    with contextlib.suppress(JournalDamaged, VersionMismatch):  # already among the findings
        if journal_exists(paths.journal):
            with contextlib.closing(Reader.open(paths.journal)) as reader, reader.one_view():
                if reader.has_blob(digest):
                    return True
    return bool(read_outboxes([path for path in paths.outbox.glob("*") if path.is_dir()], {digest}))


def orphans(paths: Paths) -> Iterator[Finding]:
    """Yield a note about the attachments that nothing uses. Raises as `attachments.garbage.carriers` does."""
    if found := unnamed(paths) if paths.attachments.exists() else []:
        size_bytes = sum(filed.size_bytes for filed in found)
        fault = f"{len(found)} of its files are unused ({size_bytes} bytes)"
        name = paths.attachments.name
        yield Finding(Severity.NOTE, Code.ATTACHMENT_UNNAMED, name, fault, _COLLECTED, paths.attachments)


def _what(paths: Paths, path: Path) -> str:
    return str(path.relative_to(paths.sessions))
