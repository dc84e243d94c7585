"""The witness: a small file beside the journal that holds the id of the newest acknowledged row."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import NamedTuple

from edi_checkpoint.system.safe_open import read_regular

_LAYOUT = struct.Struct("<16sQ")


class WitnessMark(NamedTuple):
    """The content of a witness: the id of its journal, and the id of the newest acknowledged row."""

    journal: str
    rows: int


def witness_path(journal: Path) -> Path:
    """Return the path of the witness that belongs to the journal at this path."""
    return journal.with_name(journal.name + "-witness")


def read_witness(journal: Path) -> WitnessMark | None:
    """Return the content of the witness of the journal at this path; None if it is missing or too short."""
    try:
        found = read_regular(witness_path(journal))
    except FileNotFoundError:
        return None
    if len(found) < _LAYOUT.size:
        return None
    journal_id, rows = _LAYOUT.unpack_from(found)
    return WitnessMark(journal_id.hex(), rows)


class Witness:
    """An open witness.

    SQLite opens a database with a damaged WAL without an error, and drops all commits after the damage. A number here
    that is higher than the journal's newest row proves the loss. The file is not fsynced: after a power cut it may hold
    an older number, which proves less but nothing wrong.
    """

    def __init__(self, journal: Path, journal_id: str) -> None:
        """Open the witness of the journal at this path, or make it.

        `rows` is the number that it held: 0 if it belongs to a journal with another id.
        """
        path, found = witness_path(journal), read_witness(journal)
        if path.exists() and path.stat().st_nlink > 1:
            path.unlink()  # it is another file's second name, and writing would change that file
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._journal = bytes.fromhex(journal_id)
        self.rows = found.rows if found and found.journal == journal_id else 0

    def note(self, rows: int) -> None:
        """Note that rows up to `rows` are acknowledged."""
        with contextlib.suppress(OSError):  # a full disk; the commit is durable without this
            os.pwrite(self._fd, _LAYOUT.pack(self._journal, rows), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
