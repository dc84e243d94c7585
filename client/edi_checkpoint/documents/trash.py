"""The trash, for those who look: sessions that a rule has cleaned up, each whole, until they are deleted for good.

`trash/<session id>/` holds a session's documents under their own names. `.trashed` says since when and by which rule; a
folder without it is on its way in or out, and no session lies there. `.condemned` in its place says that the session is
being deleted.
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
    """What `.trashed` says: since when (aware), and by which rule."""

    trashed: datetime
    rule: str


class Trashed(msgspec.Struct, frozen=True):
    """A session in the trash: since when, by which rule, and how many bytes its documents have."""

    session_id: str
    trashed: datetime
    rule: str
    size_bytes: int


_decode_note = msgspec.json.Decoder(Note).decode  # built here: see `edi_checkpoint.values.codec._Plain`


def listed(trash: Path) -> list[Trashed]:
    """Return the sessions in the folder `trash`, oldest first; what is no session is left out."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(trash) as entries:
        for entry in entries:
            with suppress(SessionIdError):
                if entry.is_dir(follow_symlinks=False):
                    found.append(find(trash, check_session_id(entry.name)))
    return sorted((one for one in found if one), key=lambda one: (one.trashed, one.session_id))


def holds(trash: Path, session_id: str) -> bool:
    """Whether the session lies in the trash, or is just being deleted from it."""
    return any((trash / session_id / name).exists() for name in (NOTE, CONDEMNED))


def find(trash: Path, session_id: str) -> Trashed | None:
    """Return what is in the trash of the session, None when it is not there."""
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
