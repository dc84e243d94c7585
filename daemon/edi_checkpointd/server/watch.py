"""The watch: report changes of the sessions folder and of the configuration file at once. Only this module imports
watchdog.

Events are hints: they name files, and the receiver checks these files itself. After a possible loss of events, the
receiver checks the whole folder: the kernel's queue overflowed, the folder was replaced, or too many events came at
once. Without events, no thread wakes up. Loading watchdog takes 50 ms; the daemon imports this module when it is ready.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from watchdog import events
from watchdog.observers import Observer

from edi_checkpoint.system.paths import Paths

log = logging.getLogger(__name__)

SETTLE_S = 0.05  # the watch collects events for so long: a burst causes one check, and own writes cost little
NAMES_MAX = 1000  # of one report; if more files change, it is about the whole folder

_Kinds = list[type[events.FileSystemEvent]]
_FILES: _Kinds = [events.FileClosedEvent, events.FileCreatedEvent, events.FileDeletedEvent, events.FileMovedEvent]
_FOLDERS: _Kinds = [events.DirCreatedEvent, events.DirDeletedEvent, events.DirMovedEvent]


class Watch:
    """Watches until it is closed. It calls its callbacks in its own thread, one at a time.

    `touched` gets the names of changed files in the sessions folder, or None for the whole folder. If the folder, the
    lock or the marker in it may have been replaced, `misplaced` is called instead. `configured` is called if the
    configuration file may have changed.
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
        self._lock_and_marker = {paths.lock.name, paths.marker.name}
        self._touched = touched
        self._misplaced = misplaced
        self._configured = configured
        self._above: set[str] = set()  # the paths that matter in the parent folders
        self._lock = threading.Lock()  # of the events that are not reported yet, the next four
        self._names: set[str] = set()
        self._all = False
        self._replaced = False
        self._config_changed = False
        self._wakeup = threading.Event()
        self._closing = threading.Event()
        self._warnings = _Warnings(self.rescan)
        logging.getLogger("watchdog").addHandler(self._warnings)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def rescan(self) -> None:
        """Report the whole folder, because events may have been lost. Safe in any thread."""
        with self._lock:
            self._all = True
        self._wakeup.set()

    def close(self) -> None:
        """End the threads."""
        self._closing.set()
        self._wakeup.set()
        self._thread.join()
        logging.getLogger("watchdog").removeHandler(self._warnings)

    # -- events, in watchdog's threads -------------------------------------------------------------------------------

    def _session_event(self, path: str) -> None:
        """Record a change in the sessions folder, or the loss of the folder itself."""
        name = os.path.basename(path)  # noqa: PTH119 - for each write of ours, too
        with self._lock:
            if path == str(self._sessions) or name in self._lock_and_marker:
                self._replaced = True
            elif name.startswith(".") or not name.endswith(".json"):
                return
            elif len(self._names) < NAMES_MAX:
                self._names.add(name)
            else:
                self._all = True
        self._wakeup.set()

    def _event_above(self, path: str) -> None:
        """Record a change in a parent folder."""
        if path not in self._above:
            return
        with self._lock:
            self._config_changed = self._config_changed or path != str(self._sessions)
            self._replaced = self._replaced or path != str(self._config)
        self._wakeup.set()

    # -- reports, in the watch's thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        observer = None
        try:
            observer = self._observer = Observer()
            observer.start()
            with self._lock:  # changes since the daemon's start caused no events
                self._replaced = self._config_changed = True
            self._report()
            while self._wait():
                self._report()
        except OSError as error:  # a limit of inotify, or no descriptor left
            log.warning("folders are not watched, the daemon notices changes by others within a minute: %s", error)
        finally:
            if observer is not None and observer.is_alive():
                observer.stop()
                observer.join()

    def _wait(self) -> bool:
        self._wakeup.wait()
        self._closing.wait(SETTLE_S)
        self._wakeup.clear()
        return not self._closing.is_set()

    def _report(self) -> None:
        with self._lock:
            names, everything, replaced, config = self._names, self._all, self._replaced, self._config_changed
            self._names, self._all, self._replaced, self._config_changed = set(), False, False, False
        if replaced:
            self._watch_folders()
            self._misplaced()
        elif everything or names:
            self._touched(None if everything else names)
        if config:
            self._configured()

    def _watch_folders(self) -> None:
        """Watch the folders that now have our paths: inotify follows a folder that is renamed.

        Raises OSError if the kernel allows no more watches.
        """
        above = {self._sessions.parent, self._config.parent}
        paths = {self._sessions, self._config, *above}
        while not all(folder.is_dir() for folder in above):
            above = {folder if folder.is_dir() else folder.parent for folder in above}
            paths |= above
        self._above = set(map(str, paths))
        self._observer.unschedule_all()
        for folder in above:
            self._schedule(folder, self._event_above, [*_FILES, *_FOLDERS])
        with contextlib.suppress(FileNotFoundError):  # an event in its parent folder will report it
            self._schedule(self._sessions, self._session_event, [*_FILES, events.DirDeletedEvent])

    def _schedule(self, folder: Path, handle: Callable[[str], None], kinds: _Kinds) -> None:
        self._observer.schedule(_Handler(handle), str(folder), event_filter=kinds, follow_symlink=True)


class _Handler(events.FileSystemEventHandler):
    def __init__(self, handle: Callable[[str], None]) -> None:
        self._handle = handle

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        for path in (event.src_path, event.dest_path):
            if path:
                self._handle(os.fsdecode(path))


class _Warnings(logging.Handler):
    """Calls `warned` for each warning that watchdog logs: only its log reports an overflow, and thus lost events."""

    def __init__(self, warned: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._warned = warned

    def emit(self, record: logging.LogRecord) -> None:
        self._warned()
