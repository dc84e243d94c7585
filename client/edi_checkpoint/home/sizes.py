"""Measures how many bytes a home has on disk, by kind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.trash import listed
from edi_checkpoint.system.paths import Paths


class Size(msgspec.Struct, frozen=True):
    """The bytes on disk, and the limit that the daemon's settings give (None: not known)."""

    bytes: int
    cap_bytes: int | None


def sizes_of(paths: Paths, catalog: Catalog, caps: Mapping[str, int]) -> dict[str, Size]:
    """Return the sizes of all files of the home, by kind, with their limits from `caps`.

    `documents` are checkpoints and auto-saves. `outboxes` are all outboxes together, but the limit is that of each.
    """
    found = {
        "documents": sum(documents_bytes(catalog, session_id) for session_id in catalog.sessions()),
        "trash": sum(trashed.size_bytes for trashed in listed(paths.trash)),
        "attachments": tree_bytes(paths.attachments),
        "journal": files_bytes(paths.journal.parent, paths.journal.name),
        "outboxes": tree_bytes(paths.outbox),
        "damaged": tree_bytes(paths.damaged) + tree_bytes(paths.damaged_documents),
        "logs": files_bytes(paths.log.parent, paths.log.name),
    }
    return {kind: Size(count, caps.get(kind)) for kind, count in found.items()}


def documents_bytes(catalog: Catalog, session_id: str) -> int:
    """Return the total size of a session's documents."""
    autosave = catalog.autosave(session_id)
    return sum(info.size_bytes for info in catalog.checkpoints(session_id)) + (autosave.size_bytes if autosave else 0)


def files_bytes(folder: Path, beginning: str) -> int:
    """Return the total size of the files in `folder` whose names start with `beginning`."""
    with suppress(OSError), os.scandir(folder) as entries:
        return sum(_size(entry) for entry in entries if entry.name.startswith(beginning))
    return 0


def tree_bytes(folder: Path) -> int:
    """Return the total size of all files below `folder`. Follows no links."""
    count = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            count += tree_bytes(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else _size(entry)
    return count


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:  # deleted since the listing
        return 0
