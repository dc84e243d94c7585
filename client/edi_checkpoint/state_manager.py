"""StateManager: the class of EDI's specification (seed, "See Docs"), on a `Session`.

It behaves as EDI documents and never prints: it logs. The state may also be changed in place in `state_data`; such
changes are found, and published, at the next `checkpoint` or `save_state`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import Final

from edi_checkpoint import offline, protocol
from edi_checkpoint.client import Client, connect
from edi_checkpoint.entries import KEEP_MAX
from edi_checkpoint.errors import DaemonUnavailable, FlushTimeout, NotFound, UsageError
from edi_checkpoint.model import NOT_OURS, Kind
from edi_checkpoint.names import check_session_id, new_session_id
from edi_checkpoint.paths import locate
from edi_checkpoint.session import Session

log = logging.getLogger(__name__)

_FILE_TIMEOUT_S = 2.0
_NOT_GIVEN: Final = object()
_EXPECTED = ("current_stage", "image_path", "naive_prompt")  # without them a session can hardly be gone on with
_FIELDS = frozenset(
    {
        *_EXPECTED, "scene_analysis", "intent", "prompts", "edited_image_path", "validation", "validation_results",
        "status", "current_iteration", "prompt_history", "entity_detections", "user_feedback", "model_configs",
        "checkpoints", "temp_files", "metadata", "parent_session",
    }
)  # fmt: skip


class StateManager:
    """EDI's state manager: `set_state`, `checkpoint`, `save_state`, `load_state`.

    A missing id becomes a new UUID. It starts empty: writing begins the session anew (what an earlier writer left is
    kept as a checkpoint), `load_state` continues it. Several managers of one process share a session of one id.

    The fields that EDI documents are attributes too, None while they are not set; to assign one is `set_state`.

    Raises `SessionIdError` for an id that may not be a file name, at the first call that writes `SessionBusy` while
    another process writes to the session, and later `Fenced` when one has taken it over.
    """

    session_id: str
    state_data: dict[str, object]

    def __init__(self, session_id: str | None = None) -> None:
        """Begin with an empty state; nothing is attached or written before the first call that needs it."""
        self.session_id = new_session_id() if session_id is None else check_session_id(session_id)
        self.state_data = {}
        self._session: Session | None = None
        self._keep: int | None = None

    def __getattr__(self, name: str) -> object:
        """Return a field of the state; None for one that EDI documents and that is not set."""
        state = self.__dict__.get("state_data", {})
        if name in state or name in _FIELDS:
            return state.get(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        """Set a field of the state by `set_state`; other attributes are the object's own."""
        if name in _FIELDS:
            self.set_state(name, value)
        else:
            super().__setattr__(name, value)

    @property
    def checkpoint_dir(self) -> Path:
        """The folder of the checkpoints; set EDI_CHECKPOINT_SESSIONS_DIR to move it."""
        return locate().sessions

    @property
    def session_file_path(self) -> Path:
        """The file `save_state` and the auto-save write."""
        return self.checkpoint_dir / f"{self.session_id}.json"

    @property
    def checkpoint_limit(self) -> int:
        """How many checkpoints of the session are kept (1 to 1000); what is set here goes with the next checkpoint."""
        return 10 if self._keep is None else self._keep

    @checkpoint_limit.setter
    def checkpoint_limit(self, limit: int) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= KEEP_MAX:
            raise UsageError(f"checkpoint_limit = {limit!r}: a whole number from 1 to {KEEP_MAX} is needed")
        self._keep = limit

    def set_state(self, key: str | None = None, value: object = _NOT_GIVEN, **fields: object) -> None:
        """Set one key (the seed's form), or several by keyword, where None leaves the key as it is.

        Raises `StateValueError` naming the path, and `UsageError` for a key or a value alone; the state is then
        unchanged.
        """
        changed = {name: field for name, field in fields.items() if field is not None}
        if (key is None) != (value is _NOT_GIVEN):
            raise UsageError("set_state(key, value) takes both, set_state(name=value, ...) neither")
        if key is not None:
            changed[key] = value
        if changed:
            self._attached().update(changed)
            self.state_data.update(changed)

    def checkpoint(self, reason: str = "manual") -> None:
        """Make a checkpoint and wait for its file, at most 2 s.

        Raises `CheckpointFailed` (an OSError) when told that it failed. Not told in time, or without a daemon: the
        request is on disk, one warning is logged, and the file follows.
        """
        session = self._published()
        try:
            session.core.checkpoint(reason, keep=self._keep, timeout_s=self._patience_s())
        except FlushTimeout as error:
            log.warning("%s; it follows when the daemon answers", error)

    def save_state(self) -> None:
        """Bring the state into `<session_id>.json` and wait for it, at most 2 s; else as `checkpoint`."""
        session = self._published()
        try:
            session.flush("checkpointed", timeout_s=self._patience_s())
        except FlushTimeout as error:
            log.warning("%s; the file follows when the daemon answers", error)

    def load_state(self, session_id: str | None = None) -> bool:
        """Continue a session from where it was left, this one's or `session_id`; False when there is nothing.

        False also for a file that names no session (`session_id` in it), whoever wrote it. A state without the fields
        that EDI needs is loaded with a warning; fields that EDI does not know stay.
        """
        wanted = self.session_id if session_id is None else check_session_id(session_id)
        session = self._own(wanted)
        session = _shared.find(wanted) if session is None else session
        session = _resume(wanted) if session is None else session
        if session is None:
            return False
        self._take(session)
        self.state_data = session.core.restored(session.texts())
        if missing := [name for name in _EXPECTED if name not in self.state_data]:
            log.warning("session %s is loaded without %s", wanted, ", ".join(missing))
        return True

    def _own(self, session_id: str) -> Session | None:
        """Return the session that this manager writes to, if it has that id and still may."""
        session = self._session
        return session if session is not None and session.session_id == session_id and session.usable else None

    def _take(self, session: Session) -> None:
        """Write to `session` from now on."""
        if session is not self._session:
            _shared.use(session)
            if self._session is not None:
                _shared.leave(self._session)
        self.session_id = session.session_id
        self._session = session

    def _attached(self) -> Session:
        """Return the session, attached; the first writer without `load_state` begins it anew."""
        if self._session is None:
            session = _shared.find(self.session_id)
            if session is None:
                session = _process_client().attach(self.session_id, seen=False)
            session.core.publication.begin_anew()
            self._take(session)
        assert self._session is not None
        return self._session

    def _published(self) -> Session:
        """Publish what was changed in place in `state_data`, at the cost of encoding it once; return the session."""
        session = self._attached()
        session.core.publish_difference(self.state_data)
        return session

    def _patience_s(self) -> float:
        return _FILE_TIMEOUT_S if _process_client().connected else 0.0


def _resume(session_id: str) -> Session | None:
    """Return a session attached with what is kept of it, by the daemon or in files; None when there is nothing.

    Asking whether there is leaves no trace, attaching would begin it.
    """
    client = _process_client()
    if client.disabled:
        return None
    found = None if _is_held_by_daemon(client, session_id) else offline.load_state(locate(), session_id)
    if found is not None and (not found.found or _names_no_session(found)):
        return None
    session = client.attach(session_id)
    foreign = found is not None and found.header is not None and found.header.kind in NOT_OURS
    if found is not None and foreign and not (session and client.connected):
        session.core.publication.replace(found.state)  # the daemon takes in only what it wrote itself
    return session


def _is_held_by_daemon(client: Client, session_id: str) -> bool:
    """Return whether a daemon answers and has checkpoints of its own of the session."""
    if not client.connected:
        return False
    with contextlib.suppress(DaemonUnavailable, NotFound):
        answer = client.ask(lambda n: protocol.ListCheckpoints(n, session_id), _FILE_TIMEOUT_S)
        rows = answer.checkpoints if isinstance(answer, protocol.Checkpoints) else []
        return any(row.kind not in NOT_OURS for row in rows)
    return False


def _names_no_session(found: offline.FoundState) -> bool:
    """Return whether all that was found is a session file by somebody else, which says no `session_id`."""
    foreign = found.header is not None and found.header.kind == Kind.FOREIGN and not found.from_outbox
    return foreign and found.state.get("session_id", b"null") == b"null"


class _Shared:
    """The sessions that managers of this process write to, each closed when the last one turns away from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[str, tuple[Session, int]] = {}  # by the session's stream

    def find(self, session_id: str) -> Session | None:
        """Return the session of that id, if some manager writes to it and still may."""
        with self._lock:
            sessions = [session for session, _ in self._users.values()]
        return next((one for one in sessions if one.session_id == session_id and one.usable), None)

    def use(self, session: Session) -> None:
        """Note one user more."""
        with self._lock:
            _, users = self._users.get(session.stream, (session, 0))
            self._users[session.stream] = (session, users + 1)

    def leave(self, session: Session) -> None:
        """Note one user less; close the session after the last."""
        with self._lock:
            _, users = self._users.pop(session.stream)
            if users > 1:
                self._users[session.stream] = (session, users - 1)
        if users == 1:
            session.close()


_client: Client | None = None
_client_lock = threading.Lock()
_shared = _Shared()


def _process_client() -> Client:
    """Return the client all managers of this process share; a forked child makes its own."""
    global _client
    with _client_lock:
        if _client is None or not _client.usable:
            _client = connect()
        return _client
