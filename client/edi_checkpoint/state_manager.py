"""StateManager: the class of EDI's specification (seed, "See Docs"), on a `Session`.

It behaves as EDI documents and never prints: it logs. The state may also be changed in place in `state_data`; such
changes are found, and published, at the next `checkpoint` or `save_state`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path

from edi_checkpoint import offline, protocol, values
from edi_checkpoint.client import Client, connect
from edi_checkpoint.errors import DaemonUnavailable, FlushTimeout, NotFound
from edi_checkpoint.layout import NOT_OURS
from edi_checkpoint.names import check_session_id, new_session_id
from edi_checkpoint.paths import locate
from edi_checkpoint.protocol import JsonText
from edi_checkpoint.session import Session

log = logging.getLogger(__name__)

_FILE_TIMEOUT_S = 2.0
_client: Client | None = None
_client_lock = threading.Lock()


class StateManager:
    """EDI's state manager: `set_state`, `checkpoint`, `save_state`, `load_state`.

    A missing id becomes a new UUID. It starts empty: writing begins the session anew (what an earlier writer left stays
    in its checkpoints), `load_state` continues it. Raises `SessionIdError` for an id that may not be a file name.
    """

    def __init__(self, session_id: str | None = None) -> None:
        """Begin with an empty state; nothing is attached or written before the first call that needs it."""
        self.session_id = new_session_id() if session_id is None else check_session_id(session_id)
        self.state_data: dict[str, object] = {}
        self._session: Session | None = None

    @property
    def checkpoint_dir(self) -> Path:
        """The folder of the checkpoints; set EDI_CHECKPOINT_SESSIONS_DIR to move it."""
        return locate().sessions

    @property
    def session_file_path(self) -> Path:
        """The file `save_state` and the auto-save write."""
        return self.checkpoint_dir / f"{self.session_id}.json"

    def set_state(self, key: str | None = None, value: object = None, **fields: object) -> None:
        """Set one key (the seed's form), or several by keyword, where None leaves the key as it is.

        Raises `StateValueError` naming the path; the state is then unchanged.
        """
        changed = {name: field for name, field in fields.items() if field is not None}
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
            session.checkpoint(reason, timeout_s=self._patience_s())
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
        """Continue a session from where it was left, this one's or `session_id`; False when there is nothing."""
        wanted = self.session_id if session_id is None else check_session_id(session_id)
        if self._session is not None and wanted == self.session_id:
            self.state_data = dict(self._session)
            return bool(self.state_data)
        client = _process_client()
        if not _is_known(client, wanted):
            return False
        session = client.session(wanted)
        if not session or not client.connected:
            found = offline.load_state(locate(), wanted)
            if not session and not found.found:
                session.close()
                return False
            if found.header is not None and found.header.kind in NOT_OURS:
                session._begin_anew(found.state)  # the daemon takes in only what it wrote itself
        if self._session is not None:
            self._session.close()
        self.session_id = wanted
        self._session = session
        self.state_data = dict(session)
        return True

    def _attached(self) -> Session:
        """Return the session, attached; the first writer without `load_state` begins it anew."""
        if self._session is None:
            self._session = _process_client().session(self.session_id)
            if self._session:
                self._session._begin_anew({})
        return self._session

    def _published(self) -> Session:
        """Publish what was changed in place in `state_data`, at the cost of encoding it once; return the session."""
        session = self._attached()
        encoded: dict[str, JsonText] = {
            values.check_key(key): session._encode(key, value) for key, value in self.state_data.items()
        }
        changed = {key: text for key, text in encoded.items() if session._values.get(key) != text}
        removed = tuple(key for key in session if key not in encoded)
        if changed or removed:
            session._publish(changed, removed)
        return session

    def _patience_s(self) -> float:
        return _FILE_TIMEOUT_S if _process_client().connected else 0.0


def _is_known(client: Client, session_id: str) -> bool:
    """Return whether there is anything of a session. Asking leaves no trace, attaching would begin it."""
    if not client.connected:
        return offline.load_state(locate(), session_id).found
    with contextlib.suppress(DaemonUnavailable):
        try:
            client.ask(lambda n: protocol.ListCheckpoints(n, session_id))
        except NotFound:
            return False
    return True


def _process_client() -> Client:
    """Return the client all managers of this process share; a forked child makes its own."""
    global _client
    with _client_lock:
        if _client is None or not _client.usable:
            _client = connect()
        return _client
