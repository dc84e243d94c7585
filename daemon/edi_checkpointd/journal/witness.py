"""The witness: the newest acknowledged row's id, outside the database."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import NamedTuple

from edi_checkpoint.system.safe_open import read_regular

_LAYOUT = struct.Struct("<16sQ")


class WitnessMark(NamedTuple):
    """What a witness says: of which journal, by its id, and the id of its newest acknowledged row."""

    journal: str
    rows: int


def witness_path(journal: Path) -> Path:
    """Return where the witness of the journal at this path lies."""
    return journal.with_name(journal.name + "-witness")


def read_witness(journal: Path) -> WitnessMark | None:
    """Return what the witness of the journal at this path says, None when it says nothing."""
    try:
        found = read_regular(witness_path(journal))
    except FileNotFoundError:
        return None
    if len(found) < _LAYOUT.size:
        return None
    of, rows = _LAYOUT.unpack_from(found)
    return WitnessMark(of.hex(), rows)


class Witness:
    """The id of the newest acknowledged row, outside the database.

    A damaged WAL tail opens without an error and swallows what follows the damage; a number here that is higher than
    the journal's tells. It is not fsynced: an older number after a power cut only tells less.
    """

    def __init__(self, journal: Path, journal_id: str) -> None:
        """Open the witness of the journal at this path; `rows` is what it says of the journal of that id."""
        path, found = witness_path(journal), read_witness(journal)
        if path.exists() and path.stat().st_nlink > 1:
            path.unlink()  # a second name of another file, which is not ours to write into
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._journal = bytes.fromhex(journal_id)
        self.rows = found.rows if found and found.journal == journal_id else 0

    def note(self, rows: int) -> None:
        """Note that rows up to `rows` are acknowledged."""
        self.rows = rows
        with contextlib.suppress(OSError):  # a full disk; the commit is durable all the same
            os.pwrite(self._fd, _LAYOUT.pack(self._journal, rows), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
