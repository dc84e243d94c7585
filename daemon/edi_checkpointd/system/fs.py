"""Writes files that are visible whole or not at all. No other module of the daemon renames or writes documents."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from edi_checkpoint.system.paths import ensure_private
from edi_checkpoint.system.paths import sync_folder as sync_folder
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.system.writeback import PART_BYTES, Writeback

_IOV_MAX = 512  # Linux allows 1024, POSIX guarantees 16; more than some hundred are not faster
_TEMPORARY = re.compile(r"\.(.*)\.tmp", re.DOTALL)  # a dot, the final name, .tmp


def write_atomic(path: Path, parts: Sequence[bytes]) -> int:
    """Write `parts` durably to the file `path` (mode 0600), replacing an older file; return its size in bytes.

    It writes a temporary file, syncs it, renames it and syncs the folder: POSIX guarantees that a rename is atomic, but
    not that it or the data is on the disk. The temporary's name begins with a dot, so readers of documents skip it.
    Raises OSError; an older file is then unchanged.
    """
    with _in_place(path, parts) as size:
        sync_folder(path.parent)
    return size


def write_new(root: Path, files: Iterable[tuple[str, bytes]], there: Iterable[str] = ()) -> None:
    """Write files below the folder `root`, atomically and durably as `write_atomic` does.

    Each name consists of one folder and a file name. Each folder is made (0700) and synced once for all its files.
    `there` names files that exist already: an earlier run may have crashed before it synced their folders, so these are
    synced, too.
    """
    folders = {root.parent, root, *((root / name).parent for name in there)}
    ensure_private(root)
    for name, data in files:
        path = root / name
        ensure_private(path.parent)
        with _in_place(path, [data]):
            pass
        folders.add(path.parent)
    for folder in folders:
        sync_folder(folder)


@contextlib.contextmanager
def _in_place(path: Path, parts: Sequence[bytes]) -> Iterator[int]:
    """Write a file, sync it and give it its name; yield its size. The caller then syncs the folder.

    The file is closed at the end of the block: closing it wakes programs that watch the folder, and these would delay
    the sync.
    """
    temporary = _temporary(path)
    fd = _create(temporary, os.O_WRONLY)
    try:
        try:
            size = _write_all(fd, parts)
            os.fsync(fd)
            reached(CrashPoint.TEMPORARY_WRITTEN)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        reached(CrashPoint.RENAMED)
        yield size
    finally:
        os.close(fd)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _create(temporary: Path, access: int) -> int:
    flags = access | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(temporary, flags, 0o600)
    except FileExistsError:  # left by a crash; if it is a symbolic link, unlink removes only the link
        temporary.unlink(missing_ok=True)
        return os.open(temporary, flags, 0o600)


@contextlib.contextmanager
def appearing(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Open a file (mode 0600) for the block; at its end the file is durable and gets the name `path`.

    If the block raises, the file is removed. Without `replace`, it raises FileExistsError at once if `path` exists.
    """
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary = _temporary(path)
    fd = _create(temporary, os.O_RDWR)
    try:
        with os.fdopen(fd, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _write_all(fd: int, parts: Sequence[bytes]) -> int:
    size, writeback = 0, Writeback(fd)
    for views in _batches(parts):
        while views:
            written = os.writev(fd, views)
            size += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]
        writeback.advance(size)
    return size


def _batches(parts: Iterable[bytes]) -> Iterator[list[memoryview]]:
    """Yield the views for one call of writev each: about `PART_BYTES`, in at most `_IOV_MAX` views."""
    views: list[memoryview] = []
    size = 0
    for part in parts:
        for start in range(0, len(part), PART_BYTES):
            views.append(memoryview(part)[start : start + PART_BYTES])
            size += len(views[-1])
            if size >= PART_BYTES or len(views) == _IOV_MAX:
                yield views
                views, size = [], 0
    yield views


def _of_a_document(name: str) -> bool:
    return name.endswith(".json")


def temporaries(folder: Path, ours: Callable[[str], bool] = _of_a_document) -> list[Path]:
    """Return the temporary files in `folder` whose final names are `ours`: of a present write, or left by a crash."""
    with os.scandir(folder) as entries:
        files = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
    return [folder / name for name in files if (match := _TEMPORARY.fullmatch(name)) and ours(match[1])]


def sweep_temporaries(folder: Path, ours: Callable[[str], bool] = _of_a_document) -> int:
    """Unlink the temporary files that a crash left in `folder`, if their final names are `ours`; return how many."""
    found = temporaries(folder, ours)
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def set_aside(path: Path, folder: Path, name: str | None = None) -> Path:
    """Move a damaged file into `folder` as `name` (default: its own), and return its new path.

    If `folder` has a file of that name, a number is appended.
    """
    name = name or path.name
    target, number = folder / name, 0
    while target.exists():
        number += 1
        target = folder / f"{name}.{number}"
    path.rename(target)
    reached(CrashPoint.SET_ASIDE)
    sync_folder(folder)
    return target


def rename(path: Path, name: str) -> None:
    """Give a file another name in its folder, durably."""
    path.rename(path.with_name(name))
    sync_folder(path.parent)


def move_files(names: Iterable[str], source: Path, target: Path, moved: Callable[[], None] = lambda: None) -> list[str]:
    """Move files from one folder to another, durably. Return the names of which `target` has a file: these stay.

    Missing files are skipped. `moved` is called after each file.
    """
    stayed = []
    for name in names:
        if os.path.lexists(target / name):
            stayed.append(name)
            continue
        with contextlib.suppress(FileNotFoundError):
            (source / name).rename(target / name)
            moved()
    sync_folder(target)  # first: a power cut may leave a file in both folders, never in none
    sync_folder(source)
    return stayed


class Reserve:
    """A file that reserves disk space; it is deleted on a full disk, so that the journal can be written."""

    def __init__(self, path: Path, size_bytes: int = 16 << 20) -> None:
        """Use the file that an earlier daemon left at `path`, if there is one; `hold` makes it."""
        self._path = path
        self._size_bytes = size_bytes
        try:
            status = path.lstat()
            self.held = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size == size_bytes
        except FileNotFoundError:
            self.held = False

    def hold(self) -> bool:
        """Reserve the space if the same amount stays free besides; return whether it is reserved."""
        if self.held:
            return True
        if self._free_bytes() < 2 * self._size_bytes:  # an attempt would make other writes fail for a moment
            return False
        try:
            self._path.unlink(missing_ok=True)  # an incomplete reserve, or another program's file or link
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._size_bytes)
            finally:
                os.close(fd)
        except OSError:
            self.release()
            return False
        self.held = True
        return True

    def lend(self) -> None:
        """Free the space if the disk has less left than that; for a start on a full disk."""
        if self.held and self._free_bytes() < self._size_bytes:
            self.release()

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    def release(self) -> None:
        """Free the space. If the file cannot be unlinked, this frees nothing and raises nothing."""
        self.held = False
        with contextlib.suppress(OSError):
            self._path.unlink()
