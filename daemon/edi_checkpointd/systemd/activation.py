"""Socket activation: systemd opens the listening socket, and keeps it open between two daemons.

A client that connects while no daemon runs waits in the socket's queue for the next daemon.
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
_KILLED_S = 0.5  # the wait for a killed daemon's socket, which closes a moment after its lock


class ActivationError(EdiCheckpointError):
    """systemd passed sockets to this process that are not this daemon's."""

    code = "activation"
    default_hint = "run `edi-checkpointd install`, which writes matching units"


def inherited_socket(environ: MutableMapping[str, str], path: str) -> int | None:
    """Return the descriptor of the listening socket that systemd passed to this process, None without one.

    No Python object refers to it, since libzmq will close it. Child processes inherit neither the socket nor its
    environment variables. Raises `ActivationError` if it is not the socket at `path`.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or count == "0":
        return None
    if count != "1":
        raise ActivationError(f"systemd passed {count} sockets to the daemon instead of one")
    try:
        with socket.socket(fileno=os.dup(_FIRST_FD)) as copy:
            listens = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            name = copy.getsockname()
    except OSError as error:
        raise ActivationError(f"descriptor {_FIRST_FD} from systemd is not usable: {error}") from error
    if not listens or name != path:
        raise ActivationError(f"systemd listens on {name!r}, but this daemon's socket is {path}")
    os.set_inheritable(_FIRST_FD, False)
    return _FIRST_FD


def still_reached(paths: Paths, inherited_fd: int | None) -> int | None:
    """Return `inherited_fd` if clients that connect to the path reach it; None if the daemon must bind the path itself.

    The caller holds the folder's lock, so no other daemon of this folder listens. If the path is in use without an
    inherited socket, another program owns it, and binding would silently take the path away from it. Raises
    `DaemonRuns` then.
    """
    if inherited_fd is not None:
        if is_listened_to(paths):
            return inherited_fd
        os.close(inherited_fd)  # somebody unlinked its path
        return None
    begun_s = time.monotonic()
    while is_listened_to(paths):
        if time.monotonic() - begun_s > _KILLED_S:
            raise DaemonRuns(
                f"{paths.socket} is in use, by systemd for its daemon or by a daemon of other folders",
                hint="`systemctl --user start edi-checkpointd` starts that daemon, and "
                "`systemctl --user stop edi-checkpointd.socket` frees the path",
            )
        time.sleep(0.01)
    return None
