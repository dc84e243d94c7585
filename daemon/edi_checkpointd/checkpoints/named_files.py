"""Named files: what is known of the files that a state only names, for the checkpoint that is about to be written.

They are looked at in a thread of their own, which a hung network mount may hold up for ever: a checkpoint takes what is
known after a moment, and where one look is late, the next does not wait.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from queue import SimpleQueue

from edi_checkpoint.documents.named_files import FileFacts, Identity, look

WAIT_S = 0.05  # of a checkpoint; digesting 256 MiB takes longer, and is there for the one after it
KNOWN_MAX = 256  # digests kept

log = logging.getLogger(__name__)


class _Look:
    """One look at some files: what is known so far, and whether that is all."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = dict(paths)
        self.facts = {key: FileFacts(path) for key, path in paths.items()}
        self.done = threading.Event()


class NamedFiles:
    """Looks at files, and remembers the digests of those that were not changed since."""

    def __init__(self) -> None:
        """The thread starts with the first look."""
        self._known: OrderedDict[Identity, str] = OrderedDict()
        self._looks: SimpleQueue[_Look] = SimpleQueue()
        self._last: _Look | None = None
        self._thread: threading.Thread | None = None

    def of(self, paths: Mapping[str, str]) -> dict[str, FileFacts]:
        """Return what is known of the files `paths`, by their keys, within `WAIT_S`; the rest is unknown."""
        if not paths:
            return {}
        if self._last is not None and not self._last.done.is_set():
            log.warning("files named by a state are not looked at: an earlier look has not come back")
            return {key: FileFacts(path) for key, path in paths.items()}
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="named-files", daemon=True
            )  # the end waits for no mount
            self._thread.start()
        self._last = _Look(paths)
        self._looks.put(self._last)
        self._last.done.wait(WAIT_S)
        return dict(self._last.facts)

    def _run(self) -> None:
        while True:
            wanted = self._looks.get()
            for key, path in wanted.paths.items():
                wanted.facts[key] = look(path, digest=False)
            for key, path in wanted.paths.items():
                wanted.facts[key] = look(path, known=self._known)
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
            wanted.done.set()
