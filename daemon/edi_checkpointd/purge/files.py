"""The files of a session: find them by their names, and delete them.

    documents   in the sessions folder: checkpoints, auto-saves, their temporaries
    trashed     a session's files in the trash, or staged for an import
    set_aside   in both folders for damaged files: documents, segments, refused frames, whole journals
    the log     lines that name a session

The name of a file tells its session. No file is opened for that, so unreadable files are deleted like the others. A
file set aside without a session in its name may contain any session, and is deleted with each. If a file cannot be
deleted, the deletion continues, and its result has a sentence about that file.
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

Chosen = Callable[[str], bool]  # whether the session with this id is one to find or to purge

_REFUSED = re.compile(r"frame-[0-9]+-(.+)\.bin")
_SEGMENT = re.compile(r"(.+)\.[0-9a-f]{32}\.[0-9]+\.seg")
_OLD_TEMPORARY = ".tmp.json"  # the suffix that EDI's own class gives
_WORD = re.compile(rb"[A-Za-z0-9._-]+")


def session_of(name: str) -> str | None:
    """Return the session that a file name tells; None if it tells none.

    Knows documents, their temporaries, refused frames and segments set aside, also with the number that `fs.set_aside`
    appends.
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
    """Return the session of a file in our folders, by its folder if that belongs to one session, else by its name."""
    for place in (paths.outbox, paths.trash, paths.importing):
        if place in path.parents and path.parent != place:
            return staged_session(path.relative_to(place).parts[0])
    return session_of(path.name)


def documents(paths: Paths, chosen: Chosen) -> Iterator[Path]:
    """Yield the documents of the chosen sessions in the sessions folder."""
    for path in _entries(paths.sessions):
        session_id = session_of(path.name)
        if session_id is not None and chosen(session_id) and (path.is_symlink() or not path.is_dir()):
            yield path


def trashed(paths: Paths, chosen: Chosen) -> Iterator[Path]:
    """Yield the files of the chosen sessions in the trash, and those that an import has staged."""
    for path in (*_entries(paths.trash), *_entries(paths.importing)):
        if chosen(staged_session(path.name)):
            yield from _below(path)


def outboxes(paths: Paths, chosen: Chosen) -> Iterator[Path]:
    """Yield the files in the outbox folders of the chosen sessions."""
    for path in _entries(paths.outbox):
        if chosen(path.name):
            yield from _below(path)


def set_aside(paths: Paths, chosen: Chosen) -> Iterator[Path]:
    """Yield the files set aside that may contain the chosen sessions: all whose name tells no other session."""
    for folder in (paths.damaged_documents, paths.damaged):
        for path in _below(folder):
            session_id = session_of(path.name)
            if session_id is None or chosen(session_id):
                yield path


def named(paths: Paths) -> set[str]:
    """Return the sessions that have files: documents, outboxes, in the trash, staged for an import, or set aside."""
    places = (paths.outbox, paths.trash, paths.importing, paths.damaged_documents, paths.damaged)
    files = [*_entries(paths.sessions), *(path for place in places for path in _below(place))]
    return {name for path in files if (name := owner(paths, path)) and is_session_id(name)}


def remove(found: Iterable[Path]) -> list[str]:
    """Unlink files durably, and their folders if these are empty then; return a sentence for each failure."""
    failures: list[str] = []
    folders: set[Path] = set()
    for path in list(found):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failures.append(f"{path}: {error.strerror}")
        else:
            folders.add(path.parent)
    for folder in sorted(folders, reverse=True):  # inner folders first
        with contextlib.suppress(OSError):
            folder.rmdir()
            folder = folder.parent
        with contextlib.suppress(FileNotFoundError):
            sync_folder(folder)
    return failures


def strike_from_log(path: Path, chosen: Chosen) -> list[str]:
    """Delete the lines that name chosen sessions from the log `path`; return a sentence if that failed."""
    try:
        logs.strike(path, lambda line: line_names(line, chosen))
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    return []


def line_names(line: bytes, chosen: Chosen) -> bool:
    """Whether a log line contains the id of a chosen session, or the name of one of its files."""
    words = [word.decode("ascii").rstrip(".") for word in _WORD.findall(line)]
    return any(chosen(word) or chosen(session_of(word) or "") for word in words)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _below(path: Path) -> Iterator[Path]:
    """Yield the files below a folder, or the file itself. Links are not followed."""
    if path.is_symlink() or path.is_file():
        yield path
        return
    for folder, inner, names in os.walk(path):
        links = [name for name in inner if (Path(folder) / name).is_symlink()]
        yield from (Path(folder) / name for name in sorted([*names, *links]))
