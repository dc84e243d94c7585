"""Records what a process does to the files of its home: `recorder.py LOG daemon|publisher ARG …`.

It replaces functions of Python's `os`, and SQLite's file access by an apsw VFS. Nothing is really synced: the log is
the disk. The log also has the process's reports that something is safe, in order with the operations.
"""

from __future__ import annotations

import fcntl
import os
import runpy
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

sys.path.insert(0, str(Path(__file__).parents[1]))

from crash import disk
from crash.disk import Make, MakeFolder, Names, Rename, Sync, SyncFolder, Told, Truncate, Unlink, Write

from edi_checkpoint.outbox.outbox import Outbox
from edi_checkpoint.system.paths import locate
from edi_checkpoint.wire.messages import Ack
from edi_checkpointd.checkpoints import writer
from edi_checkpointd.checkpoints.policy import Amendment
from edi_checkpointd.intake.listener import Listener

UNRECORDED = ("-shm", "reserve", ".sock")  # SQLite remakes the first; the second is the reserve; the third is no file


class Recorder:
    """The log, and the file of each descriptor. The operations of one process are in their true order."""

    def __init__(self, home: Path, log: Path) -> None:
        self._home = home
        self._names = Names()
        self._inodes = 0
        for operation in disk.read_log(log) if log.exists() else []:
            if isinstance(operation, disk.NameOperation):
                self._names.do(operation)
                self._inodes += isinstance(operation, Make)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._write = os.write
        self._files: dict[int, int] = {}  # descriptor to file
        self._folders: dict[int, str] = {}  # descriptor to folder
        self.lock = threading.RLock()

    def note(self, operation: disk.Operation) -> None:
        with self.lock:
            if isinstance(operation, disk.NameOperation):
                self._names.do(operation)
            self._write(self._log, disk.pack(operation))

    def name(self, path: object) -> str | None:
        """Return the path below the home, None if it is not recorded."""
        text = os.fsdecode(path)
        if text == str(self._home):
            return "."
        if not text.startswith(f"{self._home}/") or text.endswith(UNRECORDED):
            return None
        return text[len(str(self._home)) + 1 :]

    def file(self, name: str) -> int:
        """Return the file of that name; it may be new."""
        if self._names.names.get(name) is None:
            self._inodes += 1
            self.note(Make(name, self._inodes))
        return self._names.names[name]

    def knows(self, name: str | None) -> bool:
        return name is not None and name in self._names.names

    # -- Python's os ---------------------------------------------------------------------------------------------------

    def tap_os(self) -> None:
        """Replace the functions that change files."""
        for function in (
            self.open, self.close, self.write, self.writev, self.pwrite, self.ftruncate, self.fsync, self.rename,
            self.unlink, self.mkdir, self.rmdir,
        ):  # fmt: skip
            setattr(os, function.__name__, self._tapped(function, getattr(os, function.__name__)))
        os.fdatasync = os.fsync
        os.replace = os.rename
        os.remove = os.unlink

    def _tapped(self, function: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
        def tapped(*arguments: Any, **options: Any) -> Any:
            with self.lock:
                return function(real, *arguments, **options)

        return tapped

    def open(self, real: Any, path: Any, flags: int, *rest: Any, **options: Any) -> int:
        fd: int = real(path, flags, *rest, **options)
        name = self.name(path) if not options else None
        if name is None:
            assert not options.get("dir_fd"), path
            return fd
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self._folders[fd] = name
        elif flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and (flags & os.O_CREAT or self.knows(name)):
            self._files[fd] = self.file(name)
            if flags & os.O_TRUNC:
                self.note(Truncate(self._files[fd], 0))
        return fd

    def close(self, real: Any, fd: int) -> None:
        self._files.pop(fd, None)
        self._folders.pop(fd, None)
        real(fd)

    def write(self, real: Any, fd: int, data: Any) -> int:
        return self._written(fd, self._offset(fd), data, real(fd, data))

    def writev(self, real: Any, fd: int, parts: Any) -> int:
        return self._written(fd, self._offset(fd), b"".join(parts), real(fd, parts))

    def pwrite(self, real: Any, fd: int, data: Any, offset: int) -> int:
        return self._written(fd, offset, data, real(fd, data, offset))

    def _offset(self, fd: int) -> int:
        if fd not in self._files:
            return 0
        appends = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        return os.fstat(fd).st_size if appends else os.lseek(fd, 0, os.SEEK_CUR)

    def _written(self, fd: int, offset: int, data: Any, count: int) -> int:
        if fd in self._files:
            self.note(Write(self._files[fd], offset, bytes(data)[:count]))
        return count

    def ftruncate(self, real: Any, fd: int, size: int) -> None:
        real(fd, size)
        if fd in self._files:
            self.note(Truncate(self._files[fd], size))

    def fsync(self, real: Any, fd: int) -> None:
        if fd in self._folders:
            self.note(SyncFolder(self._folders[fd]))
        elif fd in self._files:
            self.note(Sync(self._files[fd]))
        else:
            real(fd)

    def rename(self, real: Any, path: Any, to: Any, **options: Any) -> None:
        real(path, to, **options)
        old, new = self.name(path), self.name(to)
        if old is not None and new is not None and self.knows(old):
            self.note(Rename(old, new))

    def unlink(self, real: Any, path: Any, **options: Any) -> None:
        real(path, **options)
        assert not options.get("dir_fd"), path
        if self.knows(name := self.name(path)):
            self.note(Unlink(name))

    def mkdir(self, real: Any, path: Any, mode: int = 0o777, **options: Any) -> None:
        real(path, mode, **options)
        if (name := self.name(path)) not in (None, "."):
            self.note(MakeFolder(name))

    def rmdir(self, real: Any, path: Any, **options: Any) -> None:
        real(path, **options)
        if self.knows(name := self.name(path)):
            self.note(Unlink(name))


class RecordingVfs(apsw.VFS):
    """Records SQLite's file operations, and passes them to the unix VFS."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        super().__init__("recording", "unix", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return RecordingFile(self._recorder, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:
        with self._recorder.lock:
            super().xDelete(name, False)
            if self._recorder.knows(known := self._recorder.name(name)):
                assert known is not None
                self._recorder.note(Unlink(known))
                if syncdir:
                    self._recorder.note(SyncFolder(str(Path(known).parent)))


class RecordingFile(apsw.VFSFile):
    """One file of SQLite's."""

    def __init__(self, recorder: Recorder, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._recorder = recorder
        text = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        with recorder.lock:
            super().__init__("unix", name, flags)
            found = recorder.name(text)
            writes = flags[0] & apsw.SQLITE_OPEN_READWRITE
            self._new = writes and found is not None and not recorder.knows(found)
            self._inode = recorder.file(found) if found is not None and writes else None
            # SQLite syncs the folder of a journal or WAL that it has made, as it syncs that for the first time.
            logs = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
            self._folder = str(Path(found).parent) if found is not None and self._new and flags[0] & logs else None

    def xWrite(self, data: bytes, offset: int) -> None:
        with self._recorder.lock:
            super().xWrite(data, offset)
            if self._inode is not None:
                self._recorder.note(Write(self._inode, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        with self._recorder.lock:
            super().xTruncate(size)
            if self._inode is not None:
                self._recorder.note(Truncate(self._inode, size))

    def xSync(self, flags: int) -> None:
        if self._inode is not None:
            self._recorder.note(Sync(self._inode))
            if self._folder is not None:
                self._recorder.note(SyncFolder(self._folder))
                self._folder = None


def tap_promises(recorder: Recorder) -> None:
    """Write each report to others into the log, before it is sent."""
    send, written, sync = Listener.send, writer.Written, Outbox.sync

    def sends(self: Listener, routing_id: bytes, message: Any) -> bool:
        if isinstance(message, Ack):
            recorder.note(Told("acknowledged", message.stream, message.number))
        return send(self, routing_id, message)

    def writes(*fields: Any) -> Any:
        result = written(*fields)
        if result.error is None and not isinstance(result.wish, Amendment):  # whose state is not newer
            recorder.note(Told("in a file", result.session_id, result.state.sequence))
        return result

    def syncs(self: Outbox) -> None:
        spooled = self.spooled
        sync(self)
        recorder.note(Told("synced", self.stream, spooled))

    Listener.send, writer.Written, Outbox.sync = sends, writes, syncs


if __name__ == "__main__":
    _, log, program, *arguments = sys.argv
    recorder = Recorder(locate().sessions.parent, Path(log))
    recorder.tap_os()
    vfs = RecordingVfs(recorder)
    tap_promises(recorder)
    if program == "daemon":
        sys.argv[1:] = arguments
        runpy.run_module("edi_checkpointd", run_name="__main__", alter_sys=True)
    else:
        puppet = str(Path(__file__).parents[1] / "publishers" / "puppet.py")
        sys.argv = [puppet, *arguments]
        runpy.run_path(puppet, run_name="__main__")
