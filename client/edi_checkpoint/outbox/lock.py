"""The lock file of a stream: its writer holds a flock on it from the first record to the last.

The operating system releases the lock when the writer dies. The file names the writer (`outbox.segments.Owner`).
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import msgspec

from edi_checkpoint.errors import SessionBusy
from edi_checkpoint.faults import ClientPoint, reached
from edi_checkpoint.outbox.segments import Owner, exclusive, is_held, last_number, list_streams


def acquire_lock(
    folder: Path, stream: str, session_id: str, app: str, parent_session: str | None, *, seen: bool, takeover: bool
) -> tuple[int, dict[str, int]]:
    """Create and lock the lock file of `stream`; return its descriptor and the fenced streams' last numbers.

    With `takeover`, the session's streams of other living writers are fenced. Without, `SessionBusy` names the writer.
    The file is locked before it gets its name, so nobody sees it free while its owner lives.
    """
    with exclusive(folder):
        others = list_streams(folder)
        living = [other for other in others if is_held(other.lock)]
        if living and not takeover:
            owner = living[-1].owner
            raise SessionBusy(
                f"session {session_id}: process {owner.pid} ({owner.app}) writes to it since {owner.since}",
                pid=owner.pid,
                since=owner.since,
            )
        fenced = {other.owner.stream: last_number(other) for other in living}
        owner = Owner(
            stream=stream,
            session_id=session_id,
            parent_session=parent_session,
            app=app,
            pid=os.getpid(),
            since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            order=1 + max((other.owner.order for other in others), default=0),
            seen=seen,
            fenced=fenced,
        )
        temporary = folder / f".{stream}.lock"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, msgspec.json.encode(owner) + b"\n")
            reached(ClientPoint.LOCK_UNNAMED)
            temporary.rename(lock_path(folder, stream))
        except OSError:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        reached(ClientPoint.LOCK_NAMED)
        return fd, fenced


def is_gone(folder: Path, stream: str) -> bool:
    """Return whether the lock file of `stream` was removed: what its writer publishes goes into unnamed files."""
    try:
        lock_path(folder, stream).lstat()
    except FileNotFoundError:
        return True
    return False


def lock_path(folder: Path, stream: str) -> Path:
    """Return the path of the lock file of `stream` in the outbox `folder`."""
    return folder / f"{stream}.lock"
