"""The newest valid document of a session: the one search for it, which the client and the daemon use.

A document is valid when it parses and its digests confirm it. The caller decides what happens to the others: skip one,
report its name, set it aside, or raise the error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.layout import AUTOSAVE
from edi_checkpoint.documents.names import autosave_name, parse_checkpoint_name
from edi_checkpoint.documents.reader import Document, parse_autosave, parse_checkpoint
from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.model import NOT_OURS
from edi_checkpoint.system.safe_open import read_regular

OnDamage: TypeAlias = Callable[[str, OSError | EdiCheckpointError], None]
"""Handles a document that cannot be used, given its file name and the error; the search then continues.

The error is a `FileNotFoundError` if the file is gone or the session has no auto-save.
"""


class ValidDocument(NamedTuple):
    """A valid document and the name of its file."""

    name: str
    document: Document


def newest_listed(
    folder: Path, catalog: Catalog, session_id: str, on_damage: OnDamage, *, above: int = -1
) -> ValidDocument | None:
    """Return a session's newest valid document in `folder`, which `catalog` lists; None if there is none.

    Only documents with a sequence higher than `above` count. The catalog knows the sequences, so this reads one
    document unless it is damaged.
    """
    listed = [(info.sequence, info.name) for info in catalog.checkpoints(session_id)]
    if autosave := catalog.autosave(session_id):
        listed.append((autosave.header.sequence, autosave_name(session_id)))
    names = [name for sequence, name in sorted(listed, reverse=True) if sequence > above]
    return _newest(folder, session_id, names, on_damage, lambda _: True)


def newest_in(folder: Path, session_id: str, on_damage: OnDamage) -> ValidDocument | None:
    """Return a session's newest valid document in `folder`, without a catalog; None if there is none.

    Reads the auto-save and the newest checkpoint, since their names do not tell which of the two is newer.
    """
    return _newest(folder, session_id, _names(folder, session_id), on_damage, _is_our_checkpoint)


def _newest(
    folder: Path, session_id: str, names: Iterable[str], on_damage: OnDamage, is_last: Callable[[Document], bool]
) -> ValidDocument | None:
    """Return the valid document with the highest sequence, the first of equals; stop after one that `is_last`."""
    newest = None
    for name in names:
        parse = parse_autosave if name == autosave_name(session_id) else parse_checkpoint
        try:
            document = parse(read_regular(folder / name), name)
        except (OSError, EdiCheckpointError) as error:
            on_damage(name, error)
            continue
        if newest is None or document.header.sequence > newest.document.header.sequence:
            newest = ValidDocument(name, document)
        if is_last(document):
            break
    return newest


def _is_our_checkpoint(document: Document) -> bool:
    """Return whether the daemon wrote this checkpoint: then those with earlier names have lower sequences."""
    return document.header.kind != AUTOSAVE and document.header.kind not in NOT_OURS


def _names(folder: Path, session_id: str) -> Iterator[str]:
    """Yield the name of the auto-save, then the names of the checkpoints, newest first."""
    yield autosave_name(session_id)
    try:
        with os.scandir(folder) as entries:
            parsed = [(name, parse_checkpoint_name(name)) for name in (entry.name for entry in entries)]
    except FileNotFoundError:
        return
    ours = [(found.stamp, name) for name, found in parsed if found and found.session_id == session_id]
    for _, name in sorted(ours, reverse=True):
        yield name
