"""The repair: set aside or fix what an inspection finds, then let the recovery of a start rebuild the rest.

It deletes only temporaries and links. What an inspection still finds afterwards cannot be repaired: a lost attachment,
or a file of another user.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from edi_checkpoint.system.paths import Paths, ensure_private
from edi_checkpointd.config import Config
from edi_checkpointd.inspection.check import check
from edi_checkpointd.inspection.findings import Code, Finding, Report, Result
from edi_checkpointd.recovery.startup import set_journal_aside
from edi_checkpointd.server.run import settle
from edi_checkpointd.system.fs import set_aside
from edi_checkpointd.system.lock import acquire

log = logging.getLogger(__name__)

_OF_THE_JOURNAL = {Code.JOURNAL_DAMAGED, Code.ROWS_MISSING, Code.ENTRIES_MISSING}
_OF_DOCUMENTS = {Code.DOCUMENT_DAMAGED, Code.DOCUMENT_MISNAMED, Code.ATTACHMENT_DAMAGED}


def repair(paths: Paths, config: Config) -> tuple[Report, Result]:
    """Repair a home that no daemon serves; return what was found, or what is left, and the result.

    A second repair changes nothing. Raises `DaemonRuns`, which names the process, and what `server.run.run` raises.
    """
    found = check(paths)  # before the lock is taken, which changes the folders' modes
    with _alone(paths):
        findings = check(paths).findings
        for finding in findings:
            _fix(paths, finding)
        if faults := [one.fault for one in findings if one.code in _OF_THE_JOURNAL]:
            set_journal_aside(paths, "; ".join(faults))
        settle(paths, config)
        after = check(paths)
    if Result.LOST in (found.result, after.result):
        return (found if found.result is Result.LOST else after), Result.LOST
    if after.result is Result.CLEAN and found.result is not Result.CLEAN:
        return found, Result.REPAIRED
    return after, after.result


@contextlib.contextmanager
def _alone(paths: Paths) -> Iterator[None]:
    """Hold the daemon's lock; create the folders and make them private. Raises `DaemonRuns`, `FolderError`."""
    os.umask(0o077)
    for folder in (paths.sessions, paths.state, paths.runtime):
        ensure_private(folder)
    fd = acquire(paths.lock, "", "repair")
    try:
        yield
    finally:
        os.close(fd)


def _fix(paths: Paths, finding: Finding) -> None:
    """Fix one finding; the recovery handles the outboxes."""
    path = finding.path
    if finding.code in _OF_DOCUMENTS:
        _set_aside(path, paths.damaged_documents)
    elif finding.code is Code.OUTBOX_UNOWNED:
        _set_aside(path, paths.damaged)
    elif finding.code in (Code.LINK, Code.TEMPORARY):
        path.unlink(missing_ok=True)
        log.warning("removed file=%s: %s", path, finding.fault)
    elif finding.code is Code.MODE:
        path.chmod(path.lstat().st_mode & 0o700)
        log.warning("made private file=%s: %s", path, finding.fault)


def _set_aside(path: Path, folder: Path) -> None:
    ensure_private(folder)
    log.warning("set aside file=%s", set_aside(path, folder))
