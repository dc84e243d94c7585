"""The paths of all folders, files and the socket, as the environment sets them.

Only this module imports platformdirs, and only when needed. Finding the paths touches no file, except for a check of
who owns a runtime folder. `ensure_private` makes folders.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

from edi_checkpoint.errors import ConfigError, FolderError

APP = "edi-checkpoint"
HOME, CONFIG = "EDI_CHECKPOINT_HOME", "EDI_CHECKPOINT_CONFIG"
SESSIONS_DIR, STATE_DIR = "EDI_CHECKPOINT_SESSIONS_DIR", "EDI_CHECKPOINT_STATE_DIR"
RUNTIME_DIR = "EDI_CHECKPOINT_RUNTIME_DIR"
SOCKET_PATH_MAX_BYTES = 103 if sys.platform == "darwin" else 107  # the kernel's sun_path, without its final NUL


class _Below:
    """A property of `Paths`: the path `name` below one of its folders."""

    def __init__(self, folder: str, name: str) -> None:
        self._folder, self._name = folder, name

    def __get__(self, paths: Paths, _: type[Paths]) -> Path:
        folder: Path = getattr(paths, self._folder)
        return folder / self._name


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths of one user, all absolute. Four are set by the environment; all others have fixed names below them."""

    sessions: Path
    state: Path
    runtime: Path
    config: Path

    # in the runtime folder
    socket = _Below("runtime", "daemon.sock")  # `socket_path` returns it as text, checked
    # in the state folder
    journal = _Below("state", "journal.sqlite")
    outbox = _Below("state", "outbox")  # a folder for each session
    damaged = _Below("state", "damaged")  # damaged journals and refused frames
    log = _Below("state", "daemon.log")  # of a daemon that a client started
    reserve = _Below("state", "reserve")  # a file that the daemon deletes when the disk is full
    forgetting = _Below("state", "forgetting.json")  # the purges that are not finished
    # in the sessions folder
    damaged_documents = _Below("sessions", "damaged")
    attachments = _Below("sessions", "attachments")
    trash = _Below("sessions", "trash")
    importing = _Below("sessions", ".importing")  # sessions that are being imported
    lock = _Below("sessions", ".daemon.lock")  # held by the folder's daemon
    marker = _Below("sessions", ".edi-checkpoint")  # tells a folder that the user emptied from a new one


def locate(environ: Mapping[str, str] | None = None) -> Paths:
    """Return the paths that `environ` sets (default: this process's environment). An empty variable counts as unset.

    `EDI_CHECKPOINT_HOME` sets all four paths, and each has a variable of its own that overrides it. A leading `~/`
    means the home folder. Raises `ConfigError` if a variable holds a relative path, or if no home folder is known.
    """
    environ = os.environ if environ is None else environ

    def override(variable: str) -> Path | None:
        if not (text := environ.get(variable, "")):
            return None
        if (path := _absolute(text, environ)) is None:
            raise ConfigError(
                f"{variable}={text!r} is a relative path",
                hint=f"set {variable} to a path that begins with / or ~/, or remove it",
            )
        return path

    home = override(HOME)
    sessions, state, runtime, config = map(override, (SESSIONS_DIR, STATE_DIR, RUNTIME_DIR, CONFIG))
    if home is not None:
        return Paths(
            sessions or home / "sessions",
            state or home / "state",
            runtime or home / "run",
            config or home / "config.toml",
        )
    state = state or _user_folder("state", environ)
    return Paths(
        sessions or _home(environ) / ".edi" / "sessions",
        state,
        runtime or _runtime_folder(state, environ),
        config or _user_folder("config", environ) / "config.toml",
    )


def socket_path(paths: Paths) -> str:
    """Return the socket's path as text. Raises `FolderError` if it is too long for a socket, or not UTF-8."""
    text = str(paths.socket)
    size_bytes = len(os.fsencode(text))
    if size_bytes > SOCKET_PATH_MAX_BYTES:
        raise FolderError(
            f"the socket's path has {size_bytes} bytes, {SOCKET_PATH_MAX_BYTES} are possible: {text}",
            hint=f"set {RUNTIME_DIR} to a folder with a shorter path, for EDI and for the daemon",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FolderError(
            f"the socket's path is not UTF-8: {text!r}",
            hint=f"set {RUNTIME_DIR} to a folder with a plain name, for EDI and for the daemon",
        ) from error
    return text


def ensure_private(folder: Path, *, durable: bool = True) -> None:
    """Make `folder` (absolute) and its missing parents, and forbid other users to enter it (mode 0700).

    If `durable`, new folders survive a power cut: a file that is fsynced in a folder is lost with the folder's name.
    A symbolic link of this user is followed. The mode of existing parents does not change. Raises `FolderError` if the
    folder or the link belongs to another user, if it is not a folder, or if it cannot be made, restricted or written.
    """
    try:
        new = list(takewhile(lambda place: not place.exists(), (folder, *folder.parents))) if durable else []
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            _refuse_foreign(folder, folder.lstat())
            _refuse_foreign(folder, folder.stat())  # before `open`, which its owner may have forbidden
        # The check and the change use one descriptor, so a folder that replaces this one meanwhile is not changed.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _keep_private(folder, descriptor)
        finally:
            os.close(descriptor)
        for place in new:
            with suppress(PermissionError):  # this user may enter the parent, but not read it
                sync_folder(place.parent)
    except FolderError:
        raise
    except (NotADirectoryError, FileExistsError) as error:
        raise FolderError(
            f"{folder}: a file or a broken link stands where a folder has to be",
            hint=f"move it away, or set {HOME} to another folder",
        ) from error
    except PermissionError as error:
        raise FolderError(f"{folder} cannot be made or opened: {what_forbids(folder)}") from error
    except OSError as error:
        raise FolderError(
            f"{folder} cannot be made or opened: {error.strerror or error}",
            hint=f"fix the problem that the message names, or set {HOME} to another folder of yours",
        ) from error


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` onto the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_private(folder: Path, descriptor: int) -> None:
    status = os.fstat(descriptor)
    _refuse_foreign(folder, status)
    if status.st_mode & 0o077:
        os.fchmod(descriptor, 0o700)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            raise FolderError(
                f"{folder} stays open to other users (mode {mode:04o}): its file system has no modes",
                hint=f"set {HOME} to a folder on a file system that has modes",
            )
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise FolderError(
            f"{folder} cannot be written: its mode is {stat.S_IMODE(status.st_mode):04o}, or the disk is read-only",
            hint=f"allow its owner to write (`chmod 700`), or set {HOME} to a folder that can be written",
        )


def _refuse_foreign(folder: Path, status: os.stat_result) -> None:
    us = os.geteuid()
    if status.st_uid == us:
        return
    what = f"the link {folder}" if stat.S_ISLNK(status.st_mode) else str(folder)
    if us == 0:
        hint = f"started with sudo? run it as {_user(status.st_uid)}; or set {HOME} to a folder of root"
    else:
        hint = f"made by a start with sudo? `sudo chown -hR {us} {shlex.quote(str(folder))}`; or set {HOME}"
    raise FolderError(f"{what} belongs to {_user(status.st_uid)}, this process runs as {_user(us)}", hint=hint)


def what_forbids(folder: Path) -> str:
    """Return the mode and owner of `folder`, or of the first folder above it that this process can see."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            status = place.stat()
            return f"{place} has mode {stat.S_IMODE(status.st_mode):04o} and belongs to {_user(status.st_uid)}"
    return "permission denied"


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _home(environ: Mapping[str, str]) -> Path:
    if text := environ.get("HOME", ""):
        if text.startswith("/"):
            return Path(text)
        raise ConfigError(f"HOME={text!r} is a relative path", hint=f"set HOME, or {HOME}, to an absolute path")
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise ConfigError(
            f"no home folder: HOME is not set and uid {os.getuid()} is not in the user database",
            hint=f"set HOME, or {HOME}, to a folder of yours",
        ) from None


def _absolute(text: str, environ: Mapping[str, str]) -> Path | None:
    if text == "~" or text.startswith("~/"):
        return _home(environ) / text[2:].lstrip("/")
    return Path(text) if text.startswith("/") else None


def _user_folder(kind: Literal["state", "config"], environ: Mapping[str, str]) -> Path:
    # The XDG specification says to ignore a relative path in its variables; in ours it is an error.
    variable = f"XDG_{kind.upper()}_HOME"
    if path := _absolute(environ.get(variable, ""), environ):
        return path / APP
    home = _home(environ)
    # platformdirs knows other systems' folders, but reads only this process's own environment.
    if any(environ.get(name) != os.environ.get(name) for name in ("HOME", variable)):
        return home / (".local/state" if kind == "state" else ".config") / APP
    import platformdirs

    dirs = platformdirs.PlatformDirs(APP, appauthor=False)
    return dirs.user_state_path if kind == "state" else dirs.user_config_path


def _runtime_folder(state: Path, environ: Mapping[str, str]) -> Path:
    # Without XDG_RUNTIME_DIR, platformdirs would choose a temporary folder that all users share.
    chosen = _absolute(environ.get("XDG_RUNTIME_DIR", ""), environ)
    if chosen is not None and _is_ours(chosen, missing=True):
        return chosen / APP
    standard = Path(f"/run/user/{os.geteuid()}")
    return (standard / APP) if _is_ours(standard, missing=False) else state / "run"


def _is_ours(folder: Path, *, missing: bool) -> bool:
    """Return whether only this user can make files in `folder`; `missing` if the folder does not exist."""
    try:
        status = folder.stat()
    except OSError:
        return missing
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWOTH
