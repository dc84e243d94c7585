"""The messages between client and daemon as types. No I/O and no clock.

`docs/protocol.md` is normative. A change of a session is always an entry of a stream (`edi_checkpoint.wire.entries`).
All other messages ask, answer or report progress. `edi_checkpoint.wire.codec` turns a message into the bytes of a
frame.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from edi_checkpoint.model import CheckpointInfo, Event, Gap, HistoryEntry, SessionInfo
from edi_checkpoint.wire.entries import JsonText, Number, Text
from edi_checkpoint.wire.references import Digest, Type

FRAME_BYTES = 1 << 20  # a frame of entries is at most this, unless one entry alone is larger
WINDOW_BYTES = 4 << 20  # unacknowledged bytes of one stream in flight
MESSAGE_MAX_BYTES = (64 << 20) + (1 << 16)  # one entry of the greatest size with its envelope
SESSIONS_MAX = 100_000  # in one answer

StreamId: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


# -- from the client -------------------------------------------------------------------------------------------------


class Hello(Struct, tag="hello", frozen=True):
    """The first message of a connection: who speaks, and which sessions folder is meant."""

    app: Text
    version: Text
    sessions_dir: Annotated[str, Meta(max_length=4096)]


class Attach(Struct, tag="attach", frozen=True):
    """Wish to write to a session by a stream; sent anew on every connection.

    `journal` is the id of the journal that acknowledged the stream so far (None: none has), `first` and `last` are the
    numbers its outbox holds (`first > last`: none).
    """

    request: Number
    session_id: Text
    stream: StreamId
    parent_session: Text | None = None
    journal: Text | None = None
    first: Number = 1
    last: Number = 0
    want_state: bool = False


class Entries(Struct, tag="entries", frozen=True):
    """Records of one stream, back to back (`edi_checkpoint.wire.records`)."""

    stream: StreamId
    records: memoryview


class Probe(Struct, tag="probe", frozen=True):
    """Asks for the stream's acknowledgement again, after a silence.

    The answer carries `probe` back, and comes after the answers to all that was sent before: if its number is lower
    than what was sent by then, that was lost on the way and is sent again.
    """

    stream: StreamId
    probe: Number


class Save(Struct, tag="save", frozen=True):
    """Asks that what is acknowledged of the stream be brought into a file now; an `Ack` follows when it is."""

    stream: StreamId


class AskMark(Struct, tag="ask_mark", frozen=True):
    """Asks what became of the mark under `number`; sent after a reconnection while somebody waits for it."""

    stream: StreamId
    number: Number


class Close(Struct, tag="close", frozen=True):
    """The stream's writer has left and given up its lock."""

    stream: StreamId


class ListSessions(Struct, tag="list_sessions", frozen=True):
    """Asks for the newest sessions, of one condition or of all."""

    request: Number
    condition: Text | None = None
    limit: Annotated[int, Meta(ge=1, le=SESSIONS_MAX)] = 100


class ListCheckpoints(Struct, tag="list_checkpoints", frozen=True):
    """Asks for the checkpoints of a session, oldest first."""

    request: Number
    session_id: Text


class GetState(Struct, tag="get_state", frozen=True):
    """Asks for a state: of a checkpoint by name, at a sequence, at a time, or (none of them) the current one.

    `hold`: something is about to be made of the checkpoint; no rule deletes it for a minute.
    """

    request: Number
    session_id: Text
    checkpoint: Text | None = None
    sequence: Number | None = None
    time_us: int | None = None
    hold: bool = False


class GetHistory(Struct, tag="get_history", frozen=True):
    """Asks for the entries of a session that the journal holds, from sequence `since` on, at most `limit`."""

    request: Number
    session_id: Text
    since: Number = 1
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class GetAttachment(Struct, tag="get_attachment", frozen=True):
    """Asks for the content of an attachment, of type `kind`, that a state of the session names."""

    request: Number
    session_id: Text
    sha256: Digest
    kind: Type


class GetStatus(Struct, tag="get_status", frozen=True):
    """Asks how the daemon is."""

    request: Number


class GetSettings(Struct, tag="get_settings", frozen=True):
    """Asks for the settings that the daemon goes by."""

    request: Number


class Subscribe(Struct, tag="subscribe", frozen=True):
    """Asks for the events after the number `after` of the feed `feed`; none is named by who begins to watch.

    Answered when there are some, at once when the feed is another. A later one of the same connection replaces it.
    """

    request: Number
    feed: Text = ""
    after: Number = 0


class GetCleanup(Struct, tag="get_cleanup", frozen=True):
    """Asks what the rules would keep and delete just now."""

    request: Number


class GetWhy(Struct, tag="get_why", frozen=True):
    """Asks why a checkpoint was made, what keeps it, and what will delete it."""

    request: Number
    session_id: Text
    checkpoint: Text


class Prune(Struct, tag="prune", frozen=True):
    """Asks that what the rules delete be deleted now; asked again, it finds nothing to do."""

    request: Number


class Restore(Struct, tag="restore", frozen=True):
    """Asks that a session be brought back from the trash."""

    request: Number
    session_id: Text


class Import(Struct, tag="import", frozen=True):
    """Asks that a session be taken that the process `pid` has verified and staged in the sessions folder."""

    request: Number
    session_id: Text
    pid: Number


class Purge(Struct, tag="purge", frozen=True):
    """Asks that sessions leave no trace: these, or (`everything`) all there are, with all that was kept of any.

    May be asked again: what is purged already is passed over. `takeover`: living writers are shut out, and what they
    publish is kept nowhere.
    """

    request: Number
    sessions: Annotated[tuple[Text, ...], Meta(max_length=SESSIONS_MAX)] = ()
    everything: bool = False
    takeover: bool = False


Query: TypeAlias = (
    ListSessions
    | ListCheckpoints
    | GetState
    | GetHistory
    | GetAttachment
    | GetStatus
    | GetSettings
    | Subscribe
    | GetCleanup
    | GetWhy
)
Explained: TypeAlias = GetCleanup | GetWhy
Order: TypeAlias = Prune | Restore | Import | Purge  # about the files of whole sessions; it may be sent twice
Question: TypeAlias = Query | Order
ClientMessage: TypeAlias = Hello | Attach | Entries | Probe | Save | AskMark | Close | Question


# -- from the daemon -------------------------------------------------------------------------------------------------


class Welcome(Struct, tag="welcome", frozen=True):
    """The answer to `Hello`: which daemon, which journal."""

    version: Text
    pid: int
    journal: Text


class Resumed(Struct, frozen=True):
    """What a writer that is let in continues; see `model.ResumeReport`.

    `left_as` tells how the writer before left: `clean`, `interrupted`, `live` (it was taken over from), or nothing when
    there was none. `time_us` is the newest entry's time, `first` and `last` are the sequences that the journal still
    holds, `drained` counts entries taken from outboxes of the dead since a writer was last shown the state, `document`
    names the file that the state was taken from because the journal did not have it. `short_lives` counts writers in a
    row that died soon after they were shown the state, and `before` is the newest checkpoint from before that. `newest`
    names the newest checkpoint of all.
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


class Attached(Struct, tag="attached", frozen=True):
    """The stream may write.

    `number` is its highest committed number, `checkpointed` the highest that a file covers, `epoch` its fencing epoch.
    `state` is given when wanted, with what is known of it. `base_wanted`: entries are missing on this side, the client
    publishes a `Base`.
    """

    request: Number
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


class Ack(Struct, tag="ack", frozen=True):
    """All entries of the stream up to `number` are durable, those up to `checkpointed` are in a file too.

    `probe` is that of the `Probe` it answers, else 0; those up to `saved` are in the auto-save. `attachments_left` is
    how many bytes of attachments are still taken, None when that is not known.
    """

    stream: StreamId
    number: Number
    checkpointed: Number
    probe: Number = 0
    saved: Number = 0
    attachments_left: Number | None = None


class MarkDone(Struct, tag="mark_done", frozen=True):
    """The checkpoint that the mark under `number` asked for is there, durable, under its name."""

    stream: StreamId
    number: Number
    checkpoint: CheckpointInfo


class MarkFailed(Struct, tag="mark_failed", frozen=True):
    """The checkpoint that the mark under `number` asked for could not be written."""

    stream: StreamId
    number: Number
    message: str
    hint: str


class Sessions(Struct, tag="sessions", frozen=True):
    """The answer to `ListSessions`, newest first."""

    request: Number
    sessions: list[SessionInfo]


class Checkpoints(Struct, tag="checkpoints", frozen=True):
    """The answer to `ListCheckpoints`, oldest first."""

    request: Number
    checkpoints: list[CheckpointInfo]


class StateAt(Struct, tag="state_at", frozen=True):
    """The answer to `GetState`; `source` is `daemon`, `journal`, `file` or `outbox`, as `edi-checkpoint show` says."""

    request: Number
    session_id: str
    sequence: Number
    time_us: int
    stage: str
    condition: str
    parent_session: str | None
    checkpoint: str | None
    source: str
    state: dict[str, JsonText]


class History(Struct, tag="history", frozen=True):
    """The answer to `GetHistory`: the first and last sequence held, and the entries asked for."""

    request: Number
    first: Number
    last: Number
    entries: list[HistoryEntry]


class AttachmentFound(Struct, tag="attachment_found", frozen=True):
    """The answer to `GetAttachment`: bytes of that digest."""

    request: Number
    data: bytes


class StatusReply(Struct, tag="status", frozen=True):
    """The answer to `GetStatus`; `body` is the JSON text of `edi-checkpoint status --json`, without its format."""

    request: Number
    body: JsonText


class Settings(Struct, tag="settings", frozen=True):
    """The answer to `GetSettings`; `body` is the JSON text of the rows of `edi-checkpoint config --json`."""

    request: Number
    body: JsonText


class Events(Struct, tag="events", frozen=True):
    """The answer to `Subscribe`: the feed's id, the number up to which it tells, and what happened, oldest first.

    `missed` counts events after the number asked for that are held no more.
    """

    request: Number
    feed: str
    number: Number
    events: list[Event] = []
    missed: Number = 0


class CleanupReply(Struct, tag="cleanup", frozen=True):
    """The answer to `GetCleanup` and `Prune`; `body` is the JSON text of `edi-checkpoint prune --json`, without its
    format.
    """

    request: Number
    body: JsonText


class WhyReply(Struct, tag="why", frozen=True):
    """The answer to `GetWhy`; `body` is the JSON text of `edi-checkpoint why --json`, without its format."""

    request: Number
    body: JsonText


class Restored(Struct, tag="restored", frozen=True):
    """The answer to `Restore`: the session is back."""

    request: Number
    session_id: str


class Imported(Struct, tag="imported", frozen=True):
    """The answer to `Import`: the session is there."""

    request: Number
    session_id: str


class Purged(Struct, tag="purged", frozen=True):
    """The answer to `Purge`, when it has ended; `kept` says, a sentence each, what could not be removed and why."""

    request: Number
    kept: tuple[str, ...] = ()


class Error(Struct, tag="error", frozen=True):
    """Something was refused: the request, the entries of a stream up to `number`, or (neither) the message as a whole.

    `code` is the code of an error in `edi_checkpoint.errors`; `pid` and `since` go with `session_busy`, `branch` with
    `fenced`: the session that keeps what the stream published after the entry `number`.
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
    Attached
    | Sessions
    | Checkpoints
    | StateAt
    | History
    | AttachmentFound
    | StatusReply
    | Settings
    | Events
    | CleanupReply
    | WhyReply
    | Restored
    | Imported
    | Purged
)
DaemonMessage: TypeAlias = Welcome | Ack | MarkDone | MarkFailed | Answer | Error
