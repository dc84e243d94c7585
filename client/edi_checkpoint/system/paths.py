"""Where everything lies: folders, files and the socket, from the environment alone.

The only module that knows platformdirs, and it loads it at need. Finding places touches no file but to ask who owns a
runtime folder; `ensure_private` is what makes folders.
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
SOCKET_PATH_MAX_BYTES = 103 if sys.platform == "darwin" else 107  # the kernel's sun_path, less its closing NUL


@dataclass(frozen=True, slots=True)
class Paths:
    """The four places of one user, all absolute; everything else lies at a fixed name below them."""

    sessions: Path
    state: Path
    runtime: Path
    config: Path

    @property
    def socket(self) -> Path:
        """The daemon's socket; `socket_path` gives it checked."""
        return self.runtime / "daemon.sock"

    @property
    def journal(self) -> Path:
        """The journal's SQLite file."""
        return self.state / "journal.sqlite"

    @property
    def outbox(self) -> Path:
        """The folder of the streams' outboxes."""
        return self.state / "outbox"

    @property
    def damaged(self) -> Path:
        """Where a damaged journal and refused frames are set aside."""
        return self.state / "damaged"

    @property
    def log(self) -> Path:
        """The log of a daemon that a client started."""
        return self.state / "daemon.log"

    @property
    def reserve(self) -> Path:
        """The file given up on a full disk."""
        return self.state / "reserve"

    @property
    def forgetting(self) -> Path:
        """What is being purged, until it is."""
        return self.state / "forgetting.json"

    @property
    def damaged_documents(self) -> Path:
        """Where damaged checkpoints and auto-saves are moved."""
        return self.sessions / "damaged"

    @property
    def attachments(self) -> Path:
        """The folder of binary content, by digest."""
        return self.sessions / "attachments"

    @property
    def trash(self) -> Path:
        """Where sessions wait before they are deleted."""
        return self.sessions / "trash"

    @property
    def importing(self) -> Path:
        """Where sessions that are imported wait to be taken."""
        return self.sessions / ".importing"

    @property
    def lock(self) -> Path:
        """The lock of the one daemon of this sessions folder."""
        return self.sessions / ".daemon.lock"

    @property
    def marker(self) -> Path:
        """The file that tells an emptied sessions folder from a new one."""
        return self.sessions / ".edi-checkpoint"


def locate(environ: Mapping[str, str] | None = None) -> Paths:
    """Return the places that `environ` (default: the process's environment) chooses. An empty variable counts as unset.

    `EDI_CHECKPOINT_HOME` moves all four, a single variable overrides one, a leading `~/` means the home folder. Raises
    `ConfigError` for a relative path in one of these variables and where no home folder is known.
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

    together = override(HOME)
    sessions, state, runtime, config = map(override, (SESSIONS_DIR, STATE_DIR, RUNTIME_DIR, CONFIG))
    if together is not None:
        return Paths(
            sessions or together / "sessions",
            state or together / "state",
            runtime or together / "run",
            config or together / "config.toml",
        )
    state = state or _user_folder("state", environ)
    return Paths(
        sessions or _home(environ) / ".edi" / "sessions",
        state,
        runtime or _runtime_folder(state, environ),
        config or _user_folder("config", environ) / "config.toml",
    )


def socket_path(paths: Paths) -> str:
    """Return the socket's path as text that libzmq and the kernel take.

    Raises `FolderError` for a path that is too long for a socket or not UTF-8.
    """
    text = str(paths.socket)
    size_bytes = len(os.fsencode(text))
    if size_bytes > SOCKET_PATH_MAX_BYTES:
        raise FolderError(
            f"the socket's path has {size_bytes} bytes, {SOCKET_PATH_MAX_BYTES} are possible: {text}",
            hint=f"set {RUNTIME_DIR} to a shorter folder of yours, for EDI and the daemon alike",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FolderError(
            f"the socket's path is not UTF-8: {text!r}",
            hint=f"set {RUNTIME_DIR} to a folder with a plain name, for EDI and the daemon alike",
        ) from error
    return text


def ensure_private(folder: Path, *, durable: bool = True) -> None:
    """Make `folder` (absolute) and its parents unless they exist, and keep everybody else out of it (mode 0700).

    What is made is there after a power cut, too, unless it need not be `durable`: what is fsynced in a folder goes with
    that when its own name is not on disk. A link that its user made himself is followed; the mode of the parents is
    left alone. Raises `FolderError` if the folder or the link belongs to somebody else, is no folder, or cannot be
    made, closed or written.
    """
    try:
        new = list(takewhile(lambda place: not place.exists(), (folder, *folder.parents))) if durable else []
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            _refuse_foreign(folder, folder.lstat())
            _refuse_foreign(folder, folder.stat())  # before opening it, which its owner may have forbidden
        # One descriptor for the look and the change: what is put in the folder's place meanwhile is not touched.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _keep_private(folder, descriptor)
        finally:
            os.close(descriptor)
        for place in new:
            with suppress(PermissionError):  # a parent that may be entered, not read: its owner decides
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
            hint=f"mend what the message names, or set {HOME} to a folder of yours elsewhere",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Raises OSError."""
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
                f"{folder} stays open to other users (mode {mode:04o}): its file system keeps no modes",
                hint=f"set {HOME} to a folder on a file system that does",
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
    """Return whose place keeps us out, of `folder` and those above it."""
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
    # A relative path in an XDG variable is to be ignored, says their specification; ours refuse it.
    variable = f"XDG_{kind.upper()}_HOME"
    if path := _absolute(environ.get(variable, ""), environ):
        return path / APP
    home = _home(environ)
    # platformdirs knows other systems' places, but only ever looks at the process's own environment.
    if any(environ.get(name) != os.environ.get(name) for name in ("HOME", variable)):
        return home / (".local/state" if kind == "state" else ".config") / APP
    import platformdirs

    dirs = platformdirs.PlatformDirs(APP, appauthor=False)
    return dirs.user_state_path if kind == "state" else dirs.user_config_path


def _runtime_folder(state: Path, environ: Mapping[str, str]) -> Path:
    # Not platformdirs' choice: without XDG_RUNTIME_DIR that is a temporary folder shared with everybody.
    chosen = _absolute(environ.get("XDG_RUNTIME_DIR", ""), environ)
    if chosen is not None and _is_ours(chosen, missing=True):
        return chosen / APP
    standard = Path(f"/run/user/{os.geteuid()}")
    return (standard / APP) if _is_ours(standard, missing=False) else state / "run"


def _is_ours(folder: Path, *, missing: bool) -> bool:
    """Whether only we can put something into `folder`; `missing` is the answer where there is none."""
    try:
        status = folder.stat()
    except OSError:
        return missing
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWOTH
