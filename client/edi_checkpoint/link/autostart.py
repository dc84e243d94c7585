"""Starts a daemon for a client that finds none.

All clients together try once in 10 s, unless the last daemon left in order. The user's service manager starts the
daemon if our unit is installed; otherwise this interpreter does, detached. No program is searched in PATH. The daemon
inherits no descriptors, environment, folder or session from here; `edi_checkpointd.system.daemonize` resets signals,
umask and parent.
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
_TRIED, _FAILED = b"1", b"0"  # the result of the last try, in the stamp file
_INHERITED = ("HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR")
SYSTEMCTL = Path("/usr/bin/systemctl")
_SYSTEMCTL_S = 1.5  # after this time, a service manager that hangs is ignored
UNIT = "edi-checkpointd.service"
_UNIT_FOLDERS = (  # systemd.unit(5); the first two are in the home folder
    ".config/systemd/user", ".local/share/systemd/user", "/etc/systemd/user", "/run/systemd/user",
    "/usr/local/lib/systemd/user", "/usr/local/share/systemd/user", "/usr/lib/systemd/user", "/usr/share/systemd/user",
)  # fmt: skip


def is_listened_to(paths: Paths) -> bool:
    """Return whether a daemon listens on the socket, or the service manager, which starts one for a connection."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(paths.socket))
        except BlockingIOError:  # a listener's queue is full
            return True
        except OSError:
            return False
    return True


def daemon_command() -> list[str]:
    """Return the command that runs the daemon with this interpreter, in any environment and folder."""
    # -I hides the user's site-packages, so -EP is used where the daemon is installed there with this package.
    in_user_site = site.ENABLE_USER_SITE and Path(__file__).is_relative_to(site.getusersitepackages())
    return [sys.executable, "-EP" if in_user_site else "-I", "-m", "edi_checkpointd"]


def start_daemon(paths: Paths, timeout_s: float) -> bool:
    """Start a daemon, unless a client tried within 10 s; return whether one may be starting.

    False if EDI_CHECKPOINT_AUTOSTART=0 or the last try failed. Waits at most `timeout_s` for the daemon's report that
    it can run, and 1.5 s for the service manager. A failure is logged, never raised.
    """
    if os.environ.get("EDI_CHECKPOINT_AUTOSTART") == "0":
        return False
    try:
        fd = os.open(paths.state / _STAMP, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if (last := _claim(fd)) is not None:
                return last != _FAILED
            reached(ClientPoint.AUTOSTART_CLAIMED)
            started = _by_service_manager(paths) or _by_this_interpreter(timeout_s)
            if not started:
                os.pwrite(fd, _FAILED, 0)
            return started
        finally:
            os.close(fd)
    except OSError as error:
        log.warning("the daemon could not be started: %s", error)
        return False


def start_freely(paths: Paths) -> None:
    """Let the next client start a daemon without the pause, because the last daemon left in order."""
    with contextlib.suppress(OSError):
        (paths.state / _STAMP).unlink()


def _claim(fd: int) -> bytes | None:
    """Claim the right to start a daemon; return None, or the result of another try within the last 10 s.

    The time of the last try is the file's modification time.
    """
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
    """Return the file of our unit that systemd finds for the user with the home folder `home`, or None."""
    files = (Path(home, folder, UNIT) for folder in _UNIT_FOLDERS)
    return next((file for file in files if file.exists()), None)


def _by_service_manager(paths: Paths) -> bool:
    """Start our unit by systemd, if it is installed and would serve `paths`; return whether that succeeded."""
    home = os.environ.get("HOME", "")
    environment = {"HOME": home, "XDG_RUNTIME_DIR": str(paths.runtime.parent)}
    if not home.startswith("/") or paths != locate(environment) or installed_unit(home) is None:
        return False
    try:
        done = subprocess.run(
            [SYSTEMCTL, "--user", "--quiet", "start", UNIT],
            cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=_SYSTEMCTL_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("systemd did not start %s: %s", UNIT, error)
        return False
    return done.returncode == 0


def _by_this_interpreter(timeout_s: float) -> bool:
    """Run `edi_checkpointd run --detached`; return whether its first process reports that the daemon can run."""
    if not sys.executable:
        return False
    environment = {
        name: text
        for name, text in os.environ.items()
        if name in _INHERITED or name.startswith(("EDI_CHECKPOINT_", "XDG_", "LC_"))
    }
    process = subprocess.Popen(
        [*daemon_command(), "run", "--detached"],
        cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True, close_fds=True,
    )  # fmt: skip
    try:
        _, output = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        threading.Thread(target=process.communicate, name="edi-checkpoint-autostart", daemon=True).start()
        return True
    if process.returncode:
        log.warning("the daemon could not be started: %s", output.decode(errors="replace").strip())
    return process.returncode == 0
