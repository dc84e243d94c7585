"""The files that a state only names: which facts a checkpoint records, and whether the files have changed since.

`look` and `look_around` read the disk, `compare` decides. The owner of a file may change it at any time, so no
function here assumes that a name stands for the same file twice.

Example:
    from pathlib import Path

    from edi_checkpoint.named_files import compare, look, look_around

    Path("roof.jpg").write_bytes(b"a picture")
    recorded = {"image_path": look(str(Path("roof.jpg").resolve()))}
    Path("roof.jpg").write_bytes(b"another picture")
    (file,) = compare(recorded, look_around(recorded))
    print(file.key, file.verdict)  # image_path edited
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, MutableMapping
from hashlib import sha256
from io import FileIO
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import Final, NamedTuple

import msgspec

from edi_checkpoint.documents.fragments import Fragment, string
from edi_checkpoint.model import NamedFile, Verdict
from edi_checkpoint.system.safe_open import open_regular

KEYS: Final = ("image_path", "edited_image_path", "mask_path")
DIGESTED_MAX_BYTES: Final = 256 << 20  # a second of reading; a larger file is known by size and time
PATH_MAX_BYTES: Final = 4096  # Linux's limit
BESIDE_MAX: Final = 2000  # names in the folder that are checked for a moved file
ALIKE_MAX: Final = 8  # files of the same size that are digested for a moved file
_READ_BYTES = 1 << 20

Identity = tuple[str, int, int, int]  # path, inode, size and time: each change of a file changes one of them


class FileFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The size, time and digest of a named file.

    They are None if the file was missing or unreadable, or the check took too long. `sha256` is also None for a file
    larger than `DIGESTED_MAX_BYTES`.
    """

    path: str
    size_bytes: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None


class Now(NamedTuple):
    """The present facts of a named file. If it is gone, `moved_to` is a file beside it with the recorded content."""

    facts: FileFacts
    moved_to: str | None = None


def paths_in(fragments: Mapping[str, Fragment]) -> dict[str, str]:
    """Return the paths of the files that a state names, by key."""
    found = {}
    for key in KEYS:
        value = fragments.get(key)
        if value is not None and len(value.text) <= PATH_MAX_BYTES and (path := string(value.text)):
            found[key] = path
    return found


def compare(recorded: Mapping[str, FileFacts], now: Mapping[str, Now]) -> list[NamedFile]:
    """Return a verdict on each file of `recorded`; `now` is the result of `look_around`, which may lack a file."""
    return [
        NamedFile(key, facts.path, _verdict(facts, now.get(key)), now[key].moved_to if key in now else None)
        for key, facts in recorded.items()
    ]


def _verdict(before: FileFacts, now: Now | None) -> Verdict:
    if now is None or not before.path.startswith("/"):
        return Verdict.UNKNOWN
    after = now.facts
    if after.size_bytes is None:
        return Verdict.MISSING if now.moved_to is None else Verdict.MOVED
    if before.size_bytes is None:
        return Verdict.UNKNOWN
    if before.sha256 is not None and after.sha256 is not None:
        return Verdict.SAME if before.sha256 == after.sha256 else Verdict.EDITED
    alike = (before.size_bytes, before.mtime_ns) == (after.size_bytes, after.mtime_ns)
    return Verdict.SAME if alike else Verdict.EDITED


# -- reading the disk --------------------------------------------------------------------------------------------------


def look_around(recorded: Mapping[str, FileFacts]) -> dict[str, Now]:
    """Return the present facts of the files of `recorded`. Reads a file only if its time changed but not its size."""
    return {key: _now(facts) for key, facts in recorded.items()}


def look_in_time(recorded: Mapping[str, FileFacts], timeout_s: float) -> dict[str, Now]:
    """Return the result of `look_around`, or an empty dict after `timeout_s`, since a network mount can block."""
    now: dict[str, Now] = {}
    check = threading.Thread(target=lambda: now.update(look_around(recorded)), name="edi-checkpoint-look", daemon=True)
    check.start()
    check.join(timeout_s)
    return {} if check.is_alive() else now


def _now(recorded: FileFacts) -> Now:
    present = look(recorded.path, digest=False)
    if present.size_bytes is None:
        return Now(present, _moved_to(recorded))
    if (present.size_bytes, present.mtime_ns) == (recorded.size_bytes, recorded.mtime_ns):
        return Now(recorded)
    return Now(present if present.size_bytes != recorded.size_bytes else look(recorded.path))


def _moved_to(recorded: FileFacts) -> str | None:
    """Return the path of a file in the same folder with the recorded content, None if the first names have none."""
    if recorded.sha256 is None or not Path(recorded.path).is_absolute():
        return None
    alike: list[str] = []
    with contextlib.suppress(OSError), os.scandir(Path(recorded.path).parent) as entries:
        for entry in islice(entries, BESIDE_MAX):
            status = entry.stat(follow_symlinks=False)
            if S_ISREG(status.st_mode) and status.st_size == recorded.size_bytes:
                alike.append(entry.path)
    return next((path for path in sorted(alike)[:ALIKE_MAX] if look(path).sha256 == recorded.sha256), None)


def look(path: str, *, digest: bool = True, known: MutableMapping[Identity, str] | None = None) -> FileFacts:
    """Return the present size, time and digest of the file `path`.

    All are None for a relative path and for anything but a regular file. `known` has digests by identity: a call uses
    them instead of reading a file, and adds its own.
    """
    facts = FileFacts(path)
    if not path.startswith("/") or "\0" in path:
        return facts
    known = {} if known is None else known
    with contextlib.suppress(OSError, UnicodeEncodeError), open_regular(path, follow=True) as file:
        status = os.fstat(file.fileno())
        identity = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        if digest and identity not in known and status.st_size <= DIGESTED_MAX_BYTES:
            found = _digest(file, status.st_size)
            if os.fstat(file.fileno()).st_mtime_ns == status.st_mtime_ns:  # else a program is writing to it
                known[identity] = found
        facts = FileFacts(path, status.st_size, status.st_mtime_ns, known.get(identity))
    return facts


def _digest(file: FileIO, size: int) -> str:
    digest = sha256()
    while size > 0 and (part := file.read(min(size, _READ_BYTES))):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()
