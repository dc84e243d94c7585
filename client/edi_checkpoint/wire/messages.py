"""The messages between a client and a daemon, as typed structs. `wire.codec` turns them into frames and back.

`docs/protocol.md` is normative. The client's entries travel in `Entries`, as records (`wire.records`). All other
messages ask, answer, or report how far the entries have come. A reader ignores unknown fields.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from edi_checkpoint.model import CheckpointInfo, Event, Gap, HistoryEntry, SessionInfo
from edi_checkpoint.wire.entries import JsonText, Number, Text
from edi_checkpoint.wire.references import Digest, Type

FRAME_BYTES = 1 << 20  # the limit of a frame of entries; a larger entry is a frame by itself
WINDOW_BYTES = 4 << 20  # unacknowledged bytes of one stream in flight
MESSAGE_MAX_BYTES = (64 << 20) + (1 << 16)  # the largest entry with its envelope
SESSIONS_MAX = 100_000  # in one answer

StreamId: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


class _Numbered(Struct, frozen=True):
    """A question or its answer: both carry the number `request`, which the client chooses."""

    request: Number


class _JsonBody(_Numbered, frozen=True):
    """An answer whose `body` is the JSON text of a command's output, without its `format`."""

    body: JsonText


class _OfStream(Struct, frozen=True):
    """A message about one stream."""

    stream: StreamId


# -- from the client -------------------------------------------------------------------------------------------------


class Hello(Struct, tag="hello", frozen=True):
    """The first message of a connection: it names the app and the sessions folder that the client wants."""

    app: Text
    version: Text
    sessions_dir: Annotated[str, Meta(max_length=4096)]


class Attach(_Numbered, tag="attach", frozen=True):
    """Asks the daemon to accept entries of a stream; the client repeats it on every connection.

    `journal` is the id of the journal that acknowledged the stream so far, None without one. `first` and `last` are
    the numbers in the stream's outbox; `first > last` for an empty one.
    """

    session_id: Text
    stream: StreamId
    parent_session: Text | None = None
    journal: Text | None = None
    first: Number = 1
    last: Number = 0
    want_state: bool = False


class Entries(_OfStream, tag="entries", frozen=True):
    """Records of one stream, back to back (`edi_checkpoint.wire.records`)."""

    records: memoryview


class Probe(_OfStream, tag="probe", frozen=True):
    """Asks for the stream's acknowledgement again, after a silence.

    The daemon answers in order, with the same `probe`. If the answer's number is lower than the last number sent
    before the probe, entries were lost, and the client sends them again.
    """

    probe: Number


class Save(_OfStream, tag="save", frozen=True):
    """Asks the daemon to save the acknowledged entries of the stream to a file now; an `Ack` reports it."""


class AskMark(_OfStream, tag="ask_mark", frozen=True):
    """Asks for the checkpoint of the mark `number`; sent after a reconnection while a caller waits for it."""

    number: Number


class Close(_OfStream, tag="close", frozen=True):
    """Reports that the stream's writer has left and released its lock."""


class ListSessions(_Numbered, tag="list_sessions", frozen=True):
    """Asks for the newest sessions, of one condition or of any."""

    condition: Text | None = None
    limit: Annotated[int, Meta(ge=1, le=SESSIONS_MAX)] = 100


class ListCheckpoints(_Numbered, tag="list_checkpoints", frozen=True):
    """Asks for the checkpoints of a session, oldest first."""

    session_id: Text


class GetState(_Numbered, tag="get_state", frozen=True):
    """Asks for a state: of a checkpoint by name, at a sequence, at a time, or without any of these the current one.

    `hold`: no rule deletes the checkpoint for a minute, because the client is about to use it.
    """

    session_id: Text
    checkpoint: Text | None = None
    sequence: Number | None = None
    time_us: int | None = None
    hold: bool = False


class GetHistory(_Numbered, tag="get_history", frozen=True):
    """Asks for the entries of a session in the journal, from sequence `since` on, at most `limit`."""

    session_id: Text
    since: Number = 1
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class GetAttachment(_Numbered, tag="get_attachment", frozen=True):
    """Asks for the content of an attachment, of type `kind`, that a state of the session names."""

    session_id: Text
    sha256: Digest
    kind: Type


class GetStatus(_Numbered, tag="get_status", frozen=True):
    """Asks for the daemon's status."""


class GetSettings(_Numbered, tag="get_settings", frozen=True):
    """Asks for the settings that the daemon uses."""


class Subscribe(_Numbered, tag="subscribe", frozen=True):
    """Asks for the events after the number `after` of the feed `feed`; `feed` is empty in the first request.

    The daemon answers when there are events, and at once if it has another feed. A later request of the same
    connection replaces an earlier one.
    """

    feed: Text = ""
    after: Number = 0


class GetCleanup(_Numbered, tag="get_cleanup", frozen=True):
    """Asks what the rules would keep and delete now."""


class GetWhy(_Numbered, tag="get_why", frozen=True):
    """Asks why a checkpoint was made, what keeps it, and what will delete it."""

    session_id: Text
    checkpoint: Text


class Prune(_Numbered, tag="prune", frozen=True):
    """Asks the daemon to delete now what the rules delete; a repeated request finds nothing to do."""


class Restore(_Numbered, tag="restore", frozen=True):
    """Asks the daemon to bring a session back from the trash."""

    session_id: Text


class Import(_Numbered, tag="import", frozen=True):
    """Asks the daemon to import a session that the process `pid` has verified and staged in the sessions folder."""

    session_id: Text
    pid: Number


class Purge(_Numbered, tag="purge", frozen=True):
    """Asks the daemon to remove every trace of `sessions`, or with `everything` of all sessions.

    A repeated request skips what is purged already. `takeover`: the daemon shuts out living writers, and keeps
    nothing of what they publish from then on.
    """

    sessions: Annotated[tuple[Text, ...], Meta(max_length=SESSIONS_MAX)] = ()
    everything: bool = False
    takeover: bool = False


Query: TypeAlias = (
    ListSessions | ListCheckpoints | GetState | GetHistory | GetAttachment | GetStatus | GetSettings | Subscribe
    | GetCleanup | GetWhy
)  # fmt: skip
Explained: TypeAlias = GetCleanup | GetWhy
Order: TypeAlias = Prune | Restore | Import | Purge  # concern the files of whole sessions; each may be repeated
Question: TypeAlias = Query | Order
ClientMessage: TypeAlias = Hello | Attach | Entries | Probe | Save | AskMark | Close | Question


# -- from the daemon -------------------------------------------------------------------------------------------------


class Welcome(Struct, tag="welcome", frozen=True):
    """The answer to `Hello`: the daemon's version and process, and the id of its journal."""

    version: Text
    pid: int
    journal: Text


class Resumed(Struct, frozen=True):
    """What a writer resumes; the client makes its `model.ResumeReport` from it.

    `left_as` tells how the previous writer left: `clean`, `interrupted`, `live` (it was fenced), or empty without one.
    `time_us` is the newest entry's time. `first` and `last` are the sequences in the journal. `drained` counts the
    entries drained from outboxes of dead writers since a writer last received the state. `document` names the file
    that the state was read from, if the journal did not have it. `short_lives` counts writers in a row that died soon
    after they received the state, and `before` is the newest checkpoint from before that. `newest` names the newest
    checkpoint.
    """

    left_as: Text
    time_us: int
    first: Number
    last: Number
    drained: Number = 0
    document: Text | None = None
    gaps: tuple[Gap, ...] = ()
    short_lives: Number = 0
    before: CheckpointInfo | None = None
    newest: Text | None = None


class Attached(_Numbered, tag="attached", frozen=True):
    """The answer to `Attach`: the daemon accepts the stream's entries.

    `number` is the stream's highest committed number, `checkpointed` the highest that a file covers, `epoch` its
    fencing epoch. `state`, `sequence` and `resumed` describe the session if the client wanted its state.
    `base_wanted`: the daemon lacks entries, so the client publishes a `Base`.
    """

    stream: StreamId
    epoch: Number
    number: Number
    checkpointed: Number
    sequence: Number
    base_wanted: bool
    parent_session: Text | None = None
    state: dict[str, JsonText] | None = None
    resumed: Resumed | None = None
    attachments_left: Number | None = None


class Ack(_OfStream, tag="ack", frozen=True):
    """Acknowledges the stream's entries: up to `number` they are durable, up to `checkpointed` also in a file.

    Entries up to `saved` are in the auto-save. `probe` repeats that of the `Probe` it answers, else 0.
    `attachments_left` is how many bytes of new attachments the daemon still accepts, None if it does not know.
    """

    number: Number
    checkpointed: Number
    probe: Number = 0
    saved: Number = 0
    attachments_left: Number | None = None


class MarkDone(_OfStream, tag="mark_done", frozen=True):
    """Reports that the checkpoint for the mark `number` is durable."""

    number: Number
    checkpoint: CheckpointInfo


class MarkFailed(_OfStream, tag="mark_failed", frozen=True):
    """Reports that the daemon could not write the checkpoint for the mark `number`."""

    number: Number
    message: str
    hint: str


class Sessions(_Numbered, tag="sessions", frozen=True):
    """The answer to `ListSessions`, newest first."""

    sessions: list[SessionInfo]


class Checkpoints(_Numbered, tag="checkpoints", frozen=True):
    """The answer to `ListCheckpoints`, oldest first."""

    checkpoints: list[CheckpointInfo]


class StateAt(_Numbered, tag="state_at", frozen=True):
    """The answer to `GetState`; `source` is `daemon`, `journal`, `file` or `outbox`, as `edi-checkpoint show` says."""

    session_id: str
    sequence: Number
    time_us: int
    stage: str
    condition: str
    parent_session: str | None
    checkpoint: str | None
    source: str
    state: dict[str, JsonText]


class History(_Numbered, tag="history", frozen=True):
    """The answer to `GetHistory`: the first and last sequence in the journal, and the requested entries."""

    first: Number
    last: Number
    entries: list[HistoryEntry]


class AttachmentFound(_Numbered, tag="attachment_found", frozen=True):
    """The answer to `GetAttachment`: the bytes of its file."""

    data: bytes


class StatusReply(_JsonBody, tag="status", frozen=True):
    """The answer to `GetStatus`: the output of `edi-checkpoint status --json`."""


class Settings(_JsonBody, tag="settings", frozen=True):
    """The answer to `GetSettings`: the rows of `edi-checkpoint config --json`."""


class Events(_Numbered, tag="events", frozen=True):
    """The answer to `Subscribe`: the feed's id, the number of the newest event covered, and the events, oldest first.

    `missed` counts the requested events that the daemon no longer holds.
    """

    feed: str
    number: Number
    events: list[Event] = []
    missed: Number = 0


class CleanupReply(_JsonBody, tag="cleanup", frozen=True):
    """The answer to `GetCleanup` and `Prune`: the output of `edi-checkpoint prune --json`."""


class WhyReply(_JsonBody, tag="why", frozen=True):
    """The answer to `GetWhy`: the output of `edi-checkpoint why --json`."""


class Restored(_Numbered, tag="restored", frozen=True):
    """The answer to `Restore`: the session is back from the trash."""

    session_id: str


class Imported(_Numbered, tag="imported", frozen=True):
    """The answer to `Import`: the session is imported."""

    session_id: str


class Purged(_Numbered, tag="purged", frozen=True):
    """The answer to `Purge`, after its end; each sentence of `kept` says what could not be removed and why."""

    kept: tuple[str, ...] = ()


class Error(Struct, tag="error", frozen=True):
    """Refuses a request, the entries of a stream up to `number`, or without `request` and `stream` a whole message.

    `code` is the code of an error in `edi_checkpoint.errors`. `pid` and `since` belong to `session_busy`, `branch` to
    `fenced`: it is the session that keeps what the stream published after the entry `number`.
    """

    code: str
    message: str
    hint: str
    request: Number = 0
    stream: str = ""
    number: Number = 0
    pid: int = 0
    since: str = ""
    branch: str = ""


Answer: TypeAlias = (
    Attached | Sessions | Checkpoints | StateAt | History | AttachmentFound | StatusReply | Settings | Events
    | CleanupReply | WhyReply | Restored | Imported | Purged
)  # fmt: skip
DaemonMessage: TypeAlias = Welcome | Ack | MarkDone | MarkFailed | Answer | Error
