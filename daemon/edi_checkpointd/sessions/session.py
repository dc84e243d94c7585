"""Sessions and streams as the daemon has them in memory, and what files tell of a session.

Owned by the intake thread; the `State` within never changes.
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
    dropped: bool = False  # the disk refused a frame: nothing beyond is taken before that came again

    @property
    def fenced(self) -> bool:
        """Whether another writer has followed this one."""
        return 0 < self.epoch < self.session.epoch

    def note_last(self, entry: Entry) -> None:
        """Note the stream's newest entry: a writer that leaves cleanly ends with a mark."""
        self.closed_cleanly = isinstance(entry, Mark) and entry.kind == Kind.SHUTDOWN


@dataclass(slots=True)
class OpenSession:
    """A session in memory: its state, and how far the state has come into files."""

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
    resumed_us: int  # when the last writer was shown the state; 0: it was not
    resumed_at: int  # the sequence shown to the first of those that died soon
    short_lives: int
    drained: int  # entries from outboxes of the dead since a writer was last shown the state
    state: State
    sequence: int = 0  # after the open transaction
    streams: dict[str, WriterStream] = field(default_factory=dict)
    settled: bool = True  # every checkpoint that was decided on is written
    bytes_since_snapshot: int = 0
    app: str = "edi"
    pid: int = 0
    document: str | None = None  # the file that the state was taken from, because the journal did not have it
    resumed: Resumed | None = None  # what the writer that is attached was told of what it continues

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
    """Return what the writer of the fenced `stream` is told."""
    session_id = stream.session.session_id
    return Fenced(
        f"session {session_id}: another writer has taken it over", number=stream.number,
        branch=branch_id(session_id, stream.id),
    )  # fmt: skip


def purged_error() -> SessionPurged:
    """Return what the writer of a purged session is told. It names no session: what is told is logged."""
    return SessionPurged("the session was purged")


class Files(NamedTuple):
    """What a session's documents tell: sequences of the auto-save and of the newest checkpoint, and what the newest
    of them contains of each stream.

    `gone`: there are none. `ahead` is the newest valid state, from the file `document`, when it is newer than what the
    journal knows; `keep` the session's own number of checkpoints kept, as that file has it.
    """

    saved: int = 0
    checkpointed: int = 0
    streams: Mapping[str, int] = MappingProxyType({})
    parent_session: str | None = None
    gone: bool = False
    ahead: State | None = None
    document: str | None = None
    keep: int | None = None
