"""Reads the trash: the sessions that a clean-up removed, each whole, until the daemon deletes them for good.

`trash/<session id>/` holds a session's documents under their own names. Its file `.trashed` has the time and the rule.
A folder without it is being moved in or out, and counts as no session. `.condemned` in its place means that the daemon
is deleting the session.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from edi_checkpoint.documents.names import check_session_id
from edi_checkpoint.errors import SessionIdError
from edi_checkpoint.system.safe_open import open_regular

NOTE: Final = ".trashed"
CONDEMNED: Final = ".condemned"
_NOTE_MAX_BYTES = 4096


class Note(msgspec.Struct, frozen=True):
    """The content of `.trashed`: when the session came into the trash (aware), and by which rule."""

    trashed: datetime
    rule: str


class Trashed(msgspec.Struct, frozen=True):
    """A session in the trash: when it came there, by which rule, and how many bytes its documents have."""

    session_id: str
    trashed: datetime
    rule: str
    size_bytes: int


_decode_note = msgspec.json.Decoder(Note).decode  # built here: see `edi_checkpoint.values.codec._Plain`


def listed(trash: Path) -> list[Trashed]:
    """Return the sessions in the folder `trash`, the longest there first; leave out other folders."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(trash) as entries:
        for entry in entries:
            with suppress(SessionIdError):
                if entry.is_dir(follow_symlinks=False):
                    found.append(find(trash, check_session_id(entry.name)))
    return sorted((one for one in found if one), key=lambda one: (one.trashed, one.session_id))


def holds(trash: Path, session_id: str) -> bool:
    """Return whether the session is in the trash, or is being deleted from it."""
    return any((trash / session_id / name).exists() for name in (NOTE, CONDEMNED))


def find(trash: Path, session_id: str) -> Trashed | None:
    """Return a session in the trash, None when it is not there."""
    folder = trash / session_id
    try:
        with open_regular(folder / NOTE) as file:
            note = _decode_note(file.read(_NOTE_MAX_BYTES))
        with os.scandir(folder) as entries:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries if entry.name != NOTE]
    except (OSError, msgspec.MsgspecError):
        return None
    if note.trashed.tzinfo is None:
        return None
    return Trashed(session_id, note.trashed, note.rule, sum(sizes))
