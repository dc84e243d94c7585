"""Every error a caller can meet, sorted by what the caller does next.

Each derives from `EdiCheckpointError` and carries `.code` (stable, snake case, the `code` of `--json` failures) and
`.hint` (the remedy, one sentence). Where Python has a fitting built-in class the error is one of those too, so code
that only knows `OSError` or `LookupError` keeps working.
"""

from __future__ import annotations

from typing import ClassVar


class EdiCheckpointError(Exception):
    """Base of all errors of edi-checkpoint.

    `message` says what failed and where; `hint` says what to do, and defaults to the class's `default_hint`.
    """

    code: ClassVar[str] = "failed"
    default_hint: ClassVar[str] = "see the daemon's log"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint

    def __str__(self) -> str:
        return self.message


class StateValueError(EdiCheckpointError, ValueError):
    """A value cannot be stored as it is; the message begins with the path in the state (`validation.score: …`)."""

    code = "state_value"
    default_hint = "change the value named, or convert it before it is published; the state is unchanged"


class UsageError(EdiCheckpointError, ValueError):
    """An argument that cannot be meant; nothing was done."""

    code = "usage"
    default_hint = "see the documentation of what was called"


class SessionIdError(EdiCheckpointError, ValueError):
    """A session id that may not become a file name."""

    code = "session_id"
    default_hint = "use 1-128 of A-Z a-z 0-9 . _ -, not starting with a dot and not ending like a checkpoint's name"


class NotFound(EdiCheckpointError, LookupError):
    """No such session, checkpoint, sequence or time."""

    code = "not_found"
    default_hint = "`edi-checkpoint sessions` and `edi-checkpoint log SESSION` list what there is"


class SessionExists(EdiCheckpointError):
    """There is a session of this id already; it was left as it is."""

    code = "session_exists"
    default_hint = "give the other one another id, or move this one's files away"


class SessionBusy(EdiCheckpointError):
    """Another writer is attached to the session: process `pid`, since `since` (ISO 8601, UTC)."""

    code = "session_busy"
    default_hint = "close the other EDI, or take the session over"

    def __init__(self, message: str, *, pid: int, since: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid
        self.since = since


class Fenced(EdiCheckpointError):
    """Another writer took the session over after this one's entry `number`.

    What this one published since is kept in the session `branch`; None: it published nothing.
    """

    code = "fenced"
    default_hint = "open the session again to follow the new writer; what was published meanwhile is kept as a branch"

    def __init__(self, message: str, *, number: int = 0, branch: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.number = number
        self.branch = branch


class SessionPurged(EdiCheckpointError):
    """The session was purged, or its outbox was deleted: nothing that this writer publishes is kept any more."""

    code = "session_purged"
    default_hint = "open the session again: it begins anew, with nothing of what it held"


class SessionForked(EdiCheckpointError):
    """A session inherited over `fork` was written to; the child must open its own."""

    code = "session_forked"
    default_hint = "call edi_checkpoint.connect() in the child process and open a session of its own"


class SessionClosed(EdiCheckpointError):
    """A session or client was used after `close`."""

    code = "session_closed"
    default_hint = "open the session again with Client.session(session_id)"


class FlushTimeout(EdiCheckpointError, TimeoutError):
    """What was asked for was not heard of in time; the entries are in the outbox and the daemon takes them later."""

    code = "flush_timeout"
    default_hint = "nothing is lost: the outbox holds it; see `edi-checkpoint status`"


class CheckpointFailed(EdiCheckpointError, OSError):
    """The daemon could not write the checkpoint's file; the entries themselves are in the journal."""

    code = "checkpoint_failed"
    default_hint = "free some space or mend the sessions folder; older checkpoints are untouched"


class OutboxFull(EdiCheckpointError):
    """Neither the outbox file nor memory can take another entry; the call published nothing."""

    code = "outbox_full"
    default_hint = "free some disk space or start the daemon with `edi-checkpointd run`"


class DaemonUnavailable(EdiCheckpointError, ConnectionError):
    """The call needs the daemon and none answers."""

    code = "daemon_unavailable"
    default_hint = "start it with `edi-checkpointd run` or `systemctl --user start edi-checkpointd`"


class WrongFolder(EdiCheckpointError):
    """The daemon on this socket serves another sessions folder."""

    code = "wrong_folder"
    default_hint = "set EDI_CHECKPOINT_HOME (or the single EDI_CHECKPOINT_* folders) alike for EDI and the daemon"


class ProtocolError(EdiCheckpointError):
    """Bytes that are no message, entry or record of this version of the protocol."""

    code = "protocol"
    default_hint = "run the same version of edi-checkpoint on both sides"


class VersionMismatch(ProtocolError):
    """A message or file of a version that this software does not know."""

    code = "version_mismatch"
    default_hint = "update the older of the two and restart it; nothing was changed"


class DocumentDamaged(EdiCheckpointError):
    """A checkpoint or auto-save whose bytes are not what was written; the message names file and fault."""

    code = "document_damaged"
    default_hint = "use the next older checkpoint: `edi-checkpoint log SESSION`"


class AttachmentMissing(NotFound):
    """The content of an array or bytes that the state names is nowhere; the message names path and digest."""

    code = "attachment_missing"
    default_hint = "an older checkpoint may name one that is there; the other keys are not touched by this"


class AttachmentDamaged(DocumentDamaged):
    """The file of an array or bytes is not what was written; the message names path, digest and fault."""

    code = "attachment_damaged"
    default_hint = "delete the file named and publish the value again; the other keys are not touched by this"


class AttachmentsFull(EdiCheckpointError):
    """The attachments of all sessions together would grow beyond `attachments_max_bytes`; nothing was stored."""

    code = "attachments_full"
    default_hint = "raise attachments_max_bytes, or delete sessions that you need no more; the state is unchanged"


class ArraysMissing(EdiCheckpointError):
    """An array was to be read where numpy is not installed."""

    code = "arrays_missing"
    default_hint = "pip install 'edi-checkpoint[arrays]'"


class ConfigError(EdiCheckpointError, ValueError):
    """A setting that cannot be used; the message names the key and where it was set."""

    code = "config"
    default_hint = "correct the value named, or remove it to use the default"


class FolderError(EdiCheckpointError, OSError):
    """A folder or file of ours that cannot be used safely: wrong owner, a link in the way, a path too long."""

    code = "folder"
    default_hint = "correct its owner and mode, or set EDI_CHECKPOINT_HOME to a folder of yours"


_BY_CODE: dict[str, type[EdiCheckpointError]] = {
    kind.code: kind
    for kind in (
        StateValueError, SessionIdError, SessionExists, SessionPurged, NotFound, CheckpointFailed, OutboxFull,
        WrongFolder, ProtocolError, VersionMismatch, DocumentDamaged, AttachmentMissing, AttachmentDamaged,
        AttachmentsFull,
    )
}  # fmt: skip


def from_wire(
    code: str, message: str, hint: str, *, pid: int = 0, since: str = "", number: int = 0, branch: str = ""
) -> EdiCheckpointError:
    """Return the error that a daemon's `Error` message tells of; an unknown code gives the base class."""
    if code == SessionBusy.code:
        return SessionBusy(message, pid=pid, since=since, hint=hint)
    if code == Fenced.code:
        return Fenced(message, number=number, branch=branch or None, hint=hint)
    return _BY_CODE.get(code, EdiCheckpointError)(message, hint=hint)
