"""The audit: before a purge, list what a home holds of sessions; after it, find what is left.

The search for what is left does not rely on what a purge does: it reads every file in our folders, and looks for file
names, session ids, and the ids of the sessions' streams. A file of another session may name a purged one as its origin.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from edi_checkpoint.documents.names import parse_checkpoint_name
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import open_regular, read_regular
from edi_checkpointd.attachments.store import listed
from edi_checkpointd.journal import Reader
from edi_checkpointd.purge import files as purge_files

READ_BYTES = 1 << 20
_QUOTED = re.compile(rb'"([A-Za-z0-9_-][A-Za-z0-9._-]{0,127})"')
_FEW = 8  # up to 8 ids are searched one by one; for more, each quoted word is compared
_OVERLAP = 130  # bytes that two parts of a file share: an id with its quotes
_STREAM = 32  # digits of a stream's id
_DIGITS = re.compile(rb"[0-9a-f]{32,}")


class Footprint(NamedTuple):
    """What a home holds of sessions.

    `files` has the kind and size of each file. The kinds are checkpoints, autosaves, outboxes, trash, set_aside (may
    contain other sessions too) and attachments; a purge deletes the attachments that nothing else names. `entries` and
    `bytes` count what the journal has.
    """

    files: dict[Path, tuple[str, int]]
    entries: int
    bytes: int
    streams: frozenset[str]

    def of(self, kind: str) -> list[int]:
        """Return the sizes of the files of a kind."""
        return [size for known, size in self.files.values() if known == kind]


class Remnant(NamedTuple):
    """A file that still names a purged session; `session_id` is the other session that owns the file, if any."""

    path: Path
    why: str
    session_id: str | None = None


def known(paths: Paths, reader: Reader | None) -> set[str]:
    """Return all sessions of which the home holds anything."""
    journaled = {row.session_id for row in reader.sessions()} if reader else set()
    return journaled | purge_files.named(paths)


def held(paths: Paths, reader: Reader | None, sessions: Collection[str], *, everything: bool = False) -> Footprint:
    """Return what the home holds of `sessions`; with `everything`, also all trash and all files set aside."""

    def included(session_id: str) -> bool:
        return everything or session_id in sessions

    documents = purge_files.documents(paths, sessions.__contains__)
    kinds = {path: "checkpoints" if parse_checkpoint_name(path.name) else "autosaves" for path in documents}
    kinds |= dict.fromkeys(purge_files.trashed(paths, included), "trash")
    kinds |= dict.fromkeys(purge_files.set_aside(paths, included), "set_aside")
    kinds |= dict.fromkeys(purge_files.outboxes(paths, sessions.__contains__), "outboxes")
    files: dict[Path, tuple[str, int]] = {}
    for path, kind in kinds.items():
        with contextlib.suppress(OSError):  # deleted meanwhile
            files[path] = kind, path.lstat().st_size
    files |= {file.path: ("attachments", file.size_bytes) for file in listed(paths.attachments)}
    rows = [row for row in reader.sessions() if row.session_id in sessions] if reader else []
    weights = [reader.weight(row.key) for row in rows] if reader else []
    streams = {stream for row in rows for stream in (reader.streams_of(row.key) if reader else ())}
    streams |= {path.name.partition(".")[0] for path, (kind, _) in files.items() if kind == "outboxes"}
    return Footprint(files, sum(n for n, _ in weights), sum(size for _, size in weights), frozenset(streams - {""}))


def remnants(
    paths: Paths, reader: Reader | None, sessions: Collection[str], streams: Collection[str]
) -> Iterator[Remnant]:
    """Yield each file that names one of `sessions`, by its id or by one of `streams`, the streams that they had."""
    purged = sessions.__contains__
    for path in _all_files(paths):
        owner = purge_files.owner(paths, path)
        if purged(owner or ""):
            yield Remnant(path, "has its name")
        elif path.is_relative_to(paths.attachments):
            continue  # their names are digests, and they hold no ids
        elif path.name.startswith(paths.journal.name):
            if _has_streams(path, streams):
                yield Remnant(path, "contains its changes")
        elif path.name.startswith(paths.log.name):
            if any(purge_files.line_names(line, purged) for line in _lines(path)):
                yield Remnant(path, "has lines about it")
        elif _names(path, sessions):
            yield Remnant(path, "names it", owner)
    for row in reader.sessions() if reader else ():
        if purged(row.session_id):
            yield Remnant(paths.journal, "has a row about it")
        elif purged(row.parent_session or ""):
            yield Remnant(paths.journal, "names it as the origin of another session", row.session_id)


def _all_files(paths: Paths) -> Iterator[Path]:
    """Yield all files in our folders, each once."""
    places = {paths.sessions, paths.state, paths.runtime}
    for root in sorted(place for place in places if not places & set(place.parents)):
        for folder, _, names in os.walk(root):
            yield from (Path(folder) / name for name in sorted(names))


def _names(path: Path, sessions: Collection[str]) -> bool:
    """Whether a file contains the id of one of `sessions` as a JSON string."""
    if len(sessions) > _FEW:
        return any(word.decode() in sessions for part in _parts(path) for word in _QUOTED.findall(part))
    quoted = [f'"{session_id}"'.encode() for session_id in sessions]
    return any(word in part for part in _parts(path) for word in quoted)


def _has_streams(path: Path, streams: Collection[str]) -> bool:
    """Whether a file contains the id of one of `streams`. In SQLite's rows, texts follow each other without a mark."""
    for part in _parts(path):
        for found in _DIGITS.findall(part):
            if any(found[at : at + _STREAM].decode() in streams for at in range(len(found) - _STREAM + 1)):
                return True
    return False


def _parts(path: Path) -> Iterator[bytes]:
    """Yield the content of a regular file in parts; each part starts with the end of the part before."""
    try:
        with open_regular(path) as file:
            before = b""
            while part := file.read(READ_BYTES):
                yield before + part
                before = part[-_OVERLAP:]
    except OSError:  # deleted meanwhile, or a socket or a link
        return


def _lines(path: Path) -> list[bytes]:
    with contextlib.suppress(OSError):
        return read_regular(path).splitlines()
    return []
