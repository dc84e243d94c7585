"""Files that appear whole or not at all. Nothing else in the daemon renames, or opens a document for writing."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from edi_checkpoint.system.paths import ensure_private
from edi_checkpoint.system.paths import sync_folder as sync_folder
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.system.writeback import PART_BYTES, Writeback

_IOV_MAX = 512  # Linux takes 1024, POSIX promises 16; beyond some hundred nothing is gained
_TEMPORARY = ".tmp"


def write_atomic(path: Path, parts: Sequence[bytes]) -> int:
    """Write `parts` as the file `path` (mode 0600), durably, in the place of an older one; return its size in bytes.

    Temporary file, fsync, rename, fsync of the folder: POSIX promises that a rename is atomic, not that it or the data
    is on disk. The temporary's name begins with a dot, which no reader of documents looks for. Raises OSError; an older
    file is then as it was.
    """
    with _in_place(path, parts) as size:
        sync_folder(path.parent)
    return size


def write_new(root: Path, files: Iterable[tuple[str, bytes]], there: Iterable[str] = ()) -> None:
    """Write files below the folder `root`, as whole and as durably as `write_atomic`.

    Their names lead one folder down; each folder is made (0700) and synced once, however many files come into it. Names
    `there` are of files that lie there already, maybe since a moment before a crash: they are made durable too.
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
    """Write a file whose data are durable before it has its name; enter with its size, and the name not durable yet.

    It is closed on leaving: who watches the folder wakes up for that, and would hold up what is waited for here.
    """
    temporary = path.with_name(f".{path.name}{_TEMPORARY}")
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


def _create(temporary: Path, access: int) -> int:
    flags = access | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(temporary, flags, 0o600)
    except FileExistsError:  # left by a crash; unlink follows no link that was planted there
        temporary.unlink(missing_ok=True)
        return os.open(temporary, flags, 0o600)


@contextlib.contextmanager
def appearing(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Open a file (mode 0600) that gets the name `path`, durably, when the block ends well; else nothing is left of it.

    Raises FileExistsError unless `replace`, before anything is written.
    """
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary = path.with_name(f".{path.name}{_TEMPORARY}")
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
        writeback.go_on(size)
    return size


def _batches(parts: Iterable[bytes]) -> Iterator[list[memoryview]]:
    """Yield what is given to the kernel at once: about `PART_BYTES`, in at most `_IOV_MAX` views."""
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
    """Return the temporaries in `folder` of files with names of `ours`: being written just now, or left by a crash."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.removeprefix(".").removesuffix(_TEMPORARY)
            if entry.name == f".{name}{_TEMPORARY}" and ours(name) and not entry.is_dir(follow_symlinks=False):
                found.append(folder / entry.name)
    return found


def sweep_temporaries(folder: Path, ours: Callable[[str], bool] = _of_a_document) -> int:
    """Unlink the temporaries that a crash left in `folder`, of files with names of `ours`; return how many."""
    found = temporaries(folder, ours)
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def set_aside(path: Path, folder: Path, name: str | None = None) -> Path:
    """Move a damaged file into `folder`, as `name` (default: its own), and return where it lies now.

    A name that is taken there gets a number.
    """
    name = name or path.name
    target = folder / name
    number = 0
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
    """Move files by name from one folder into another, durably; return the names that are taken there and so stayed.

    A file that is not there any more is passed over. `moved` is called after each.
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
    """A file of blocks held back, released so that the journal finds room on a full disk."""

    def __init__(self, path: Path, size_bytes: int = 16 << 20) -> None:
        """`path` is the reserve's file; `hold` makes it. What an earlier daemon held is held."""
        self._path = path
        self._size_bytes = size_bytes
        try:
            status = path.lstat()
            self.held = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size == size_bytes
        except FileNotFoundError:
            self.held = False

    def hold(self) -> bool:
        """Take the blocks where as many again stay free; return whether they are held."""
        if self.held:
            return True
        if self._free_bytes() < 2 * self._size_bytes:  # trying would make others' writes fail for a moment
            return False
        try:
            self._path.unlink(missing_ok=True)  # one cut short, or a name that somebody planted
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
        """Give the blocks back for a start on a disk that has less than these left."""
        if self.held and self._free_bytes() < self._size_bytes:
            self.release()

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    def release(self) -> None:
        """Give the blocks back; one that cannot be unlinked gives none."""
        self.held = False
        with contextlib.suppress(OSError):
            self._path.unlink()
