"""Erasure: the files that hold or name sessions, known by their names, and their removal.

    documents   in the sessions folder: checkpoints, auto-saves, temporaries of them
    trashed     all that lies in the trash of a session, or is staged to be imported
    set_aside   in both folders of what was damaged: documents, segments, refused frames, whole journals
    the log     lines that name a session

A name tells whose a file is; no file is opened to find out, so what cannot be read is removed like the rest. What was
set aside without such a name may hold the texts of any session, and goes with each. Nothing here ends at a file that
cannot be removed: such are returned, as a sentence each.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edi_checkpoint.documents.names import is_session_id, parse_autosave_name, parse_checkpoint_name, staged_session
from edi_checkpoint.system.paths import Paths
from edi_checkpointd.system import logs
from edi_checkpointd.system.fs import sync_folder

Wanted = Callable[[str], bool]  # whether a session, by its id, is to be forgotten

_REFUSED = re.compile(r"frame-[0-9]+-(.+)\.bin")
_SEGMENT = re.compile(r"(.+)\.[0-9a-f]{32}\.[0-9]+\.seg")
_OLD_TEMPORARY = ".tmp.json"  # of EDI's own class
_WORD = re.compile(rb"[A-Za-z0-9._-]+")


def session_of(name: str) -> str | None:
    """Return the session that the name of a file says it is of; None for a name that says none.

    Documents, their temporaries, refused frames, segments set aside; with the number that `fs.set_aside` appends.
    """
    if name.startswith(".") and name.endswith(".tmp"):
        name = name[1:].removesuffix(".tmp")
    stem, _, number = name.rpartition(".")
    for candidate in (name, stem if number.isdecimal() else name, name.replace(_OLD_TEMPORARY, ".json")):
        if checkpoint := parse_checkpoint_name(candidate):
            return checkpoint.session_id
        if found := _REFUSED.fullmatch(candidate) or _SEGMENT.fullmatch(candidate):
            return found[1]
        if session_id := parse_autosave_name(candidate):
            return session_id
    return None


def owner(paths: Paths, path: Path) -> str | None:
    """Return the session that a file in our folders is of: by its folder where sessions have their own, or its name."""
    for place in (paths.outbox, paths.trash, paths.importing):
        if place in path.parents and path.parent != place:
            return staged_session(path.relative_to(place).parts[0])
    return session_of(path.name)


def documents(paths: Paths, wanted: Wanted) -> Iterator[Path]:
    """Yield the documents of sessions wanted that lie in the sessions folder."""
    for path in _entries(paths.sessions):
        session_id = session_of(path.name)
        if session_id is not None and wanted(session_id) and (path.is_symlink() or not path.is_dir()):
            yield path


def trashed(paths: Paths, wanted: Wanted) -> Iterator[Path]:
    """Yield the files that lie in the trash of sessions wanted, and those that a dead import of one left staged."""
    for path in _entries(paths.trash):
        if wanted(path.name):
            yield from _below(path)
    for path in _entries(paths.importing):
        if wanted(staged_session(path.name)):
            yield from _below(path)


def outboxes(paths: Paths, wanted: Wanted) -> Iterator[Path]:
    """Yield the files that lie in the outbox folders of sessions wanted."""
    for path in _entries(paths.outbox):
        if wanted(path.name):
            yield from _below(path)


def set_aside(paths: Paths, wanted: Wanted) -> Iterator[Path]:
    """Yield the files set aside that may hold texts of sessions wanted: all that are not named for another."""
    for folder in (paths.damaged_documents, paths.damaged):
        for path in _below(folder):
            session_id = session_of(path.name)
            if session_id is None or wanted(session_id):
                yield path


def named(paths: Paths) -> set[str]:
    """Return the sessions that there are files of: documents, outboxes, in the trash, staged, and set aside."""
    places = (paths.outbox, paths.trash, paths.importing, paths.damaged_documents, paths.damaged)
    files = [*_entries(paths.sessions), *(path for place in places for path in _below(place))]
    return {name for path in files if (name := owner(paths, path)) and is_session_id(name)}


def remove(found: Iterable[Path]) -> list[str]:
    """Unlink files, and their folders where these are empty then, durably; return what was kept, and why."""
    kept: list[str] = []
    folders: set[Path] = set()
    for path in list(found):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            kept.append(f"{path}: {error.strerror}")
        else:
            folders.add(path.parent)
    for folder in sorted(folders, reverse=True):  # the inner ones before the outer
        with contextlib.suppress(OSError):
            folder.rmdir()
            folder = folder.parent
        with contextlib.suppress(FileNotFoundError):
            sync_folder(folder)
    return kept


def strike_from_log(path: Path, wanted: Wanted) -> list[str]:
    """Remove the lines that name sessions wanted from the log `path`; return what was kept, and why."""
    try:
        logs.strike(path, lambda line: line_names(line, wanted))
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    return []


def line_names(line: bytes, wanted: Wanted) -> bool:
    """Whether a line of a log has the id of a session wanted in it, or the name of a file of it."""
    words = [word.decode("ascii").rstrip(".") for word in _WORD.findall(line)]
    return any(wanted(word) or wanted(session_of(word) or "") for word in words)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _below(path: Path) -> Iterator[Path]:
    """Yield the files below a folder, or the file itself; links are not followed."""
    if path.is_symlink() or path.is_file():
        yield path
        return
    for folder, inner, names in os.walk(path):
        links = [name for name in inner if (Path(folder) / name).is_symlink()]
        yield from (Path(folder) / name for name in sorted([*names, *links]))
