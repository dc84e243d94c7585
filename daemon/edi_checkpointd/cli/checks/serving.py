"""Checks of the systemd unit, the lock, the socket, and the daemon."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path

from edi_checkpoint.errors import WrongFolder
from edi_checkpoint.home.problems import daemon_hangs
from edi_checkpoint.link.autostart import SYSTEMCTL, UNIT, installed_unit
from edi_checkpoint.system import process
from edi_checkpoint.system.paths import RUNTIME_DIR, socket_path
from edi_checkpoint.wire import messages
from edi_checkpointd.cli.checks.finding import CheckResult, at_fault, fixed_by, skipped, well
from edi_checkpointd.cli.checks.setup import Setup

DESCRIPTORS_WANTED = 512  # the daemon needs two per client, and some for files
DESCRIPTORS_USED_MAX = 0.8
_SYSTEMCTL_S = 5.0


def service(setup: Setup) -> CheckResult:
    """Check that the systemd unit, if there is one, can start the daemon."""
    unit = installed_unit(setup.environ.get("HOME", ""))
    if unit is None:
        if setup.environ.get("EDI_CHECKPOINT_AUTOSTART") == "0" and not setup.held:
            return at_fault(
                "no unit is installed, and EDI_CHECKPOINT_AUTOSTART=0 prevents clients from starting a daemon",
                "unset EDI_CHECKPOINT_AUTOSTART, or keep `edi-checkpointd run` running",
            )
        return skipped("no unit is installed: the first client starts a daemon")
    program = _program_of(unit)
    if program is not None and not os.access(program, os.X_OK):
        return fixed_by("edi-checkpointd install", f"{unit} starts {program}, which no longer exists")
    state, enabled = _systemctl("is-active"), _systemctl("is-enabled")
    if state == "failed":
        again = f"systemctl --user reset-failed {UNIT} && systemctl --user start {UNIT}"
        return fixed_by(again, f"{UNIT} has failed; `journalctl --user -u {UNIT}` shows why")
    if not state:
        return skipped(f"{unit} is installed, but your systemd user manager does not answer here")
    return well(f"{unit}: {enabled or 'unknown'}, {state}")


def _program_of(unit: Path) -> Path | None:
    """Return the program that a unit starts, if the unit names it by an absolute path."""
    for line in unit.read_text(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "ExecStart" and (words := value.split()):
            program = words[0].lstrip("-@:+!")
            return Path(program) if program.startswith("/") else None
    return None


def _systemctl(question: str) -> str:
    """Return systemd's answer about the unit; an empty text if it does not answer."""
    try:
        done = subprocess.run(
            [SYSTEMCTL, "--user", question, UNIT], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_SYSTEMCTL_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def lock(setup: Setup) -> CheckResult:
    """Check that the lock is free, or held by the daemon that it names."""
    path, quoted = setup.paths.lock, shlex.quote(str(setup.paths.lock))
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return well("free; no daemon has served this folder yet")
    if not stat.S_ISREG(status.st_mode):
        return fixed_by(f"mv {quoted} {quoted}.moved", f"{path} is not a regular file: no daemon can lock it")
    holder = setup.holder
    if not setup.held:
        return well(f"free; last held by process {holder.pid}" if holder else "free")
    if holder is None:
        pid = _holder_by_kernel(status)
        by = f"process {pid}" if pid else "an unknown process"
        message = f"{path} is held by {by}, but does not name it: clients cannot find that daemon"
        return fixed_by(f"kill {pid}", message) if pid else at_fault(message, "end that process")
    return well(f"held by process {holder.pid} since {holder.started}")


def _holder_by_kernel(status: os.stat_result) -> int | None:
    """Return the process that holds a lock on the file of `status`, from /proc/locks."""
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for fields in map(str.split, lines):
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == inode and fields[4].isdigit():
            return int(fields[4])
    return None


def socket(setup: Setup) -> CheckResult:
    """Check that the socket can be created, is a socket, and is open only to this user."""
    path = Path(socket_path(setup.paths))
    quoted = shlex.quote(str(path))
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        if setup.held and setup.holder and Path(setup.holder.socket) == path:
            return fixed_by("edi-checkpointd stop", f"{path} is missing, but process {setup.holder.pid} serves it")
        return well(f"{path} does not exist yet; its path has {len(os.fsencode(path))} bytes")
    if not stat.S_ISSOCK(status.st_mode):
        return fixed_by(f"mv {quoted} {quoted}.moved", f"{path} is not a socket")
    if status.st_uid != os.geteuid():
        return fixed_by(f"sudo rm {quoted}", f"{path} belongs to uid {status.st_uid}, but you are uid {os.geteuid()}")
    if (mode := stat.S_IMODE(status.st_mode)) & 0o077:
        return fixed_by(f"chmod 600 {quoted}", f"{path} is open to other users (mode {mode:04o})")
    if not setup.held and setup.listener is None:
        return well(f"{path}, left by a dead daemon; the next daemon replaces it")
    return well(str(path))


def daemon(setup: Setup) -> CheckResult:
    """Check that the daemon that holds the lock also answers, and serves our folder."""
    holder = setup.holder if setup.held else None
    if holder is None and setup.listener is None:
        return skipped("not running")
    greeting = setup.greeting
    if isinstance(greeting, messages.Error):
        if greeting.code == WrongFolder.code:
            message = f"process {setup.listener} listens on our socket, but serves another folder: {greeting.message}"
            return at_fault(message, f"set {RUNTIME_DIR} to a different folder for one of the two homes")
        return at_fault(f"process {setup.listener} refuses the connection: {greeting.message}", greeting.hint)
    if greeting is None:
        pid = holder.pid if holder else setup.listener
        trouble = daemon_hangs(pid)
        return fixed_by(f"kill -9 {pid}", f"{trouble.message.split(';')[0]}: {trouble.hint}")
    if holder is None:
        message = f"process {greeting.pid} answers, but no longer holds the lock of {setup.paths.sessions}"
        return fixed_by(f"kill {greeting.pid}", f"{message}: the folder was replaced while it ran")
    return well(f"process {greeting.pid} answers")


def versions(setup: Setup) -> CheckResult:
    """Check that client and daemon have the same version."""
    running = setup.greeting if setup.held else None
    if not isinstance(running, messages.Welcome):
        return well(f"{setup.version}, client and daemon") if not setup.held else skipped("the daemon does not answer")
    if running.version != setup.version:
        message = f"the client is {setup.version}, but the running daemon is still {running.version}"
        return fixed_by("edi-checkpointd stop", f"{message}; the next client starts the new one")
    return well(f"{setup.version}, client and daemon")


def descriptors(setup: Setup) -> CheckResult:
    """Check that the daemon may open enough files. A new daemon inherits this process's limit."""
    ours = process.descriptors(os.getpid())
    its = process.descriptors(setup.holder.pid) if setup.held and setup.holder else ours
    if ours is None or its is None:
        return skipped("this system does not report it")
    if its.limit >= max(DESCRIPTORS_WANTED, int(its.open / DESCRIPTORS_USED_MAX)):
        return well(f"at most {its.limit:,}")
    message = f"the daemon may open {its.limit} files, and has {its.open} open: it ends when it reaches the limit"
    if ours.limit > its.limit:
        return fixed_by("edi-checkpointd stop", f"{message}; the next daemon may open {ours.limit:,}")
    return at_fault(message, "raise `nofile` of your user in /etc/security/limits.conf, and log in again")
