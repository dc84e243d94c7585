"""The whole inspection. The order matters: later parts need the results of earlier ones."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from edi_checkpoint.errors import VersionMismatch
from edi_checkpoint.system.daemon_lock import running
from edi_checkpoint.system.paths import Paths
from edi_checkpointd.attachments.store import listed
from edi_checkpointd.inspection import attachments, folders, journal, outboxes
from edi_checkpointd.inspection.documents import Documents
from edi_checkpointd.inspection.findings import Report, confirmed, report_of
from edi_checkpointd.journal import JournalDamaged

Progress: TypeAlias = Callable[[int, int], None]


def check(paths: Paths) -> Report:
    """Inspect a home and everything in it, and return the report; change nothing. Raises OSError, `JournalRefused`."""
    return _sure(lambda: _look(paths, None, lambda *_: None, everything=True))


def verify(paths: Paths, session_id: str | None = None, progress: Progress = lambda *_: None) -> Report:
    """Inspect documents, attachments and journal rows of one session or of all, and return the report.

    `progress` gets the number of bytes read, and of all. Raises as `check` does.
    """
    return _sure(lambda: _look(paths, session_id, progress, everything=False))


def _sure(look: Callable[[], Report]) -> Report:
    """Run `look` a second time if it finds something; keep only what it finds twice (see the package's docstring)."""
    first = look()
    return confirmed(first, look()) if first.findings else first


def _look(paths: Paths, session_id: str | None, progress: Progress, *, everything: bool) -> Report:
    every, read_bytes, total_bytes = session_id is None, 0, 0

    def read(count: int) -> None:
        nonlocal read_bytes
        read_bytes += count
        progress(read_bytes, max(total_bytes, read_bytes))

    checked: Counter[str] = Counter(checkpoints=0, autosaves=0, attachments=0, entries=0, outboxes=0)
    findings = list(folders.examine(paths, served=running(paths.lock) is not None)) if everything else []
    documents = Documents(paths, session_id, read)
    filed = list(listed(paths.attachments))
    total_bytes = documents.size_bytes + (sum(one.size_bytes for one in filed) if every else 0)
    findings += documents.read(checked)
    if not every:
        filed = [one for one in filed if one.digest in {digest for digest, _ in documents.named}]
        total_bytes += sum(one.size_bytes for one in filed)
    # Outboxes before the journal: an entry that moves meanwhile is then found in both, and not in neither.
    reached: dict[str, tuple[str, int]] = {}
    beside = list(outboxes.examine(paths, checked, reached))
    reach = journal.Reach(documents.newest, reached)
    findings += journal.examine(paths, reach, checked, session_id)
    findings += attachments.examine(paths, filed, documents.named, checked, read)
    if everything:
        findings += beside
        with contextlib.suppress(JournalDamaged, VersionMismatch, OSError):  # already among the findings
            findings += attachments.orphans(paths)
    return report_of(dict(checked), findings)
