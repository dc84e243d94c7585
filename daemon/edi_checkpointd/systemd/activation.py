"""Socket activation: the listening socket that the service manager opened, and holds while daemons come and go.

Whoever connects while no daemon runs waits in that socket's queue for the next one.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.link.autostart import is_listened_to
from edi_checkpoint.system.paths import Paths
from edi_checkpointd.system.lock import DaemonRuns

_FIRST_FD = 3  # sd_listen_fds(3)
_PATIENCE_S = 0.5  # with a daemon that was killed: its lock falls a moment before its socket


class ActivationError(EdiCheckpointError):
    """The service manager handed over what is not our socket."""

    code = "activation"
    default_hint = "`edi-checkpointd install` writes units that fit each other"


def inherited_socket(environ: MutableMapping[str, str], path: str) -> int | None:
    """Return the descriptor of the listening socket that was handed to this process, None without one.

    No Python object is left on it: libzmq is going to close it. Its variables are removed and it is closed on exec, for
    what this process starts has nothing to do with it. Raises `ActivationError` if it is not the socket at `path`.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or count == "0":
        return None
    if count != "1":
        raise ActivationError(f"{count} sockets were handed over by the service manager, one is expected")
    try:
        with socket.socket(fileno=os.dup(_FIRST_FD)) as copy:
            listens = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            name = copy.getsockname()
    except OSError as error:
        raise ActivationError(f"descriptor {_FIRST_FD}, handed over by the service manager: {error}") from error
    if not listens or name != path:
        raise ActivationError(f"the service manager listens on {name!r}, this daemon's socket is {path}")
    os.set_inheritable(_FIRST_FD, False)
    return _FIRST_FD


def still_reached(paths: Paths, handed_fd: int | None) -> int | None:
    """Return `handed_fd` if who connects to the path reaches it, None when the path is to be bound anew.

    To be asked by whoever holds the folder's lock: then no daemon of this folder listens, so what listens without
    having been handed to us belongs to somebody else, and binding would take the path from it without a sound. Raises
    `DaemonRuns` for that.
    """
    if handed_fd is not None:
        if is_listened_to(paths):
            return handed_fd
        os.close(handed_fd)  # somebody has unlinked its path
        return None
    begun_s = time.monotonic()
    while is_listened_to(paths):
        if time.monotonic() - begun_s > _PATIENCE_S:
            raise DaemonRuns(
                f"{paths.socket} is listened on, by the service manager for its daemon or by a daemon of other folders",
                hint="`systemctl --user start edi-checkpointd` starts that daemon, and "
                "`systemctl --user stop edi-checkpointd.socket` frees the path",
            )
        time.sleep(0.01)
    return None
