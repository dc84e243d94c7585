"""The witness: the newest acknowledged row's id, outside the database."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path


class Witness:
    """The id of the newest acknowledged row, outside the database.

    A damaged WAL tail opens without an error and swallows what follows the damage; a number here that is higher than
    the journal's tells. It is not fsynced: an older number after a power cut only tells less.
    """

    _LAYOUT = struct.Struct("<16sQ")

    def __init__(self, path: Path, journal: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._journal = bytes.fromhex(journal)
        found = os.pread(self._fd, self._LAYOUT.size, 0)
        self.rows = 0
        if len(found) == self._LAYOUT.size:
            of, rows = self._LAYOUT.unpack(found)
            self.rows = rows if of == self._journal else 0

    def note(self, rows: int) -> None:
        """Note that rows up to `rows` are acknowledged."""
        self.rows = rows
        with contextlib.suppress(OSError):  # a full disk; the commit is durable all the same
            os.pwrite(self._fd, self._LAYOUT.pack(self._journal, rows), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
