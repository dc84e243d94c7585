"""Starts the daemon when a client finds none; at most one try in 10 s by all clients together, unless it left in order.

By the user's service manager where our unit is installed, else by this interpreter, detached. Never by a name looked
up in PATH. What a daemon would inherit is cut off on both sides: here descriptors, environment, folder, session; by
`edi_checkpointd.system.daemonize` signals, umask and parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import site
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from edi_checkpoint.faults import ClientPoint, reached
from edi_checkpoint.system.paths import Paths, locate

log = logging.getLogger(__name__)

_PAUSE_S = 10.0
_STAMP = ".autostart"
_TRIED, _FAILED = b"1", b"0"  # what the stamp file says of the last try
_KEPT = ("HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR")
SYSTEMCTL = Path("/usr/bin/systemctl")
_SYSTEMCTL_S = 1.5  # a service manager that hangs is passed over
UNIT = "edi-checkpointd.service"
_UNIT_FOLDERS = (  # systemd.unit(5); the first two lie in the home folder
    ".config/systemd/user",
    ".local/share/systemd/user",
    "/etc/systemd/user",
    "/run/systemd/user",
    "/usr/local/lib/systemd/user",
    "/usr/local/share/systemd/user",
    "/usr/lib/systemd/user",
    "/usr/share/systemd/user",
)


def is_listened_to(paths: Paths) -> bool:
    """Whether somebody listens on the socket: a daemon, or the service manager, which starts one for who connects."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(paths.socket))
        except BlockingIOError:  # so many wait that there is no room for another
            return True
        except OSError:
            return False
    return True


def daemon_command() -> list[str]:
    """Return how this interpreter is made to run the daemon's program, whatever the environment and the folder."""
    # -I hides what lies in the user's own site-packages; where we lie there, so does the daemon.
    ours = site.ENABLE_USER_SITE and Path(__file__).is_relative_to(site.getusersitepackages())
    return [sys.executable, "-EP" if ours else "-I", "-m", "edi_checkpointd"]


def start_daemon(paths: Paths, timeout_s: float) -> bool:
    """Start a daemon unless that was tried within 10 s; return whether one may be on its way.

    False when EDI_CHECKPOINT_AUTOSTART=0, and when the last try failed. Waits at most `timeout_s` to hear whether the
    daemon can run at all, and 1.5 s for the service manager. Never raises for want of a daemon.
    """
    if os.environ.get("EDI_CHECKPOINT_AUTOSTART") == "0":
        return False
    try:
        fd = os.open(paths.state / _STAMP, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if (last := _claim(fd)) is not None:
                return last != _FAILED
            reached(ClientPoint.AUTOSTART_CLAIMED)
            begun = _by_service_manager(paths) or _by_this_interpreter(timeout_s)
            if not begun:
                os.pwrite(fd, _FAILED, 0)
            return begun
        finally:
            os.close(fd)
    except OSError as error:
        log.warning("the daemon could not be started: %s", error)
        return False


def start_freely(paths: Paths) -> None:
    """Let the next client start a daemon at once: the one before left in order, so the pause has nothing to guard."""
    with contextlib.suppress(OSError):
        (paths.state / _STAMP).unlink()


def _claim(fd: int) -> bytes | None:
    """Claim the right to try; None when it is ours, else what the last try came to. The file's time is its time."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        last = os.pread(fd, 1, 0)
        if last and 0 <= time.time_ns() - os.fstat(fd).st_mtime_ns < _PAUSE_S * 1e9:
            return last
        os.pwrite(fd, _TRIED, 0)
        os.utime(fd)
        return None
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def installed_unit(home: str) -> Path | None:
    """Return the file of our unit where systemd finds it for the user whose home folder is `home`, None without one."""
    files = (Path(home, folder, UNIT) for folder in _UNIT_FOLDERS)
    return next((file for file in files if file.exists()), None)


def _by_service_manager(paths: Paths) -> bool:
    """Have systemd start our unit, if it is installed. It serves the places that it finds by itself, and no others."""
    home = os.environ.get("HOME", "")
    environment = {"HOME": home, "XDG_RUNTIME_DIR": str(paths.runtime.parent)}
    if not home.startswith("/") or paths != locate(environment):
        return False
    if installed_unit(home) is None:
        return False
    try:
        done = subprocess.run(
            [SYSTEMCTL, "--user", "--quiet", "start", UNIT],
            cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=_SYSTEMCTL_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s was not started by systemd: %s", UNIT, error)
        return False
    return done.returncode == 0


def _by_this_interpreter(timeout_s: float) -> bool:
    """Run `edi_checkpointd run --detached`, whose first process ends when it knows that the daemon can run."""
    if not sys.executable:
        return False
    environment = {
        name: text
        for name, text in os.environ.items()
        if name in _KEPT or name.startswith(("EDI_CHECKPOINT_", "XDG_", "LC_"))
    }
    process = subprocess.Popen(
        [*daemon_command(), "run", "--detached"],
        cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True, close_fds=True,
    )  # fmt: skip
    try:
        _, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        threading.Thread(target=process.communicate, name="edi-checkpoint-autostart", daemon=True).start()
        return True
    if process.returncode:
        log.warning("the daemon could not be started: %s", said.decode(errors="replace").strip())
    return process.returncode == 0
