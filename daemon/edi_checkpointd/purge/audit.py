"""The audit: what a home holds of sessions, found by reading; before a purge to say what will go, after it what is
left.

What is left is looked for without regard to what a purge does: in every file that lies in our folders, by names, by
ids, and by the streams that the sessions had. A file of another session may name one, as where it came from.
"""

from __future__ import annotations

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
_FEW = 8  # ids that are looked for one by one; more by all words in quotes
_OVERLAP = 130  # of two parts of a file: an id and its quotes
_STREAM = 32  # digits of a stream's id
_DIGITS = re.compile(rb"[0-9a-f]{32,}")


class Footprint(NamedTuple):
    """What a home holds of sessions.

    `files` has kind and size of each; kinds: checkpoints, autosaves, outboxes, trash, set_aside (may hold others' texts
    too), and attachments, of which those go that nothing else names. `entries` and `bytes` are what the journal has.
    """

    files: dict[Path, tuple[str, int]]
    entries: int
    bytes: int
    streams: frozenset[str]

    def of(self, kind: str) -> list[int]:
        """Return the sizes of the files of a kind."""
        return [size for known, size in self.files.values() if known == kind]


class Remnant(NamedTuple):
    """A file in which something is found; `session_id` is the other session that it is of, None when it is of none."""

    path: Path
    why: str
    session_id: str | None = None


def known(paths: Paths, reader: Reader | None) -> set[str]:
    """Return all sessions that anything is there of."""
    journaled = {row.session_id for row in reader.sessions()} if reader else set()
    return journaled | purge_files.named(paths)


def held(paths: Paths, reader: Reader | None, sessions: Collection[str], *, everything: bool = False) -> Footprint:
    """Return what there is of `sessions`; with `everything`, all that is set aside or in the trash of any."""

    def wanted(session_id: str) -> bool:
        return everything or session_id in sessions

    files: dict[Path, tuple[str, int]] = {}

    def add(kind: str, path: Path) -> None:
        try:
            files[path] = kind, path.lstat().st_size
        except OSError:  # it went meanwhile
            files.pop(path, None)

    for path in purge_files.documents(paths, sessions.__contains__):
        add("checkpoints" if parse_checkpoint_name(path.name) else "autosaves", path)
    for path in purge_files.trashed(paths, wanted):
        add("trash", path)
    for path in purge_files.set_aside(paths, wanted):
        add("set_aside", path)
    for path in purge_files.outboxes(paths, sessions.__contains__):
        add("outboxes", path)
    for filed in listed(paths.attachments):
        files[filed.path] = "attachments", filed.size_bytes
    rows = [row for row in reader.sessions() if row.session_id in sessions] if reader else []
    weights = [reader.weight(row.key) for row in rows] if reader else []
    streams = {stream for row in rows for stream in (reader.streams_of(row.key) if reader else ())}
    streams |= {path.name.partition(".")[0] for path, (kind, _) in files.items() if kind == "outboxes"}
    return Footprint(files, sum(n for n, _ in weights), sum(size for _, size in weights), frozenset(streams - {""}))


def remnants(
    paths: Paths, reader: Reader | None, sessions: Collection[str], streams: Collection[str]
) -> Iterator[Remnant]:
    """Yield each file in which `sessions` are found, by their ids or by `streams` that they had."""
    wanted = sessions.__contains__
    for path in _all_files(paths):
        owner = purge_files.owner(paths, path)
        if wanted(owner or ""):
            yield Remnant(path, "is named for it")
        elif path.is_relative_to(paths.attachments):
            continue  # named by their digests, and pictures inside
        elif path.name.startswith(paths.journal.name):
            if _has_streams(path, streams):
                yield Remnant(path, "has what it published")
        elif path.name.startswith(paths.log.name):
            if any(purge_files.line_names(line, wanted) for line in _lines(path)):
                yield Remnant(path, "has lines that name it")
        elif _names(path, sessions):
            yield Remnant(path, "names it", owner)
    for row in reader.sessions() if reader else ():
        if wanted(row.session_id):
            yield Remnant(paths.journal, "has a row of it")
        elif wanted(row.parent_session or ""):
            yield Remnant(paths.journal, "names it as where another came from", row.session_id)


def _all_files(paths: Paths) -> Iterator[Path]:
    """Yield all files that lie in our folders, each once."""
    places = {paths.sessions, paths.state, paths.runtime}
    for root in sorted(place for place in places if not places & set(place.parents)):
        for folder, _, names in os.walk(root):
            yield from (Path(folder) / name for name in sorted(names))


def _names(path: Path, sessions: Collection[str]) -> bool:
    """Whether a file has an id of `sessions` in quotes, as JSON has it."""
    if len(sessions) > _FEW:
        return any(word.decode() in sessions for part in _parts(path) for word in _QUOTED.findall(part))
    quoted = [f'"{session_id}"'.encode() for session_id in sessions]
    return any(word in part for part in _parts(path) for word in quoted)


def _has_streams(path: Path, streams: Collection[str]) -> bool:
    """Whether a file has the id of one of `streams` in it; in SQLite's rows nothing stands between two texts."""
    for part in _parts(path):
        for found in _DIGITS.findall(part):
            if any(found[at : at + _STREAM].decode() in streams for at in range(len(found) - _STREAM + 1)):
                return True
    return False


def _parts(path: Path) -> Iterator[bytes]:
    """Yield what a regular file holds, part by part, each with the end of the one before."""
    try:
        with open_regular(path) as file:
            before = b""
            while part := file.read(READ_BYTES):
                yield before + part
                before = part[-_OVERLAP:]
    except OSError:  # it went meanwhile; or a socket, a link
        return


def _lines(path: Path) -> list[bytes]:
    try:
        return read_regular(path).splitlines()
    except OSError:
        return []
