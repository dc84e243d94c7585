"""The watch: tells at once what others do in the sessions folder and to the configuration file. The only importer of
watchdog.

Events are only the fast path: they name files to look at, and whoever is told looks for himself. Where they may have
been lost (the kernel's queue ran over, the folder was replaced, too many came at once) the whole folder is to be looked
at. Nothing wakes up while nothing happens. Its own thread loads watchdog, which costs a start some 50 ms.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from edi_checkpoint.system.paths import Paths

log = logging.getLogger(__name__)

SETTLE_S = 0.05  # what happens within it is told at once: a burst is one look, and own writes cost little
NAMES_MAX = 1000  # told one by one; for more, the whole folder is looked at

_FILES: list[type[FileSystemEvent]] = [FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent]
_FOLDERS: list[type[FileSystemEvent]] = [DirCreatedEvent, DirDeletedEvent, DirMovedEvent]


class Watch:
    """Watches until it is closed. What it is given is called in its thread, never two at a time.

    `touched` is given the names of files in the sessions folder, or None for the whole folder. `misplaced` is called
    instead when the folder may be another one, or the lock or the marker in it: then all of that is to be looked at.
    `configured` is called when the configuration file may be another.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        touched: Callable[[Collection[str] | None], None],
        misplaced: Callable[[], None],
        configured: Callable[[], None],
    ) -> None:
        """Start the thread."""
        self._sessions = paths.sessions
        self._config = paths.config
        self._kept = {paths.lock.name, paths.marker.name}
        self._touched = touched
        self._misplaced = misplaced
        self._configured = configured
        self._points: set[str] = set()  # what is of interest in the folders above
        self._lock = threading.Lock()  # of what follows: what was seen and is not told of
        self._names: set[str] = set()
        self._all = False
        self._moved = False
        self._config_seen = False
        self._news = threading.Event()
        self._closing = threading.Event()
        self._complaints = _Complaints(self.rescan)
        logging.getLogger("watchdog").addHandler(self._complaints)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def rescan(self) -> None:
        """Have the whole folder looked at: events may have been lost. Safe in any thread."""
        with self._lock:
            self._all = True
        self._news.set()

    def close(self) -> None:
        """End the threads."""
        self._closing.set()
        self._news.set()
        self._thread.join()
        logging.getLogger("watchdog").removeHandler(self._complaints)

    # -- seen: in watchdog's threads ---------------------------------------------------------------------------------

    def seen_in_sessions(self, path: str) -> None:
        """Note what was touched in the sessions folder, or that this itself is gone."""
        name = os.path.basename(path)  # noqa: PTH119 - for each write of ours, too
        with self._lock:
            if path == str(self._sessions) or name in self._kept:
                self._moved = True
            elif name.startswith(".") or not name.endswith(".json"):
                return
            elif len(self._names) < NAMES_MAX:
                self._names.add(name)
            else:
                self._all = True
        self._news.set()

    def seen_above(self, path: str) -> None:
        """Note what was touched in a folder above."""
        if path not in self._points:
            return
        with self._lock:
            self._config_seen = self._config_seen or path != str(self._sessions)
            self._moved = self._moved or path != str(self._config)
        self._news.set()

    # -- told: in the watch's own ------------------------------------------------------------------------------------

    def _run(self) -> None:
        observer = None
        try:
            observer = self._observer = Observer()
            observer.start()
            self._seen_above_all()  # what happened since the start
            self._tell()
            while self._wait():
                self._tell()
        except OSError as error:  # of inotify's limits, or of descriptors
            log.warning("folders are not watched, changes by others are seen within a minute: %s", error)
        finally:
            if observer is not None and observer.is_alive():
                observer.stop()
                observer.join()

    def _seen_above_all(self) -> None:
        with self._lock:
            self._moved = self._config_seen = True

    def _wait(self) -> bool:
        self._news.wait()
        self._closing.wait(SETTLE_S)
        self._news.clear()
        return not self._closing.is_set()

    def _tell(self) -> None:
        with self._lock:
            names, everything, moved, config = self._names, self._all, self._moved, self._config_seen
            self._names, self._all, self._moved, self._config_seen = set(), False, False, False
        if moved:
            self._place()
            self._misplaced()
        elif everything or names:
            self._touched(None if everything else names)
        if config:
            self._configured()

    def _place(self) -> None:
        """Watch the folders that have their names now: a watch stays with the folder that it began with.

        Raises OSError when the kernel watches no more.
        """
        above = {self._sessions.parent, self._config.parent}
        points = {self._sessions, self._config, *above}
        while not all(folder.is_dir() for folder in above):
            above = {folder if folder.is_dir() else folder.parent for folder in above}
            points |= above
        self._points = set(map(str, points))
        self._observer.unschedule_all()
        for folder in above:
            self._schedule(folder, self.seen_above, [*_FILES, *_FOLDERS])
        with contextlib.suppress(FileNotFoundError):  # its coming is seen from above
            self._schedule(self._sessions, self.seen_in_sessions, [*_FILES, DirDeletedEvent])

    def _schedule(self, folder: Path, seen: Callable[[str], None], events: list[type[FileSystemEvent]]) -> None:
        self._observer.schedule(_Handler(seen), str(folder), event_filter=events, follow_symlink=True)


class _Handler(FileSystemEventHandler):
    def __init__(self, seen: Callable[[str], None]) -> None:
        self._seen = seen

    def on_any_event(self, event: FileSystemEvent) -> None:
        for path in (event.src_path, event.dest_path):
            if path:
                self._seen(os.fsdecode(path))


class _Complaints(logging.Handler):
    """Whatever watchdog warns of (its log is all that tells of an overflow) may mean that events are lost."""

    def __init__(self, complained: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._complained = complained

    def emit(self, record: logging.LogRecord) -> None:
        self._complained()
