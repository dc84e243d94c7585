"""Install and uninstall the systemd user service; both keep the data.

`install` checks everything that could prevent the service from working before it writes anything. Both can be repeated,
also over an older installation.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.link.autostart import daemon_command
from edi_checkpoint.system.daemon_lock import running
from edi_checkpoint.system.paths import Paths, locate
from edi_checkpointd.config import SETTINGS
from edi_checkpointd.system.fs import write_atomic
from edi_checkpointd.system.lock import end
from edi_checkpointd.systemd.units import SERVICE, SOCKET, UnitRefused, texts

_ON_DEMAND = "no service is needed: the first client starts a daemon, which ends when unused"
_SYSTEMCTL_S = 60.0  # `systemctl start` waits until the daemon is ready
_STOP_S = 15.0

Say = Callable[[str, object], None]
"""Prints one step for the user: what was done, and to what."""


class Manager:
    """The user's systemd manager, reached by `systemctl --user`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Find the manager. Raises `UnitRefused` if there is none, or if it does not answer this process."""
        self._systemctl = shutil.which("systemctl", path=environ.get("PATH"))
        if self._systemctl is None or not Path("/run/systemd/system").is_dir():  # sd_booted(3)
            raise UnitRefused("this machine does not run systemd, so it has no user services", hint=_ON_DEMAND)
        # A shell started by `su` lacks the variable, though the manager may run.
        runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
        self._environment = {**environ, "XDG_RUNTIME_DIR": runtime}
        try:
            output = self.ask("show-environment")
        except EdiCheckpointError as error:
            raise UnitRefused(
                f"the systemd user manager of {_user()} does not answer: {error}",
                hint=f"log in as {_user()} without su or sudo, or ask an administrator to run "
                f"`loginctl enable-linger {_user()}`; or do not install: {_ON_DEMAND}",
            ) from error
        lines = (line.partition("=") for line in output.splitlines())
        self.environment = {name: "".join(shlex.split(value)) for name, _, value in lines}
        """The environment variables of its units."""

    def ask(self, *words: str) -> str:
        """Return the output of `systemctl --user`. Raises `EdiCheckpointError` with its error message."""
        assert self._systemctl is not None
        try:
            done = subprocess.run(
                [self._systemctl, "--user", *words],
                env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=_SYSTEMCTL_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EdiCheckpointError(f"`systemctl --user {' '.join(words)}`: {error}") from error
        if done.returncode:
            raise EdiCheckpointError(
                f"`systemctl --user {' '.join(words)}`: {done.stderr.strip() or f'exit code {done.returncode}'}",
                hint=f"`systemctl --user status {SERVICE}` and `journalctl --user -u {SERVICE}` show why",
            )
        return done.stdout.strip()

    def state(self, unit: str) -> str:
        """Return the state of a unit: active, inactive, failed …; a missing unit is inactive."""
        return self.ask("show", "--property=ActiveState", "--value", unit)

    @property
    def folder(self) -> Path:
        """The folder where it looks for the user's own units."""
        return _folder(self.environment)


def show(paths: Paths, environ: Mapping[str, str], note: Callable[[str], None]) -> str:
    """Return the units that `install` would write. `note` gets the other steps, or the reason for a refusal."""
    try:
        folder = _usable(paths, environ).folder
        note(f"would write these, and enable {SOCKET}")
    except UnitRefused as error:
        folder = _folder(environ)
        note(f"would be refused: {error}\n  {error.hint}")
    return "\n".join(f"# {folder / name}\n{text}" for name, text in texts(daemon_command()).items())


def install(paths: Paths, environ: Mapping[str, str], say: Say, *, now: bool) -> None:
    """Write and enable the units, and restart a service that runs; with `now`, start it if it does not run.

    Raises `UnitRefused` before anything is changed, and `EdiCheckpointError` if systemd refuses.
    """
    units = texts(daemon_command())
    manager = _usable(paths, environ)
    ran = manager.state(SERVICE) in ("active", "activating", "reloading")
    listened = manager.state(SOCKET) == "active"
    changed = [name for name, text in units.items() if _write(manager.folder / name, text)]
    for name in units:
        say("wrote" if name in changed else "unchanged", manager.folder / name)
    manager.ask("daemon-reload")
    manager.ask("--quiet", "enable", SOCKET)
    if (used := manager.ask("show", "--property=FragmentPath", "--value", SERVICE)) != str(manager.folder / SERVICE):
        raise EdiCheckpointError(f"systemd uses {used or 'no unit'} instead", hint=f"delete it, or {manager.folder}")
    if SOCKET in changed and (ran or listened):
        _stop(manager)  # systemd starts no socket while its service runs
    for failed in (name for name in units if manager.state(name) == "failed"):
        manager.ask("reset-failed", failed)
    if now and not ran:
        _end_another(paths, say)
    if now or listened:
        if manager.state(SOCKET) != "active" and running(paths.lock) is None:
            paths.socket.unlink(missing_ok=True)  # left by a killed daemon; the unit could not listen
        manager.ask("start", SOCKET)
        say("listening", paths.socket)
    if now or ran:
        manager.ask("restart", SERVICE)
        say("restarted" if ran else "started", _served(paths))
    elif not listened:
        say("starts", "with the next client; `edi-checkpointd install --now` starts it now")
    if not Path("/var/lib/systemd/linger", _user()).exists():
        say("note", "it ends when you have logged out everywhere; `loginctl enable-linger` keeps it running")
    for setting in (setting for setting in SETTINGS.values() if environ.get(setting.variable)):
        say("note", f"the service does not see {setting.variable}: set {setting.key} in {paths.config}")


def uninstall(paths: Paths, environ: Mapping[str, str], say: Say) -> None:
    """Stop and disable the service, delete its units, and print the folders of the data, which stays.

    Raises `UnitRefused` if there are units, but no manager that answers.
    """
    folder = _folder(environ)
    try:
        manager = Manager(environ)
        folder = manager.folder
    except UnitRefused as error:
        if (folder / SERVICE).exists() or (folder / SOCKET).exists():
            hint = f"log in so that systemd answers, or delete {folder}/edi-checkpointd.* by hand"
            raise UnitRefused(f"the units may be in use: {error}", hint=hint) from error
    there = [folder / name for name in (SERVICE, SOCKET) if (folder / name).exists()]
    if there:
        manager.ask("--quiet", "disable", *(path.name for path in there))
        for path in there:  # before the service is stopped, so that no client starts it again
            path.unlink()
            say("removed", path)
        _stop(manager)
        manager.ask("daemon-reload")
    else:
        say("nothing", "no service is installed")
    content = {paths.sessions: "checkpoints, attachments", paths.state: "journal, outboxes", paths.config: "settings"}
    for path, what in content.items():
        if path.exists():
            say("kept", f"{path}  ({what})")
    say("note", "`edi-checkpoint purge --all` deletes all saved data; clients still start a daemon on demand")


def _stop(manager: Manager) -> None:
    """Stop the socket, then the service: in the other order, a client in between could start the service again."""
    for name in (SOCKET, SERVICE):
        state = manager.state(name)
        if state != "inactive":  # else systemd may not know the unit any more, and could not stop it
            manager.ask("reset-failed" if state == "failed" else "stop", name)


def _usable(paths: Paths, environ: Mapping[str, str]) -> Manager:
    """Return the manager. Raises `UnitRefused` for anything that would prevent the service from working."""
    if os.geteuid() == 0 and environ.get("SUDO_UID", "0") != "0":
        who = environ.get("SUDO_USER", "yourself")
        raise UnitRefused("with sudo, this would install a service of root", hint=f"run it as {who}, without sudo")
    for path in (Path(sys.executable), Path(__file__)):
        for folder in {Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run")}:
            if path.is_relative_to(folder):
                permanent = "a permanent folder (`python3 -m venv ~/.local/share/edi-checkpoint`)"
                hint = f"install edi-checkpoint in {permanent}, and run its `edi-checkpointd install`"
                raise UnitRefused(f"{path} is in {folder}, which is a temporary folder", hint=hint)
    manager = Manager(environ)
    served = locate(manager.environment)
    for what in ("sessions", "state", "runtime", "config"):
        ours, its = getattr(paths, what), getattr(served, what)
        if ours != its:
            raise UnitRefused(
                f"the service would use {its} for {what}, but this shell uses {ours}",
                hint="unset the variables that begin with EDI_CHECKPOINT_ or XDG_ here; or set them for services, too "
                "(environment.d(5)), and log in again",
            )
    for name in (SERVICE, SOCKET):
        if (unit := manager.folder / name).is_symlink():
            hint = f"run `systemctl --user unmask {name}`, or delete the link"
            raise UnitRefused(f"{unit} is a symbolic link: the unit is masked or stored elsewhere", hint=hint)
    return manager


def _write(path: Path, text: str) -> bool:
    """Write a unit unless the file has the same text; return whether it was written."""
    if path.exists() and path.read_text(errors="replace") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, [text.encode()])
    return True


def _end_another(paths: Paths, say: Say) -> None:
    """End a daemon that systemd did not start, because it holds the lock and the socket."""
    if (holder := running(paths.lock)) is None:
        return
    if not end(paths.lock, holder, _STOP_S):
        raise EdiCheckpointError(f"the daemon (process {holder.pid}) did not end", hint="end it, and try again")
    say("ended", f"the daemon that systemd had not started, process {holder.pid}")


def _served(paths: Paths) -> str:
    holder = running(paths.lock)
    return f"process {holder.pid}, version {holder.version}" if holder else "but it ended again; see its log"


def _folder(environ: Mapping[str, str]) -> Path:
    config = environ.get("XDG_CONFIG_HOME", "")
    home = environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    return (Path(config) if config.startswith("/") else Path(home, ".config")) / "systemd" / "user"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"
