"""`connect` and `Client`: a process's connection to the daemon, and the sessions that it writes."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from types import TracebackType

import msgspec

from edi_checkpoint import errors
from edi_checkpoint.disabled import NullAttachments, NullLink, is_disabled
from edi_checkpoint.documents import trash
from edi_checkpoint.documents.attachments import Attachments
from edi_checkpoint.documents.names import check_session_id, new_session_id
from edi_checkpoint.faults import ClientPoint, reached
from edi_checkpoint.home import offline
from edi_checkpoint.home.condition import CONDITIONS
from edi_checkpoint.link.autostart import is_listened_to, start_daemon
from edi_checkpoint.link.contracts import SessionAttachments, SessionLink
from edi_checkpoint.link.link import Link
from edi_checkpoint.link.stream import Stream
from edi_checkpoint.model import SessionInfo
from edi_checkpoint.outbox.segments import is_held
from edi_checkpoint.session.core import SessionCore
from edi_checkpoint.session.points import Point
from edi_checkpoint.session.publication import Publication
from edi_checkpoint.session.resume import report, resumed_from_files
from edi_checkpoint.session.session import Session, is_clean_exit
from edi_checkpoint.system import settings
from edi_checkpoint.system.paths import Paths, ensure_private, locate
from edi_checkpoint.system.version import installed_version
from edi_checkpoint.values.cache import Recent
from edi_checkpoint.values.normalise import Encoder
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.messages import Answer, Question, Resumed
from edi_checkpoint.wire.references import Reference

log = logging.getLogger(__name__)
logging.getLogger("edi_checkpoint").addHandler(logging.NullHandler())  # or Python prints warnings over EDI's screen

_REQUEST_TIMEOUT_S = 5.0
_CONNECT_RETRY_S = 0.25
_RESTART_RETRY_S = 2.0
_LIST_TIMEOUT_S = 2.0  # then the files answer


def connect(
    *, app: str = "edi", autostart: bool = True, timeout_s: float = 2.0, encoder: Encoder | None = None
) -> Client:
    """Return a `Client`, connected to this user's daemon if one answers.

    If no daemon answers and `autostart` allows it, the client starts one. Without a daemon everything that is published
    goes to the outbox, a file per session; the next daemon takes it from there. With EDI_CHECKPOINT_DISABLE=1 all calls
    work in memory only: nothing is saved.

    Args:
        app: the app's name, shown to a person who asks which process writes to a session.
        autostart: whether to start a daemon; EDI_CHECKPOINT_AUTOSTART=0 forbids it too.
        timeout_s: how long to wait for a daemon, in seconds, here and when a session is opened.
        encoder: a function that converts a value of an unknown type to one of a type that can be stored, or raises
            TypeError. `docs/format.md`, Values, lists the types that can be stored.
    Waits: for a daemon, at most `timeout_s`, and 1.5 s more if systemd starts it.
    Raises:
        FolderError: a folder cannot be used: it has another owner, or the disk refuses it.
        ConfigError: an EDI_CHECKPOINT_ variable holds a relative path, or no home folder is known. A setting that
            cannot be used is logged and skipped.
    Source: ZeroMQ's zmq_ipc(7): the socket is a Unix domain socket, so no other machine can connect.
    Example:
        with connect(app="my-editor") as client:
            print(client.connected)  # True
    """
    return Client(app=app, autostart=autostart, timeout_s=timeout_s, encoder=encoder)


class Client:
    """One connection to the daemon, and the sessions that this process writes. `connect` makes it.

    Several threads may use it. A child process made by `os.fork` has to call `connect` itself. Close it, or use `with`.
    After an exception other than a successful `sys.exit()` the `with` block leaves its sessions as interrupted.

    At interpreter exit a client that was not closed closes its sessions. After an unhandled exception they count as
    interrupted.

    Attributes:
        disabled: bool, whether EDI_CHECKPOINT_DISABLE=1 keeps this client in memory.
    Waits: leaving the `with` block waits as `close` does, at most 2 s.
    Raises:
        SessionClosed: a method was called after `close`.
        SessionForked: a method was called in a forked child.
    Source: Python's `atexit`; POSIX `fork()`.
    Example:
        with connect() as client, client.session() as session:
            session["progress"] = 40
        print(session.closed)  # True
    """

    def __init__(
        self, *, app: str = "edi", autostart: bool = True, timeout_s: float = 2.0, encoder: Encoder | None = None
    ) -> None:
        """See `connect`. Raises `FolderError` or `ConfigError` when the folders or settings cannot be used."""
        self.disabled = is_disabled()
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._closed = False
        self._sessions: list[Session] = []
        self._lock = threading.Lock()  # held while the list is replaced
        self._autostart = autostart
        self._restart_at_s = 0.0
        self._encoder = encoder
        self._recent = Recent()
        self._limits = settings.Limits()
        if self.disabled:
            self._link: SessionLink = NullLink()
            return
        paths = locate()
        self._limits, warnings = settings.limits(paths.config, os.environ)
        for warning in warnings:
            log.warning(warning)
        ensure_private(paths.state)
        self._link = Link(
            paths, app=app, version=installed_version(), outbox_max_bytes=self._limits.outbox_max_bytes,
            absent=self._restart_daemon,
        )  # fmt: skip
        atexit.register(self._at_exit)
        self._find_daemon()

    @property
    def paths(self) -> Paths:
        """The folders of this user. Raises `UsageError` for a disabled client, which uses none.

        Internal: for this package, which reads files where no daemon answers.
        """
        if self._link.paths is None:
            raise errors.UsageError("this client is disabled: it has no folders")
        return self._link.paths

    def _find_daemon(self) -> None:
        """Connect to the running daemon, or to one that is started now. Wait at most the client's timeout.

        It retries until then, because a running daemon may be about to exit. If no daemon can start, it does not wait.
        """
        deadline_s = time.monotonic() + self._timeout_s
        while not self._link.connected:
            left_s = max(0.0, deadline_s - time.monotonic())
            if not self._expects_daemon(left_s) or not left_s:
                return
            self._link.wait_connected(min(left_s, _CONNECT_RETRY_S))

    def _expects_daemon(self, timeout_s: float) -> bool:
        """Return whether a daemon runs or starts; start one if needed and allowed."""
        if is_held(self.paths.lock) or is_listened_to(self.paths):
            return True
        return self._autostart and start_daemon(self.paths, timeout_s)

    def _restart_daemon(self) -> None:
        """Restart a daemon that died while sessions are open. The link calls this, so it does not wait.

        A daemon that died leaves its socket. One that was stopped removed it; its user does not want it restarted.
        """
        now_s = time.monotonic()
        if not self._autostart or now_s < self._restart_at_s or all(session.closed for session in self._sessions):
            return
        if self.paths.socket.exists() and not is_held(self.paths.lock):
            self._restart_at_s = now_s + _RESTART_RETRY_S
            with contextlib.suppress(RuntimeError):  # the interpreter exits
                threading.Thread(target=start_daemon, args=(self.paths, _REQUEST_TIMEOUT_S), daemon=True).start()

    def session(
        self, session_id: str | None = None, *,
        parent: str | None = None, takeover: bool = False, encoder: Encoder | None = None,
    ) -> Session:  # fmt: skip
        """Open a session for writing and return it with its newest state.

        Without an id, or with an unknown one, the session is new. A session has one writer at a time. If the session
        exists, its mapping holds the state as it was published last. Without a daemon that is the newest valid file
        with all outboxes applied to it.

        Args:
            session_id: 1 to 128 of `A-Z a-z 0-9 . _ -`, or None for a new UUID. It may not begin with a dot or end like
                the name of a checkpoint.
            parent: the id of the session that this one comes from; lists show it.
            takeover: take the session from a writer that is still attached. Its next call raises `Fenced`; what it
                published after the takeover is kept in a session of its own, the branch that `Fenced.branch` names.
            encoder: used in this session in the place of the client's (see `connect`).
        Waits: for a daemon, at most the client's `timeout_s`, then for its answer, at most 5 s.
        Raises:
            SessionIdError: the id, or that of `parent`, cannot become a file name.
            SessionBusy: another writer is attached and `takeover` is False; `.pid` is its process.
            OutboxFull: the disk has no room for the outbox's files.
            an error of the daemon: the daemon refused the session.
            SessionClosed, SessionForked: see `Client`.
        Source: flock(2): the kernel releases a writer's lock when its process dies.
        Example:
            with client.session("session_12345") as roof:
                roof["current_stage"] = "analysis"
            with client.session("session_12345") as roof:
                print(roof["current_stage"])  # analysis
        """
        self.check_usable()
        session_id = new_session_id() if session_id is None else check_session_id(session_id)
        parent = None if parent is None else check_session_id(parent)
        return self.attach(session_id, parent, takeover=takeover, encoder=encoder)

    def attach(
        self, session_id: str, parent: str | None = None, *,
        seen: bool = True, takeover: bool = False, encoder: Encoder | None = None,
    ) -> Session:  # fmt: skip
        """Open a session as `session` does, for an id that was checked already.

        Internal: for `StateManager` and the commands. `seen` is False if the caller shows the state to nobody: then an
        interrupted session stays interrupted in the lists.
        """
        stream = self._link.open(session_id, parent, seen=seen, takeover=takeover)
        try:
            attached = self._attach_stream(stream)
        except (errors.EdiCheckpointError, OSError):
            self._link.detach(stream, unused=True)
            raise
        if attached is not None and attached.state is not None:
            state, sequence, resumed = attached.state, attached.sequence, attached.resumed or Resumed("", 0, 1, 0)
        else:
            log.warning("session %s: no daemon answers; changes are saved in the outbox until one starts", session_id)
            found = offline.load_state(self.paths, session_id)
            state, sequence, resumed = found.state, found.sequence, resumed_from_files(found)
        attachments = self._attachments(session_id)
        publication = Publication(stream, state, attachments, self._link.wake)
        self._link.serve(stream, publication.base)
        core = SessionCore(self._link, stream, publication, attachments, self._limits, encoder or self._encoder)
        session = Session(core, report(session_id, state, sequence, resumed, datetime.now(UTC)), self.fork)
        if stream.outbox.fenced:
            reached(ClientPoint.TAKEN_OVER)
            publication.base()  # this state counts, whichever of the other writer's last entries it contains
            self._link.wake()
        with self._lock:
            self._sessions = [*(other for other in self._sessions if not other.closed), session]
        return session

    def _attachments(self, session_id: str) -> SessionAttachments:
        if self.disabled:
            return NullAttachments()
        return Attachments(self.paths, session_id, self._recent, partial(self._attachment, session_id))

    def _attachment(self, session_id: str, reference: Reference) -> bytes | None:
        """Return an attachment's bytes from the daemon; None if no daemon answers or it does not have them."""
        if self._link.connected:
            with contextlib.suppress(errors.EdiCheckpointError):
                answer = self.ask(lambda n: messages.GetAttachment(n, session_id, reference.sha256, reference.type))
                return answer.data if isinstance(answer, messages.AttachmentFound) else None
        return None

    def _attach_stream(self, stream: Stream) -> messages.Attached | None:
        """Attach `stream`; return the daemon's answer, or None without a daemon. Retry if the daemon exits."""
        deadline_s = time.monotonic() + _REQUEST_TIMEOUT_S
        while True:
            self._find_daemon()
            timeout_s = max(0.0, deadline_s - time.monotonic()) if self._link.connected else 0.0
            attached = self._link.attach(stream, timeout_s=timeout_s)
            if attached is not None or not timeout_s:
                return attached

    def fork(self, parent: str, point: Point, session_id: str | None = None) -> str:
        """Make a session with the state of `point` of the session `parent`, and return its id.

        Internal: apps call `Session.fork`.
        """
        session_id = new_session_id() if session_id is None else check_session_id(session_id)
        if self._exists(session_id):
            raise errors.SessionIdError(f"session {session_id} exists already", hint="choose another id, or omit it")
        with self.attach(session_id, parent, seen=False) as fork:
            fork.core.publication.replace(point.state)
            with contextlib.suppress(errors.FlushTimeout):  # the request is in the outbox
                fork.checkpoint(f"forked from {parent}, {point.name}")
        return session_id

    def _exists(self, session_id: str) -> bool:
        """Return whether a session exists, in the trash too. A question makes no files; attaching would."""
        if self.disabled:
            return False
        try:
            self.ask(lambda n: messages.ListCheckpoints(n, session_id))
        except errors.NotFound:
            return trash.holds(self.paths.trash, session_id)
        except errors.DaemonUnavailable:
            return offline.load_state(self.paths, session_id).found
        return True

    def sessions(self, *, condition: str | None = None, limit: int = 100) -> list[SessionInfo]:
        """Return the newest sessions, newest first.

        The daemon answers, or the files if no daemon does. The files alone give for each session its newest document
        and its outboxes.

        Args:
            condition: return only sessions of this condition: `live`, `interrupted`, `unfinished` or `ended` (see
                `SessionInfo`). None returns all.
            limit: the largest number of sessions to return, at least 1.
        Waits: for the daemon, at most 2 s. Without one it reads the heads of the files.
        Raises:
            UsageError: no such condition, or `limit` is below 1.
            SessionClosed, SessionForked: see `Client`.
        Example:
            rows = {row.session_id: row for row in client.sessions()}
            print(rows[session.session_id].condition)  # live
        """
        self.check_usable()
        if limit < 1 or condition not in (None, *CONDITIONS):
            known = ", ".join(CONDITIONS)
            raise errors.UsageError(f"sessions({condition=}, {limit=}): give one of {known}, and at least 1")
        limit = min(limit, messages.SESSIONS_MAX)
        if self._link.connected:
            with contextlib.suppress(errors.DaemonUnavailable):
                answer = self.ask(lambda n: messages.ListSessions(n, condition, limit), _LIST_TIMEOUT_S)
                if isinstance(answer, messages.Sessions):
                    return answer.sessions
        return offline.sessions(self.paths, condition)[:limit]

    def interrupted(self) -> list[SessionInfo]:
        """Return the sessions whose writer died or left with an exception, newest first.

        It is `sessions(condition="interrupted")`.

        Waits: for the daemon, at most 2 s. Without one it reads the heads of the files.
        Raises:
            SessionClosed, SessionForked: see `Client`.
        Source: the seed, "Related User Story": "I want EDI to remember my progress so I can resume if interrupted."
        Example:
            session.leave(cleanly=False)  # as if this process had died
            found = [row.session_id for row in client.interrupted()]
            print(session.session_id in found)  # True
        """
        return self.sessions(condition="interrupted")

    def status(self) -> dict[str, object]:
        """Return whether all work is safe, and what is wrong: the document of `edi-checkpoint status --json`.

        `safe` is a bool, `last_durable` a time in ISO 8601 or None, `unacknowledged` a number of entries. `degraded`
        lists the problems, each with `code`, `message` and `hint`. `sessions` counts the sessions of each condition.
        Other keys tell of the daemon, the journal and sizes on disk.

        The daemon answers, or the files if no daemon does. The files do not include the journal, so entries that only
        the journal holds count as not acknowledged.

        Waits: for the daemon, at most 2 s.
        Raises:
            SessionClosed, SessionForked: see `Client`.
        Example:
            status = client.status()
            print(status["safe"], status["daemon"]["running"])  # True True
        """
        self.check_usable()
        body: object = None
        if self._link.connected:
            with contextlib.suppress(errors.DaemonUnavailable):
                answer = self.ask(messages.GetStatus, _LIST_TIMEOUT_S)
                if isinstance(answer, messages.StatusReply):
                    body = msgspec.json.decode(answer.body)
        if body is None:
            own = {session.stream: session.durable.journaled for session in self._sessions}
            body = msgspec.to_builtins(offline.status(self.paths, own))
        return {"format": 1, **msgspec.convert(body, dict[str, object])}

    def ask(self, question: Callable[[int], Question], timeout_s: float = _REQUEST_TIMEOUT_S) -> Answer:
        """Send one question of the protocol to the daemon and return its answer.

        `edi_checkpoint.protocol` has the questions and answers, `docs/protocol.md` describes them.

        Args:
            question: a function that gets the number of the request and returns the question.
            timeout_s: how long to wait for the answer, in seconds.
        Returns: a message of `edi_checkpoint.protocol`; which one depends on the question.
        Waits: at most `timeout_s`; without a daemon at most 0.5 s.
        Raises:
            DaemonUnavailable: no daemon is connected, or no answer came in time.
            UsageError: a field of the question is out of range.
            NotFound: the daemon knows no such session, checkpoint or sequence. Other errors of the daemon come as they
                are.
            SessionClosed, SessionForked: see `Client`.
        Example:
            from edi_checkpoint.protocol import GetHistory

            session["progress"] = 40
            session.flush()
            answer = client.ask(lambda number: GetHistory(number, session.session_id))
            print(answer.entries[-1].keys)  # ('progress',)
        """
        self.check_usable()
        return self._link.ask(question, timeout_s)

    @property
    def connected(self) -> bool:
        """Whether a daemon is connected now. It changes when a daemon starts or ends.

        Example:
            print(client.connected)  # True
        """
        return self._link.connected

    @property
    def usable(self) -> bool:
        """Whether this client is open and belongs to this process, no forked child.

        Example:
            client.close()
            print(client.usable)  # False
        """
        return not self._closed and os.getpid() == self._pid

    def close(self, timeout_s: float = 2.0) -> None:
        """Close all sessions of this client cleanly, then the connection. A second call does nothing.

        Entries that the daemon has not acknowledged by then stay in the outbox; the daemon takes them from there.

        Args:
            timeout_s: how long to wait for acknowledgements of all sessions together, in seconds.
        Waits: at most `timeout_s`.
        Example:
            session["progress"] = 100
            client.close(timeout_s=5.0)
            print(session.closed)  # True
        """
        self._leave(cleanly=True, timeout_s=timeout_s)

    def _leave(self, *, cleanly: bool, timeout_s: float) -> None:
        if not self.usable:
            return
        self._closed = True
        atexit.unregister(self._at_exit)
        deadline_s = time.monotonic() + timeout_s
        for session in self._sessions:
            session.leave(cleanly=cleanly, timeout_s=max(0.0, deadline_s - time.monotonic()))
        self._link.close()

    def _at_exit(self) -> None:
        """Close the client at interpreter exit. After an unhandled exception its sessions count as interrupted."""
        unhandled = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)  # the first since Python 3.12
        interactive = hasattr(sys, "ps1")  # there it is only the last error at the prompt
        with contextlib.suppress(errors.EdiCheckpointError, OSError):
            self._leave(cleanly=unhandled is None or interactive, timeout_s=2.0)

    def check_usable(self) -> None:
        """Raise `SessionForked` in another process than the one that made the client, `SessionClosed` once closed.

        Internal: for `aio`.
        """
        if os.getpid() != self._pid:
            raise errors.SessionForked(f"this client was made in process {self._pid}")
        if self._closed:
            raise errors.SessionClosed("this client is closed")

    def __enter__(self) -> Client:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client; after an exception, a failing `sys.exit()` too, its sessions count as interrupted."""
        self._leave(cleanly=is_clean_exit(error), timeout_s=2.0)
