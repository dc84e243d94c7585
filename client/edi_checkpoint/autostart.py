"""Starts the daemon when a client finds none: by this interpreter, detached, never by a name looked up in PATH."""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import subprocess
import sys
import time

from edi_checkpoint.paths import Paths

log = logging.getLogger(__name__)

_PAUSE_S = 10.0  # at most one try in so long, by all clients together
_KEPT = ("HOME", "USER", "LOGNAME", "PATH", "LANG", "TZ", "TMPDIR")


def start_daemon(paths: Paths) -> bool:
    """Start `edi_checkpointd run --detached` unless that was tried within 10 s; return whether one is on its way.

    False when EDI_CHECKPOINT_AUTOSTART=0, or when the daemon is not installed here. The child has its own session, the
    folder `/`, no descriptor of ours and only the variables it needs.
    """
    if os.environ.get("EDI_CHECKPOINT_AUTOSTART") == "0" or importlib.util.find_spec("edi_checkpointd") is None:
        return False
    if not _first_in_a_while(paths):
        return True
    environment = {
        name: text
        for name, text in os.environ.items()
        if name in _KEPT or name.startswith(("EDI_CHECKPOINT_", "XDG_", "LC_"))
    }
    try:
        subprocess.Popen(
            [sys.executable, "-I", "-m", "edi_checkpointd", "run", "--detached"],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            close_fds=True,
        )
    except OSError as error:
        log.warning("the daemon could not be started: %s", error)
        return False
    return True


def _first_in_a_while(paths: Paths) -> bool:
    """Claim the right to start a daemon; the stamp file's time is the last claim."""
    fd = os.open(paths.state / ".autostart", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        age_s = (time.time_ns() - os.fstat(fd).st_mtime_ns) / 1e9
        if os.fstat(fd).st_size and 0 <= age_s < _PAUSE_S:
            return False
        os.pwrite(fd, b"1", 0)
        os.utime(fd)
        return True
    finally:
        os.close(fd)
