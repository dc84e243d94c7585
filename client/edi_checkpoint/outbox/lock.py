"""The lock file of a stream: the writer holds a flock on it while the stream is open.

The kernel releases the lock when the writer dies. The file describes the writer (`outbox.segments.Owner`).
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
    """Create and lock the lock file of `stream`; return its descriptor and the last numbers of the fenced streams.

    With `takeover`, the streams of living writers are fenced. Otherwise, `SessionBusy` names a living writer. The
    file gets its name after it is locked, so no process finds it free while its writer lives.
    """
    with exclusive(folder):
        others = list_streams(folder)
        living = [other for other in others if is_held(other.lock)]
        if living and not takeover:
            owner = living[-1].owner
            busy = f"session {session_id}: process {owner.pid} ({owner.app}) writes to it since {owner.since}"
            raise SessionBusy(busy, pid=owner.pid, since=owner.since)
        fenced = {other.owner.stream: last_number(other) for other in living}
        owner = Owner(
            stream=stream, session_id=session_id, parent_session=parent_session, app=app, pid=os.getpid(),
            since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            order=1 + max((other.owner.order for other in others), default=0), seen=seen, fenced=fenced,
        )  # fmt: skip
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


def lock_path(folder: Path, stream: str) -> Path:
    """Return the path of the lock file of `stream` in the outbox `folder`."""
    return folder / f"{stream}.lock"
