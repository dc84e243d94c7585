"""A model of a disk that loses unsynced data: the operations of a recorded run, and the states after a power cut.

An fsync of a file makes its content durable, and an fsync of a folder its names. Nothing else does: file systems
guarantee more, POSIX does not. After a cut, each other sector may be there or not, a file may have any size that it
had, and the names may be at any point of their operations, in order for each name. A rename is one step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

SECTORS: Final = (512, 4096)


class Make(msgspec.Struct, tag=True, frozen=True):
    """A file was made; `inode` is the recorder's own number."""

    path: str
    inode: int


class MakeFolder(msgspec.Struct, tag=True, frozen=True):
    path: str


class Write(msgspec.Struct, tag=True, frozen=True):
    inode: int
    offset: int
    data: bytes


class Truncate(msgspec.Struct, tag=True, frozen=True):
    inode: int
    size: int


class Sync(msgspec.Struct, tag=True, frozen=True):
    inode: int


class SyncFolder(msgspec.Struct, tag=True, frozen=True):
    path: str


class Rename(msgspec.Struct, tag=True, frozen=True):
    path: str
    to: str


class Unlink(msgspec.Struct, tag=True, frozen=True):
    """A file or an empty folder was removed."""

    path: str


class Told(msgspec.Struct, tag=True, frozen=True):
    """The process reported to others that something is safe."""

    what: str
    of: str
    number: int


Operation = Make | MakeFolder | Write | Truncate | Sync | SyncFolder | Rename | Unlink | Told
NameOperation = Make | MakeFolder | Rename | Unlink
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Operation).decode


def pack(operation: Operation) -> bytes:
    """Return an operation as a record of the log."""
    data = _encode(operation)
    return len(data).to_bytes(4, "little") + data


def read_log(path: Path) -> list[Operation]:
    """Return the operations of a log, without an incomplete one at its end."""
    data, offset, found = path.read_bytes(), 0, []
    while offset + 4 <= len(data):
        end = offset + 4 + int.from_bytes(data[offset : offset + 4], "little")
        if end > len(data):
            break
        found.append(_decode(data[offset + 4 : end]))
        offset = end
    return found


class Names:
    """The file, or the folder (None), of each name."""

    def __init__(self, names: dict[str, int | None] | None = None) -> None:
        self.names: dict[str, int | None] = dict(names or {})

    def do(self, operation: NameOperation) -> None:
        match operation:
            case Make(path, inode):
                self.names[path] = inode
            case MakeFolder(path):
                self.names.setdefault(path, None)
            case Unlink(path):
                self.names.pop(path, None)
            case Rename(path, to):
                for name in [name for name in self.names if name == path or name.startswith(path + "/")]:
                    self.names[to + name[len(path) :]] = self.names.pop(name)

    def reachable(self) -> Iterator[tuple[str, int | None]]:
        """Yield the names whose folders all exist."""
        for name, inode in sorted(self.names.items()):
            if all(str(parent) in self.names for parent in PurePosixPath(name).parents if str(parent) != "."):
                yield name, inode


@dataclass
class Content:
    """A file's durable bytes, and the operations since its last sync."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)

    def sync(self) -> None:
        self.durable = bytearray(self.cut(Kept()))
        self.pending = []

    def cut(self, chooser: Chooser) -> bytes:
        """Return a content that a cut could leave."""
        sizes = [len(self.durable)]
        for one in self.pending:
            sizes.append(one.size if isinstance(one, Truncate) else max(sizes[-1], one.offset + len(one.data)))
        steps = chooser.prefix(len(self.pending))
        found = bytearray(self.durable)
        for at, one in enumerate(self.pending):
            if isinstance(one, Truncate):
                if at < steps:
                    del found[one.size :]
                continue
            for start, piece in _sectors(one, chooser.sector):
                if kept := chooser.piece(piece):
                    found.extend(bytes(max(0, start - len(found))))
                    found[start : start + len(kept)] = kept
        size = sizes[steps]
        return bytes(found[:size]) + bytes(max(0, size - len(found)))


def _sectors(write: Write, sector: int) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start < len(write.data):
        end = min(len(write.data), start + sector - (write.offset + start) % sector)
        yield write.offset + start, write.data[start:end]
        start = end


class Chooser:
    """Decides which unsynced operations a cut leaves: none."""

    sector = 512

    def name(self) -> bool:
        return False

    def prefix(self, steps: int) -> int:
        return 0

    def piece(self, data: bytes) -> bytes:
        return b""


class Kept(Chooser):
    """All operations, as if everything was synced."""

    def name(self) -> bool:
        return True

    def prefix(self, steps: int) -> int:
        return steps

    def piece(self, data: bytes) -> bytes:
        return data


class NamesKept(Chooser):
    """All names and sizes, no data: the files of a rename without an fsync."""

    def name(self) -> bool:
        return True

    def prefix(self, steps: int) -> int:
        return steps


class DataKept(Kept):
    """All data, no names: new files have no name, and removed files are back."""

    def name(self) -> bool:
        return False


class SizesKept(Chooser):
    """All sizes, no data and no names: removed files are back, and unsynced parts read as zeros."""

    def prefix(self, steps: int) -> int:
        return steps


class Chance(Chooser):
    """Each part on its own with the probability `part`; some sectors are torn."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._part = chance.choice((0.1, 0.5, 0.9))
        self.sector = chance.choice(SECTORS)

    def name(self) -> bool:
        return self._chance.random() < self._part

    def prefix(self, steps: int) -> int:
        return self._chance.randint(0, steps)

    def piece(self, data: bytes) -> bytes:
        if self._chance.random() >= self._part:
            return b""
        return data[: self._chance.randrange(len(data))] if self._chance.random() < 0.05 else data


CHOOSERS: tuple[Callable[[random.Random], Chooser], ...] = (
    lambda _: Chooser(),
    Chance,
    lambda _: NamesKept(),
    Chance,
    lambda _: DataKept(),
    Chance,
    lambda _: SizesKept(),
    Chance,
    lambda _: Kept(),
)


class Disk:
    """The disk after some operations; `cut` returns what a power cut would leave."""

    def __init__(self) -> None:
        self.durable = Names()
        self.pending: list[NameOperation] = []
        self.contents: dict[int, Content] = {}
        self.told: dict[tuple[str, str], int] = {}  # what, of what: the highest number

    def do(self, operation: Operation) -> None:
        match operation:
            case Write() | Truncate():
                self.contents[operation.inode].pending.append(operation)
            case Sync(inode):
                self.contents[inode].sync()
            case SyncFolder(path):
                self._sync_folder(path)
            case Told(what, of, number):
                self.told[what, of] = max(number, self.told.get((what, of), 0))
            case _:
                if isinstance(operation, Make):
                    self.contents[operation.inode] = Content()
                self.pending.append(operation)

    def _sync_folder(self, folder: str) -> None:
        """Make the names in `folder` durable, with all earlier operations on the same names."""
        durable: list[NameOperation] = []
        touched: set[str] = set()
        for operation in reversed(self.pending):
            paths = _paths(operation)
            if any(str(PurePosixPath(path).parent) == folder for path in paths) or touched & paths:
                touched |= paths
                durable.append(operation)
        for operation in reversed(durable):
            self.durable.do(operation)
        self.pending = [operation for operation in self.pending if not any(operation is one for one in durable)]

    def cut(self, chooser: Chooser) -> dict[str, bytes | None]:
        """Return the names that a cut leaves, each with its content; None is a folder."""
        names = Names(self.durable.names)
        undone: set[str] = set()
        for operation in self.pending:
            paths = _paths(operation)
            if undone & paths or not chooser.name():
                undone |= paths
            else:
                names.do(operation)
        return {name: None if inode is None else self.contents[inode].cut(chooser) for name, inode in names.reachable()}


def _paths(operation: NameOperation) -> set[str]:
    return {operation.path, operation.to} if isinstance(operation, Rename) else {operation.path}


def replayed(operations: Iterable[Operation]) -> Disk:
    """Return the disk after `operations`."""
    disk = Disk()
    for operation in operations:
        disk.do(operation)
    return disk


def put(state: dict[str, bytes | None], home: Path) -> None:
    """Make the files and folders of a state below `home`."""
    home.mkdir(mode=0o700)
    for name, content in sorted(state.items()):
        path = home / name
        if content is None:
            path.mkdir(mode=0o700)
        else:
            path.write_bytes(content)
            path.chmod(0o600)
