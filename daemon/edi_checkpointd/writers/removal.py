"""Removal of drained outboxes: each is unlinked once a file covers what it held. Then its session may leave memory."""

from __future__ import annotations

import logging
from collections.abc import Collection
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


class OutboxRemoval:
    """Unlinks drained outboxes, in the loop's thread."""

    def __init__(
        self,
        ledger: Ledger,
        liveness: Liveness,
        coordinator: Coordinator,
        access: WriterAccess,
        janitor: Janitor,
        damaged: Path,
    ) -> None:
        """Take the parts; `damaged` is the folder for segments that could not be read to their ends."""
        self._ledger = ledger
        self._liveness = liveness
        self._coordinator = coordinator
        self._access = access
        self._janitor = janitor
        self._damaged = damaged
        self._drained: list[tuple[StreamFiles, str]] = []  # journaled, and into which stream; unlinked when covered
        self._spoiled: set[str] = set()  # drained streams whose segments hold more than could be read
        self._kept: set[str] = set()  # streams whose outboxes are kept as they are

    def drained(self, files: StreamFiles, target: str, *, spoiled: bool = False) -> None:
        """Take an outbox that is in the journal, as the stream `target`; `spoiled`: it holds more than can be read."""
        self._drained.append((files, target))
        if spoiled:
            self._spoiled.add(files.owner.stream)

    def keep(self, stream: str) -> None:
        """Keep the outbox of a stream as it is: it cannot be drained or unlinked."""
        self._kept.add(stream)

    def knows(self, stream: str) -> bool:
        """Whether the outbox of a stream is drained, or kept as it is."""
        return stream in self._kept or any(files.owner.stream == stream for files, _ in self._drained)

    @property
    def kept(self) -> int:
        """How many outboxes are kept as they are."""
        return len(self._kept)

    @property
    def settled(self) -> bool:
        """Whether files cover everything that was drained."""
        streams = (self._ledger.streams.get(target) for _, target in self._drained)
        return not any(stream.session.uncovered for stream in streams if stream is not None)

    def streams_held(self, session_id: str) -> set[str]:
        """Return the streams of a session that have outboxes: its own, and its parent's if it is a branch."""
        own = {files.owner.stream for files in self._liveness.outboxes(session_id)}
        return own | {branch_stream(files.owner.stream) for files in self._access.stranded_in(session_id)}

    def discard(self, streams: Collection[str]) -> None:
        """Drop what is to be done of streams whose outboxes are purged."""
        self._drained = [one for one in self._drained if one[0].owner.stream not in streams]
        self._kept.difference_update(streams)
        self._spoiled.difference_update(streams)

    def step(self) -> bool:
        """Unlink the covered outboxes; drop sessions from memory that nobody writes and that are in files.

        Returns False: what is left waits for its files.
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
        fenced = files.owner.fenced
        # Without the journal, the lock file of a stream is what says that it fenced the others.
        return not (
            fenced and any(one.owner.stream in fenced for one in self._liveness.outboxes(files.owner.session_id))
        )

    def _remove(self, files: StreamFiles, target: str) -> None:
        try:
            self._unlink(files)
        except OSError as error:
            log.warning("outbox kept as it is stream=%s: %s", files.owner.stream, error)
            self._kept.add(files.owner.stream)
            self._drained.remove((files, target))
            return
        reached(CrashPoint.STREAM_CLOSED)
        for stream_id in {target, files.owner.stream}:
            if stream := self._ledger.streams.get(stream_id):
                self._ledger.delete_stream(stream)
                self._access.leaving.add(stream.session.session_id)
        self._drained.remove((files, target))

    def _unlink(self, files: StreamFiles) -> None:
        """Unlink a drained outbox; segments that could not be read to their ends are set aside. Raises OSError."""
        if files.owner.stream in self._spoiled:
            ensure_private(self._damaged)
            for segment in files.segments:
                log.warning(
                    "outbox set aside file=%s",
                    set_aside(segment, self._damaged, f"{files.owner.session_id}.{segment.name}"),
                )
            self._spoiled.discard(files.owner.stream)
        remove_stream(files)

    def _release(self, session: OpenSession) -> None:
        held = self.streams_held(session.session_id)
        for stream in list(session.streams.values()):
            if stream.id not in held:  # known from a file's header only
                self._ledger.delete_stream(stream)
        if not session.streams:
            self._ledger.evict(session)
            self._coordinator.release(session)
            self._janitor.soon()
