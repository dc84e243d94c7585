"""Outbox removal: unlink a drained outbox once a file covers what it held, then drop its session from memory."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from edi_checkpoint.outbox.segments import StreamFiles, remove_stream
from edi_checkpoint.system.paths import ensure_private
from edi_checkpointd.checkpoints.coordinator import Coordinator
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.retention.janitor import Janitor
from edi_checkpointd.sessions.ledger import Ledger
from edi_checkpointd.sessions.loading import branch_stream
from edi_checkpointd.sessions.session import OpenSession
from edi_checkpointd.system.fs import set_aside
from edi_checkpointd.writers.access import WriterAccess
from edi_checkpointd.writers.liveness import Liveness

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class OutboxRemoval:
    """Unlinks drained outboxes, in the loop's thread. Segments that could not be read completely go to `damaged`."""

    _ledger: Ledger
    _liveness: Liveness
    _coordinator: Coordinator
    _access: WriterAccess
    _janitor: Janitor
    _damaged: Path
    _drained: list[tuple[StreamFiles, str]] = field(default_factory=list, init=False)
    """The outboxes that the journal has, each with the stream that its entries went into."""
    _spoiled: set[str] = field(default_factory=set, init=False)
    """Drained streams whose segments hold more than could be read."""
    _unchanged: set[str] = field(default_factory=set, init=False)
    """Streams whose outboxes stay unchanged: they cannot be drained or unlinked."""

    def drained(self, files: StreamFiles, target: str, *, spoiled: bool = False) -> None:
        """Unlink this outbox later: the journal has it as the stream `target`. `spoiled`: parts cannot be read."""
        self._drained.append((files, target))
        if spoiled:
            self._spoiled.add(files.owner.stream)

    def keep(self, stream: str) -> None:
        """Keep the outbox of a stream unchanged: it cannot be drained or unlinked."""
        self._unchanged.add(stream)

    def knows(self, stream: str) -> bool:
        """Whether the outbox of a stream is drained, or kept unchanged."""
        return stream in self._unchanged or any(files.owner.stream == stream for files, _ in self._drained)

    @property
    def kept(self) -> int:
        """How many outboxes are kept unchanged."""
        return len(self._unchanged)

    @property
    def settled(self) -> bool:
        """Whether files cover everything that the drained outboxes held."""
        streams = (self._ledger.streams.get(target) for _, target in self._drained)
        return not any(stream.session.uncovered for stream in streams if stream is not None)

    def streams_held(self, session_id: str) -> set[str]:
        """Return the streams of a session that have outboxes; if it is a branch, also its parent's fenced streams."""
        own = {files.owner.stream for files in self._liveness.outboxes(session_id)}
        return own | {branch_stream(files.owner.stream) for files in self._access.stranded_in(session_id)}

    def discard(self, streams: Collection[str]) -> None:
        """Do nothing more for these streams: a purge unlinks their outboxes."""
        self._drained = [one for one in self._drained if one[0].owner.stream not in streams]
        self._unchanged.difference_update(streams)
        self._spoiled.difference_update(streams)

    def step(self) -> bool:
        """Unlink the outboxes that files cover; drop sessions from memory that are saved and have no writer.

        Returns False: the other outboxes wait for their files.
        """
        if not self._drained and not self._access.leaving:
            return False
        for files, target in list(self._drained):
            if self._may_go(files, target):
                self._remove(files, target)
        for session_id in list(self._access.leaving):
            session = self._ledger.sessions.get(session_id)
            if session is not None and self._coordinator.busy(session):
                continue
            self._access.leaving.discard(session_id)
            if session is not None:
                self._release(session)
        return False

    def _may_go(self, files: StreamFiles, target: str) -> bool:
        stream = self._ledger.streams.get(target)
        if stream is not None and stream.session.uncovered:
            return False
        # If the journal is lost, only the lock file of a stream tells which streams it fenced: so theirs go first.
        fenced = files.owner.fenced
        others = self._liveness.outboxes(files.owner.session_id) if fenced else []
        return not any(other.owner.stream in fenced for other in others)

    def _remove(self, files: StreamFiles, target: str) -> None:
        try:
            self._unlink(files)
        except OSError as error:
            log.warning("outbox cannot be unlinked, it is kept stream=%s: %s", files.owner.stream, error)
            self._unchanged.add(files.owner.stream)
        else:
            reached(CrashPoint.STREAM_CLOSED)
            for stream_id in {target, files.owner.stream}:
                if stream := self._ledger.streams.get(stream_id):
                    self._ledger.delete_stream(stream)
                    self._access.leaving.add(stream.session.session_id)
        self._drained.remove((files, target))

    def _unlink(self, files: StreamFiles) -> None:
        """Unlink a drained outbox; set segments aside that could not be read completely. Raises OSError."""
        if files.owner.stream in self._spoiled:
            ensure_private(self._damaged)
            for segment in files.segments:
                copy = set_aside(segment, self._damaged, f"{files.owner.session_id}.{segment.name}")
                log.warning("outbox set aside file=%s", copy)
            self._spoiled.discard(files.owner.stream)
        remove_stream(files)

    def _release(self, session: OpenSession) -> None:
        with_outboxes = self.streams_held(session.session_id)
        for stream in list(session.streams.values()):
            if stream.id not in with_outboxes:  # only the header of a file named it
                self._ledger.delete_stream(stream)
        if not session.streams:
            self._ledger.evict(session)
            self._coordinator.release(session)
            self._janitor.soon()
