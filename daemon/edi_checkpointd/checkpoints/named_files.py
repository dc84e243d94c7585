"""Size, time and digest of the files that a state only names, for the checkpoint that is about to be written.

A thread of its own reads them, since a hung network mount may block it for ever. A checkpoint waits at most `WAIT_S`
and takes the facts that are known by then. While one request is late, the next does not wait.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue

from edi_checkpoint.documents.named_files import FileFacts, Identity, look

WAIT_S = 0.05  # of a checkpoint; digesting 256 MiB takes longer, and is there for the next checkpoint
KNOWN_MAX = 256  # digests kept

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _FactsRequest:
    """The files asked for in one call: what is known of each so far, by key, and whether that is everything."""

    facts: dict[str, FileFacts]
    done: threading.Event = field(default_factory=threading.Event)


class NamedFiles:
    """Reads the facts of files, and remembers the digests of unchanged ones."""

    def __init__(self) -> None:
        """Start no thread yet; the first request does."""
        self._known: OrderedDict[Identity, str] = OrderedDict()
        self._requests: SimpleQueue[_FactsRequest] = SimpleQueue()
        self._last: _FactsRequest | None = None
        self._thread: threading.Thread | None = None

    def of(self, paths: Mapping[str, str]) -> dict[str, FileFacts]:
        """Return what is known of the files `paths`, by their keys, within `WAIT_S`; the rest is unknown."""
        facts = {key: FileFacts(path) for key, path in paths.items()}
        if not paths:
            return facts
        if self._last is not None and not self._last.done.is_set():
            log.warning("files that a state names not read: an earlier request has not returned")
            return facts
        if self._thread is None:  # a daemon thread: the process's end waits for no mount
            self._thread = threading.Thread(target=self._run, name="named-files", daemon=True)
            self._thread.start()
        self._last = _FactsRequest(facts)
        self._requests.put(self._last)
        self._last.done.wait(WAIT_S)
        return dict(facts)

    def _run(self) -> None:
        while True:
            request = self._requests.get()
            paths = {key: facts.path for key, facts in request.facts.items()}
            for key, path in paths.items():
                request.facts[key] = look(path, digest=False)
            for key, path in paths.items():
                request.facts[key] = look(path, known=self._known)
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
            request.done.set()
