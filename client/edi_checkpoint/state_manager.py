"""StateManager: the class of EDI's specification (seed, "See Docs"), on a `Session`.

It behaves as EDI documents it, but logs instead of printing. An app may also change `state_data` in place; the next
`checkpoint` or `save_state` publishes such changes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import Final

from edi_checkpoint.client import Client, connect
from edi_checkpoint.documents.names import check_session_id, new_session_id
from edi_checkpoint.errors import DaemonUnavailable, FlushTimeout, NotFound, UsageError
from edi_checkpoint.home import offline
from edi_checkpoint.model import NOT_OURS, Kind
from edi_checkpoint.session.session import Session
from edi_checkpoint.system.paths import locate
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.entries import KEEP_MAX

log = logging.getLogger(__name__)

_FILE_TIMEOUT_S = 2.0
_NOT_GIVEN: Final = object()
_EXPECTED = ("current_stage", "image_path", "naive_prompt")  # without them EDI can hardly resume a session
_FIELDS = frozenset({
    *_EXPECTED, "scene_analysis", "intent", "prompts", "edited_image_path", "validation", "validation_results",
    "status", "current_iteration", "prompt_history", "entity_detections", "user_feedback", "model_configs",
    "checkpoints", "temp_files", "metadata", "parent_session",
})  # fmt: skip


class StateManager:
    """EDI's own state manager, as the seed specifies it: `set_state`, `checkpoint`, `save_state`, `load_state`.

    A manager starts with an empty state. `load_state` continues the session. Without it the first write starts the
    session again from an empty state; an earlier state is kept as a checkpoint. Several managers of one process may
    share a session.

    The fields that EDI documents are attributes too: `manager.current_stage` reads the key, None while it is not set;
    `manager.current_stage = "analysis"` is `set_state`. All managers of a process use one client, and a session stays
    open until the process ends.

    Args:
        session_id: an id as `Client.session` takes it, or None for a new UUID.
    Attributes:
        session_id: str, the session's id.
        state_data: dict, the state. It may be changed in place; `checkpoint` and `save_state` publish such changes.
    Waits: the first call that writes opens the session, as `Client.session`.
    Raises:
        SessionIdError: the id cannot become a file name.
        SessionBusy: at the first write, another process writes to the session.
        the publishing errors: see `Session`, at each write.
    Source: the seed, "See Docs": the class `StateManager`.
    Example:
        from edi_checkpoint import StateManager

        manager = StateManager()
        manager.set_state("current_stage", "image_processing")
        manager.checkpoint("workflow_transition")
        print(manager.current_stage)  # image_processing
    """

    session_id: str
    state_data: dict[str, object]

    def __init__(self, session_id: str | None = None) -> None:
        """Start with an empty state. The first call that needs the session opens it."""
        self.session_id = new_session_id() if session_id is None else check_session_id(session_id)
        self.state_data = {}
        self._session: Session | None = None
        self._keep: int | None = None

    def __getattr__(self, name: str) -> object:
        """Return a field of the state, or None for a field that EDI documents and that is not set."""
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
        """The folder of the checkpoints and auto-saves, a `Path`. EDI_CHECKPOINT_SESSIONS_DIR moves it.

        Raises:
            ConfigError: an EDI_CHECKPOINT_ variable holds a relative path.
        Source: the seed, "See Docs": `~/.edi/sessions`.
        Example:
            from edi_checkpoint import StateManager

            print(StateManager().checkpoint_dir.name)  # sessions
        """
        return locate().sessions

    @property
    def session_file_path(self) -> Path:
        """The file that `save_state` and the auto-save write, a `Path`: `<checkpoint_dir>/<session_id>.json`.

        Raises:
            ConfigError: an EDI_CHECKPOINT_ variable holds a relative path.
        Example:
            from edi_checkpoint import StateManager

            print(StateManager("session_777").session_file_path.name)  # session_777.json
        """
        return self.checkpoint_dir / f"{self.session_id}.json"

    @property
    def checkpoint_limit(self) -> int:
        """How many checkpoints of the session are kept, 1 to 1000. The next `checkpoint` tells the daemon a new number.

        It shows 10 until it is set; the setting `keep_per_session` decides until then.

        Raises:
            UsageError: it is set to something else.
        Source: the seed, "Step-by-step Logic": "Maintain a limited number of checkpoints to manage disk usage".
        Example:
            from edi_checkpoint import StateManager

            manager = StateManager()
            manager.checkpoint_limit = 3
            for number in range(5):
                manager.set_state("progress", number)
                manager.checkpoint("one of five")
        """
        return 10 if self._keep is None else self._keep

    @checkpoint_limit.setter
    def checkpoint_limit(self, limit: int) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= KEEP_MAX:
            raise UsageError(f"checkpoint_limit = {limit!r}: it must be a whole number from 1 to {KEEP_MAX}")
        self._keep = limit

    def set_state(self, key: str | None = None, value: object = _NOT_GIVEN, **fields: object) -> None:
        """Set one key (the seed's form) or several by keyword, as one entry. A keyword of None leaves its key as it is.

        Args:
            key, value: one key and its value, both or none. The value may be None.
            fields: keys and values.
        Waits: the first call opens the session, as `Client.session`. Later calls do not wait for the daemon.
        Raises:
            StateValueError: a value cannot be stored; the message begins with its path. The state is unchanged.
            UsageError: a key without a value, or a value without a key.
            SessionBusy: another process writes to the session.
            the publishing errors: see `Session`.
        Source: the seed, "See Docs": `set_state`.
        Example:
            from edi_checkpoint import StateManager

            manager = StateManager()
            manager.set_state("progress", 0.75)
            manager.set_state(current_stage="analysis", image_path=None)
            print(manager.state_data)  # {'progress': 0.75, 'current_stage': 'analysis'}
        """
        changed = {name: field for name, field in fields.items() if field is not None}
        if (key is None) != (value is _NOT_GIVEN):
            raise UsageError("give set_state both a key and a value, or only keyword arguments")
        if key is not None:
            changed[key] = value
        if changed:
            self._attached().update(changed)
            self.state_data.update(changed)

    def checkpoint(self, reason: str = "manual") -> None:
        """Publish changes made in place, make a checkpoint, and wait for its file.

        If no daemon answers in time, the request is on the disk: it is logged as a warning, and the file follows.

        Args:
            reason: why, for people; at most 1024 characters.
        Waits: at most 2 s; without a daemon, for one fsync.
        Raises:
            CheckpointFailed: the daemon could not write the file. It is an OSError.
            StateValueError: a change made in place cannot be stored.
            SessionBusy: another process writes to the session.
            the publishing errors: see `Session`.
        Source: the seed, "Step-by-step Logic", items 1 to 7.
        Example:
            from edi_checkpoint import StateManager

            manager = StateManager()
            manager.state_data["prompts"] = ["a green roof"]
            manager.checkpoint("workflow_transition")
        """
        session = self._published()
        try:
            session.core.checkpoint(reason, keep=self._keep, timeout_s=self._timeout_s())
        except FlushTimeout as error:
            log.warning("%s; it will be made when a daemon answers", error)

    def save_state(self) -> None:
        """Publish changes made in place, save the state to `<session_id>.json`, and wait for that file.

        If no daemon answers in time, it is logged as a warning, and the file follows.

        Waits: at most 2 s; it does not wait without a daemon.
        Raises:
            StateValueError: a change made in place cannot be stored.
            SessionBusy: another process writes to the session.
            the publishing errors: see `Session`.
        Example:
            from edi_checkpoint import StateManager

            manager = StateManager()
            manager.set_state(current_stage="analysis")
            manager.save_state()
            print(manager.session_file_path.exists())  # True
        """
        session = self._published()
        try:
            session.flush("checkpointed", timeout_s=self._timeout_s())
        except FlushTimeout as error:
            log.warning("%s; the file will be written when a daemon answers", error)

    def load_state(self, session_id: str | None = None) -> bool:
        """Open a session, this manager's or `session_id`, with the state as it was published last. Return False if
        there is none.

        It also returns False for a file of another program without `session_id`. If `current_stage`, `image_path` or
        `naive_prompt` is missing, the state is loaded and a warning is logged. Fields that EDI does not know stay.

        Arrays and bytes are read when their keys are accessed in `state_data`.

        Args:
            session_id: the session to load; the manager writes to it from now on. None loads the manager's own.
        Waits: as `Client.session`; at most 2 s more to ask whether there is such a session.
        Raises:
            SessionIdError: the id cannot become a file name.
            SessionBusy: another process writes to the session.
        Example:
            from edi_checkpoint import StateManager

            manager = StateManager()
            print(manager.load_state("no_such_session"))  # False
        """
        session_id = self.session_id if session_id is None else check_session_id(session_id)
        session = _shared.find(session_id)
        session = _resume(session_id) if session is None else session
        if session is None:
            return False
        self._use(session)
        self.state_data = session.core.restored(session.texts())
        if missing := [name for name in _EXPECTED if name not in self.state_data]:
            log.warning("session %s is loaded without %s", session_id, ", ".join(missing))
        return True

    def _use(self, session: Session) -> None:
        """Write to `session` from now on."""
        if session is not self._session:
            _shared.use(session)
            if self._session is not None:
                _shared.leave(self._session)
        self.session_id = session.session_id
        self._session = session

    def _attached(self) -> Session:
        """Return the session, attached. A manager that did not load the state first starts it empty."""
        session = self._session
        if session is None:
            session = _shared.find(self.session_id)
            if session is None:
                session = _process_client().attach(self.session_id, seen=False)
            session.core.publication.start_empty()
            self._use(session)
        return session

    def _published(self) -> Session:
        """Publish changes made in place in `state_data`, which encodes all of it; return the session."""
        session = self._attached()
        session.core.publish_difference(self.state_data)
        return session

    def _timeout_s(self) -> float:
        return _FILE_TIMEOUT_S if _process_client().connected else 0.0


def _resume(session_id: str) -> Session | None:
    """Return a session that exists, attached, with its state from the daemon or the files; None if it does not exist.

    It asks first, because attaching would create the session.
    """
    client = _process_client()
    if client.disabled:
        return None
    found = None if _has_own_checkpoints(client, session_id) else offline.load_state(locate(), session_id)
    if found is not None and (not found.found or _is_unknown_file(found)):
        return None
    session = client.attach(session_id)
    if found and found.header and found.header.kind in NOT_OURS and not (session and client.connected):
        session.core.publication.replace(found.state)  # the daemon restores only from its own files
    return session


def _has_own_checkpoints(client: Client, session_id: str) -> bool:
    """Return whether a daemon answers and has checkpoints of the session that it wrote itself."""
    if not client.connected:
        return False
    with contextlib.suppress(DaemonUnavailable, NotFound):
        answer = client.ask(lambda n: messages.ListCheckpoints(n, session_id), _FILE_TIMEOUT_S)
        rows = answer.checkpoints if isinstance(answer, messages.Checkpoints) else []
        return any(row.kind not in NOT_OURS for row in rows)
    return False


def _is_unknown_file(found: offline.FoundState) -> bool:
    """Return whether the state comes only from a session file of another program, without a `session_id`."""
    foreign = found.header is not None and found.header.kind == Kind.FOREIGN and not found.from_outbox
    return foreign and found.state.get("session_id", b"null") == b"null"


class _Shared:
    """The sessions that managers of this process write to. Each is closed when its last manager leaves it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[str, tuple[Session, int]] = {}  # by the session's stream

    def find(self, session_id: str) -> Session | None:
        """Return the session of that id, if a manager uses it and it can still be written."""
        with self._lock:
            sessions = [session for session, _ in self._users.values()]
        return next((one for one in sessions if one.session_id == session_id and one.usable), None)

    def use(self, session: Session) -> None:
        """Count one more manager of the session."""
        with self._lock:
            _, users = self._users.get(session.stream, (session, 0))
            self._users[session.stream] = (session, users + 1)

    def leave(self, session: Session) -> None:
        """Count one manager less; close the session after the last."""
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
    """Return the client that all managers of this process share. A forked child makes its own."""
    global _client
    with _client_lock:
        if _client is None or not _client.usable:
            _client = connect()
        return _client
