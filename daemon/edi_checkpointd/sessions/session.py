"""Sessions and streams in the daemon's memory, and the facts that a session's files give.

The loop's thread owns them. The `State` inside never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from edi_checkpoint.documents.names import branch_id
from edi_checkpoint.errors import Fenced, SessionPurged
from edi_checkpoint.model import Kind
from edi_checkpoint.wire.entries import Entry, Mark
from edi_checkpoint.wire.messages import Resumed
from edi_checkpointd.state import State


@dataclass(slots=True)
class WriterStream:
    """One stream: its highest committed number, and `expected`, the one it will have after the open transaction."""

    id: str
    session: OpenSession
    epoch: int
    number: int
    expected: int
    closed_cleanly: bool = False
    dropped: bool = False  # the disk refused a frame; until the client resends it, later ones are skipped

    @property
    def fenced(self) -> bool:
        """Whether another writer has taken the session over from this stream."""
        return 0 < self.epoch < self.session.epoch

    def note_last(self, entry: Entry) -> None:
        """Note the stream's newest entry: a clean end is a mark of kind `shutdown`."""
        self.closed_cleanly = isinstance(entry, Mark) and entry.kind == Kind.SHUTDOWN


@dataclass(slots=True)
class OpenSession:
    """A session in memory: its state, and how much of it is in files."""

    key: int
    session_id: str
    parent_session: str | None
    epoch: int
    started_us: int
    saved: int
    checkpointed: int
    left_as: str
    seen: int  # the newest sequence that a writer was shown when it attached
    keep: int | None  # the session's own number of checkpoints kept; None: the setting's
    resumed_us: int  # when the last writer was shown the state; 0: never
    resumed_at: int  # the sequence shown to the first of the writers that died soon
    short_lives: int
    drained: int  # entries drained since a writer was last shown the state
    state: State
    sequence: int = 0  # after the open transaction
    streams: dict[str, WriterStream] = field(default_factory=dict)
    settled: bool = True  # every checkpoint that the policy wanted is written
    bytes_since_snapshot: int = 0
    app: str = "edi"
    pid: int = 0
    document: str | None = None  # the file that gave the state, because the journal lacked it
    resumed: Resumed | None = None  # the resume report that the attached writer got

    @property
    def unsaved(self) -> bool:
        """Whether the state is newer than the auto-save."""
        return self.state.changed > self.saved

    @property
    def uncheckpointed(self) -> bool:
        """Whether the state is newer than any checkpoint."""
        return self.state.changed > self.checkpointed

    @property
    def uncovered(self) -> bool:
        """Whether the state is newer than any file."""
        return self.unsaved and self.uncheckpointed


def fenced_error(stream: WriterStream) -> Fenced:
    """Return the error for the writer of the fenced `stream`."""
    session_id = stream.session.session_id
    message, branch = f"session {session_id}: another writer has taken it over", branch_id(session_id, stream.id)
    return Fenced(message, number=stream.number, branch=branch)


def purged_error() -> SessionPurged:
    """Return the error for the writer of a purged session. It names no session, since errors are logged."""
    return SessionPurged("the session was purged")


class Files(NamedTuple):
    """The facts that a session's documents give: sequences of the auto-save and the newest checkpoint.

    `streams` holds the highest number of each stream in the newer of the two. `gone`: there are no documents. `ahead`
    is the newest valid state, from the file `document`, when the journal lacks it. `keep` is that file's number of
    checkpoints kept for the session.
    """

    saved: int = 0
    checkpointed: int = 0
    streams: Mapping[str, int] = MappingProxyType({})
    parent_session: str | None = None
    gone: bool = False
    ahead: State | None = None
    document: str | None = None
    keep: int | None = None
