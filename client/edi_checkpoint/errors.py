"""All errors that a caller can get, ordered by what the caller has to do next.

Each derives from `EdiCheckpointError` and has `.code` (stable, snake case, the `code` of `--json` failures) and `.hint`
(the remedy, one sentence). Where Python has a fitting built-in class, the error derives from it, too: code that catches
only `OSError` or `LookupError` works.
"""

from __future__ import annotations

from typing import ClassVar


class EdiCheckpointError(Exception):
    """Base class of all errors of edi-checkpoint.

    `message` says what failed and where. `hint` says what to do; its default is the class's `default_hint`.
    """

    code: ClassVar[str] = "failed"
    default_hint: ClassVar[str] = "see the daemon's log"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint


class StateValueError(EdiCheckpointError, ValueError):
    """A value cannot be stored; the message begins with its path in the state (`validation.score: …`)."""

    code = "state_value"
    default_hint = "change the named value, or convert it before you publish it; the state is unchanged"


class UsageError(EdiCheckpointError, ValueError):
    """An argument is wrong; nothing was done."""

    code = "usage"
    default_hint = "see the documentation of the function"


class SessionIdError(EdiCheckpointError, ValueError):
    """A session id cannot be used as a file name."""

    code = "session_id"
    default_hint = "use 1-128 of A-Z a-z 0-9 . _ -, without a dot at the start or the ending of a checkpoint's name"


class NotFound(EdiCheckpointError, LookupError):
    """There is no such session, checkpoint, sequence or time."""

    code = "not_found"
    default_hint = "`edi-checkpoint sessions` lists the sessions, `edi-checkpoint log SESSION` the checkpoints"


class SessionExists(EdiCheckpointError):
    """A session with this id exists already; it was not changed."""

    code = "session_exists"
    default_hint = "choose another id, or move the files of the existing session away"


class SessionBusy(EdiCheckpointError):
    """Another writer has the session open: process `pid`, since `since` (ISO 8601, UTC)."""

    code = "session_busy"
    default_hint = "close the other app, or take the session over (takeover=True, or --takeover)"

    def __init__(self, message: str, *, pid: int, since: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid
        self.since = since


class Fenced(EdiCheckpointError):
    """Another writer took over the session after this writer's entry `number`.

    Later entries of this writer are saved in the session `branch`; None: there are none.
    """

    code = "fenced"
    default_hint = "open the session again to use the new writer's state; your later changes are saved in a branch"

    def __init__(self, message: str, *, number: int = 0, branch: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.number = number
        self.branch = branch


class SessionPurged(EdiCheckpointError):
    """The session was purged, or its outbox was deleted: nothing that this writer publishes is saved any more."""

    code = "session_purged"
    default_hint = "open the session again: it starts empty"


class SessionForked(EdiCheckpointError):
    """A child process wrote to a session that it inherited over `fork`; it must open its own."""

    code = "session_forked"
    default_hint = "call edi_checkpoint.connect() in the child process and open a session of its own"


class SessionClosed(EdiCheckpointError):
    """A session or client was used after `close`."""

    code = "session_closed"
    default_hint = "open the session again with Client.session(session_id)"


class FlushTimeout(EdiCheckpointError, TimeoutError):
    """The confirmation did not come in time. The entries are in the outbox, and the daemon will read them later."""

    code = "flush_timeout"
    default_hint = "nothing is lost, the entries are in the outbox; `edi-checkpoint status` shows why it takes long"


class CheckpointFailed(EdiCheckpointError, OSError):
    """The daemon could not write the checkpoint's file; the entries are in the journal."""

    code = "checkpoint_failed"
    default_hint = "free some space or fix the sessions folder; older checkpoints are not affected"


class OutboxFull(EdiCheckpointError):
    """Neither the outbox file nor memory has room for another entry; the call published nothing."""

    code = "outbox_full"
    default_hint = "free some disk space or start the daemon with `edi-checkpointd run`"


class DaemonUnavailable(EdiCheckpointError, ConnectionError):
    """The call needs a daemon, and none answers."""

    code = "daemon_unavailable"
    default_hint = "start it with `edi-checkpointd run` or `systemctl --user start edi-checkpointd`"


class WrongFolder(EdiCheckpointError):
    """The daemon on this socket serves another sessions folder."""

    code = "wrong_folder"
    default_hint = "set EDI_CHECKPOINT_HOME (or each EDI_CHECKPOINT_*_DIR) to the same value for EDI and the daemon"


class ProtocolError(EdiCheckpointError):
    """Bytes are not a message, entry or record of this version of the protocol."""

    code = "protocol"
    default_hint = "run the same version of edi-checkpoint on both sides"


class VersionMismatch(ProtocolError):
    """A message or file has a version that this software does not know."""

    code = "version_mismatch"
    default_hint = "update the older program and restart it; nothing was changed"


class DocumentDamaged(EdiCheckpointError):
    """A checkpoint or auto-save is damaged; the message names file and fault."""

    code = "document_damaged"
    default_hint = "use the next older checkpoint: `edi-checkpoint log SESSION`"


class AttachmentMissing(NotFound):
    """The content of an array or bytes in the state is missing; the message names path and digest."""

    code = "attachment_missing"
    default_hint = "try an older checkpoint, or save the value again; the other keys are not affected"


class AttachmentDamaged(DocumentDamaged):
    """The file of an array or bytes is damaged; the message names path, digest and fault."""

    code = "attachment_damaged"
    default_hint = "delete the named file, and save the value again; the other keys are not affected"


class AttachmentsFull(EdiCheckpointError):
    """The attachments of all sessions would exceed `attachments_max_bytes`; nothing was stored."""

    code = "attachments_full"
    default_hint = "raise attachments_max_bytes, or delete sessions that you do not need; the state is unchanged"


class ArraysMissing(EdiCheckpointError):
    """Reading an array needs numpy, which is not installed."""

    code = "arrays_missing"
    default_hint = "install the extra `arrays` from the clone: pip install '.[arrays]'"


class ConfigError(EdiCheckpointError, ValueError):
    """A setting has a bad value; the message names the key and where it was set."""

    code = "config"
    default_hint = "correct the named value, or remove it to use the default"


class FolderError(EdiCheckpointError, OSError):
    """One of our folders or files cannot be used safely: wrong owner, a symbolic link, a path too long."""

    code = "folder"
    default_hint = "correct its owner and mode, or set EDI_CHECKPOINT_HOME to a folder of your own"


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
    """Return the error that a daemon's `Error` message describes; an unknown code gives the base class."""
    if code == SessionBusy.code:
        return SessionBusy(message, pid=pid, since=since, hint=hint)
    if code == Fenced.code:
        return Fenced(message, number=number, branch=branch or None, hint=hint)
    return _BY_CODE.get(code, EdiCheckpointError)(message, hint=hint)
