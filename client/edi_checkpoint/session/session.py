"""Session: the state of one editing session as a mutable mapping that publishes every change.

The mapping holds the JSON text of each value. So reading a key gives the same value before and after a restore, and
always a copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, MutableMapping
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Literal

from msgspec import structs

from edi_checkpoint.documents.named_files import compare, look_in_time
from edi_checkpoint.errors import DaemonUnavailable, FlushTimeout
from edi_checkpoint.faults import ClientPoint, reached
from edi_checkpoint.home import offline
from edi_checkpoint.link.stream import wait
from edi_checkpoint.model import CheckpointInfo, Durable, ResumeReport
from edi_checkpoint.session import points
from edi_checkpoint.session.core import SessionCore
from edi_checkpoint.session.points import Point
from edi_checkpoint.session.publication import text
from edi_checkpoint.values import codec
from edi_checkpoint.wire import messages
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.references import Attachment

_ENDED = ("completed", "failed")  # the values of EDI's `status` that end a session
_REQUEST_TIMEOUT_S = 5.0
_CHECK_FILES_S = 0.25  # a mount may have lost its server


class Session(MutableMapping[str, object]):
    """The state of one editing session: a mapping that publishes every change. `Client.session` makes it.

    Each assignment, deletion, `update` and `transition` is one entry. An entry is stored whole or not at all. When the
    call returns, the entry is in the outbox file and survives the death of this process. The daemon then saves it
    to its journal; `durable` tells how far it is.

    `get`, `setdefault`, `popitem`, `keys`, `values`, `items` and `in` work as in any `MutableMapping`. Those that use
    a value read it as `session[key]` does; `setdefault` returns the object that it was given, no copy. Several
    threads may use a session. Close it, or use `with`; after an exception other than a successful `sys.exit()` the
    `with` block leaves it as interrupted.

    Attributes:
        session_id: str, the session's id.
        parent_session: str or None, the id of the session that it comes from.
    Waits: no publishing call waits for the daemon. Each costs one write to a file, without fsync.
    Raises:
        StateValueError: a value cannot be stored. The state is unchanged, as after every error of this list.
        AttachmentsFull: the arrays and bytes of all sessions would exceed the setting `attachments_max_bytes`.
        OutboxFull: the disk refuses the outbox, and 4 MiB wait in memory already.
        Fenced: another writer took the session over.
        SessionPurged: the session was purged, or its outbox was deleted.
        SessionForked: the session was opened by the parent of this process.
        SessionClosed: the session was closed.
        an error of the daemon: the daemon refused an earlier entry; this is raised once, by the next publishing call.
    Source: POSIX `write()`: written data is in the kernel's cache, which outlives the process but not a power cut.
    Example:
        with client.session() as roof:
            roof["scene"] = {"entities": []}
            roof["progress"] = 40
            print(dict(roof))  # {'scene': {'entities': []}, 'progress': 40}
    """

    def __init__(self, core: SessionCore, resumed: ResumeReport, fork: Callable[[str, Point, str | None], str]) -> None:
        """Wrap `core`; `resumed` is the report without files.

        Internal: `Client.session` makes sessions. `fork` makes another session, as `Client.fork`.
        """
        self.session_id = core.stream.session_id
        self.parent_session = core.stream.parent_session
        self.core = core  # for this package, see `SessionCore`
        self._link = core.link
        self._stream = core.stream
        self._published = core.publication
        self._resumed = resumed
        self._files_checked = not resumed.resumed
        self._fork = fork

    # -- the mapping -------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> object:
        """Return a copy of the value of `key`, in the form that a restore gives.

        A change of the copy changes nothing in the session: use `edit`, or assign the value again. Arrays and bytes are
        read from their files now.

        Waits: for files of arrays and bytes. If a file is missing, for the daemon, at most 5 s.
        Raises:
            KeyError: there is no such key.
            AttachmentMissing, AttachmentDamaged: the file of an array or of bytes is missing or damaged. The message
                names the path in the state.
            ArraysMissing: the value has an array, and numpy is not installed.
        Example:
            session["bbox"] = (1, 2, 30, 40)
            print(session["bbox"])  # [1, 2, 30, 40]
        """
        return self.core.decode(key, self._published.texts[key])

    def __setitem__(self, key: str, value: object) -> None:
        """Publish `key` with `value`, as one entry.

        Args:
            key: 1 to 1024 bytes of UTF-8. `_edi_checkpoint` and `$attachment` are reserved; `session_id` takes the
                session's own id only.
            value: of the types of the table below. Its JSON text has at most 64 MiB - 1 KiB.
        Raises: the publishing errors, see `Session`. A `StateValueError` begins with the path of the part that cannot
            be stored.
        Source: RFC 8259, JSON: it has no NaN, and its keys are strings.
        Example:
            session["validation"] = {"score": 0.87}
            print(session["validation"]["score"])  # 0.87
        """
        if key not in self._published.texts:
            key = codec.check_key(key)
        carried: dict[str, Attachment] = {}
        self._published.update({key: self.core.encode(key, value, carried)}, carried)

    def __delitem__(self, key: str) -> None:
        """Delete `key`, as one entry.

        Raises:
            KeyError: there is no such key.
            the publishing errors: see `Session`.
        Example:
            del session["prompts"]
            print("prompts" in session)  # False
        """
        if key not in self._published.texts:
            raise KeyError(key)
        self._published.update({}, {}, removed=(codec.check_key(key),))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys as they are now. A later change does not disturb the iteration.

        Example:
            print(list(session))  # ['image_path', 'prompts', 'progress']
        """
        return iter(list(self._published.texts))

    def __len__(self) -> int:
        """Return the number of keys.

        Example:
            print(len(session))  # 3
        """
        return len(self._published.texts)

    def __repr__(self) -> str:
        """Return the id, the number of keys and what is durable. It shows no values, which may be private."""
        return f"<Session {self.session_id} keys={len(self._published.texts)} {self.durable}>"

    def texts(self) -> dict[str, JsonText]:
        """Return the whole state as it is published: for each key the compact JSON text of its value, as bytes.

        An array or bytes appear as a reference, see `docs/format.md`. It decodes nothing and reads no files.

        Example:
            print(session.texts()["prompts"])  # b'["a green roof"]'
        """
        with self._stream.outbox.lock:
            return dict(self._published.texts)

    def update(self, *args: Any, **fields: object) -> None:
        """Set several keys as one entry: all of them are stored, or none.

        Args:
            args, fields: the arguments of `dict.update`. Without any key nothing is published.
        Raises: the publishing errors, see `Session`.
        Example:
            session.update({"progress": 60}, prompt="a green tin roof")
            print(session["progress"], session["prompt"])  # 60 a green tin roof
        """
        items: dict[str, object] = dict(*args, **fields)
        if items:
            self._published.update(*self.core.encode_all(items))

    def pop(self, key: str, *default: object) -> object:
        """Delete `key` as one entry and return its value; without the key return `default`.

        Waits: as `session[key]`, which reads the value.
        Raises:
            KeyError: there is no such key and no `default`.
            what reading raises: see `session[key]`.
            the publishing errors: see `Session`.
        Example:
            print(session.pop("progress"), session.pop("progress", None))  # 0 None
        """
        if key not in self._published.texts:
            if default:
                return default[0]
            raise KeyError(key)
        value = self[key]
        del self[key]
        return value

    def clear(self) -> None:
        """Delete all keys, as one entry.

        Raises: the publishing errors, see `Session`.
        Example:
            session.clear()
            print(len(session))  # 0
        """
        if self._published.texts:
            self._published.update({}, {}, removed=tuple(self._published.texts))

    def transition(self, stage: str, *, reason: str | None = None, **fields: object) -> None:
        """Set `current_stage` and other keys as one entry. The daemon makes a checkpoint of it soon after.

        The daemon waits until no further transition comes for 0.25 s, at most 2 s (settings `transition_quiet_s` and
        `transition_max_s`).

        Args:
            stage: the new value of `current_stage`.
            reason: the reason that the checkpoint shows, at most 1024 characters.
            fields: other keys to set.
        Raises: the publishing errors, see `Session`.
        Source: the seed, "Checkpoint Strategy": "Creates checkpoints at significant workflow transitions".
        Example:
            session.transition("refinement", reason="user accepted the mask", progress=40)
            print(session["current_stage"], session["progress"])  # refinement 40
        """
        self._published.update(*self.core.encode_all({**fields, "current_stage": stage}), reason=text(reason))

    @contextlib.contextmanager
    def edit(self, key: str) -> Iterator[object]:
        """Give a copy of the value of `key` to change in a `with` block, and publish it when the block ends.

        After an exception, and if nothing changed, nothing is published. What another thread publishes under the key
        meanwhile is overwritten.

        Waits: as `session[key]`, which reads the value.
        Raises:
            KeyError: there is no such key.
            what reading raises: see `session[key]`.
            the publishing errors: see `Session`, at the end of the block.
        Example:
            with session.edit("prompts") as prompts:
                prompts.append("a green tin roof")
            print(session["prompts"])  # ['a green roof', 'a green tin roof']
        """
        value = self[key]
        yield value
        carried: dict[str, Attachment] = {}
        encoded = self.core.encode(key, value, carried)
        if encoded != self._published.texts.get(key):
            self._published.update({key: encoded}, carried)

    # -- checkpoints and durability ----------------------------------------------------------------------------------

    @property
    def durable(self) -> Durable:
        """How far the entries of this writer are, as a `Durable` of four entry numbers.

        Example:
            session["progress"] = 40
            session.flush()
            print(session.durable.journaled == session.durable.published)  # True
        """
        return self._stream.durable()

    def checkpoint(
        self, reason: str = "manual", *, label: str | None = None, pin: bool = False, timeout_s: float = 2.0
    ) -> CheckpointInfo:
        """Make a checkpoint of the state as it is now, wait for its file, and return its row.

        Args:
            reason: why, for people; at most 1024 characters.
            label: a name by which commands find it, at most 1024 characters.
            pin: keep it until it is unpinned. Once 50 checkpoints of the session are pinned, it is made without the
                pin; the row's `pinned` says so.
            timeout_s: how long to wait, in seconds.
        Waits: for the daemon to write the file and fsync it, at most `timeout_s`.
        Raises:
            FlushTimeout: no daemon confirmed it in time. The request is in the outbox, fsynced, and the file follows.
            CheckpointFailed: the daemon could not write the file. The entries themselves are in the journal.
            the publishing errors: see `Session`.
        Source: the seed, "Step-by-step Logic": `~/.edi/sessions/<session_id>_checkpoint_<timestamp>.json`, written
            atomically. POSIX `rename()` and `fsync()`.
        Example:
            info = session.checkpoint("analysis_done", label="good so far")
            print(info.kind, info.reason, info.label)  # manual analysis_done good so far
        """
        return self.core.checkpoint(reason, label, pin=pin, timeout_s=timeout_s)

    def flush(self, level: Literal["journaled", "checkpointed"] = "journaled", *, timeout_s: float = 2.0) -> None:
        """Wait until everything published so far is safe.

        Args:
            level: `journaled` waits until the daemon has fsynced the entries into its journal. `checkpointed` waits
                until they are also in the session's file, the auto-save.
            timeout_s: how long to wait, in seconds.
        Waits: at most `timeout_s`.
        Raises:
            FlushTimeout: not safe in time. Nothing is lost: the entries are in the outbox.
            UsageError: no such level.
            the publishing errors: see `Session`.
        Source: SQLite's `PRAGMA synchronous=FULL` in WAL mode: a commit is fsynced before it is acknowledged.
        Example:
            session["progress"] = 40
            session.flush("checkpointed")
            print(session.durable.checkpointed == session.durable.published)  # True
        """
        asked = self.core.ask_flush(level)
        wait(asked, timeout_s)
        self.core.finish_flush(asked, level, timeout_s)

    def checkpoints(self) -> list[CheckpointInfo]:
        """Return the session's checkpoints, oldest first.

        The daemon answers, or the files if no daemon does.

        Waits: for the daemon, at most 5 s; without one at most 0.5 s, then it reads the heads of the files.
        Raises:
            SessionClosed: the client was closed.
        Example:
            session.checkpoint("analysis_done")
            print([info.reason for info in session.checkpoints()])  # ['analysis_done']
        """
        try:
            answer = self._link.ask(lambda n: messages.ListCheckpoints(n, self.session_id), _REQUEST_TIMEOUT_S)
        except DaemonUnavailable:
            paths = self._link.paths
            return [] if paths is None else offline.checkpoints(paths, self.session_id)
        return answer.checkpoints if isinstance(answer, messages.Checkpoints) else []

    # -- going back --------------------------------------------------------------------------------------------------

    def at(self, *, sequence: int | None = None, time: datetime | None = None) -> dict[str, object]:
        """Return the state as it was after the entry `sequence`, or at `time`. The session itself stays as it is.

        Exactly one of the two is given. The journal keeps single entries for 24 hours (setting `history_hours`). The
        result is a dict of its own; arrays and bytes are read when their keys are accessed.

        Args:
            sequence: the number of an entry of the session, from 1; `edi-checkpoint history` lists them.
            time: a datetime; without a time zone it is local time.
        Waits: for the daemon, at most 5 s to save what is published and 5 s to answer.
        Raises:
            NotFound: the journal does not go back that far, or there is no such sequence.
            DaemonUnavailable: no daemon answers.
            UsageError: both arguments, none, or one of another type.
            the publishing errors: see `Session`, but `StateValueError`.
        Example:
            session["progress"] = 40
            print(session.at(sequence=1)["progress"], session["progress"])  # 0 40
        """
        return self.core.restored(self._point(None, sequence, time).state)

    def rollback(
        self, to: CheckpointInfo | str | None = None, *,
        sequence: int | None = None, time: datetime | None = None, keys: Collection[str] | None = None,
    ) -> CheckpointInfo:  # fmt: skip
        """Go back to a checkpoint, an entry or a time, and return the row of the checkpoint of kind `rollback` that
        this makes.

        Without an argument it goes back to the newest checkpoint that is intact, differs from the present state, and
        has no `status` of `failed`. The mapping holds the old state when the call returns, and after `FlushTimeout` and
        `CheckpointFailed` too.

        The present state is saved first, as a checkpoint of kind `before_rollback` and as an entry of the history. So
        you can undo a rollback with another one.

        Args:
            to: a checkpoint, as its row or its file name.
            sequence: the number of an entry, from 1.
            time: a datetime; without a time zone it is local time.
            keys: go back with these keys only.
        Waits: for the daemon, at most 5 s for each step: to save what is published, to read the old state, to write the
            files.
        Raises:
            NotFound: no such checkpoint, sequence, time or key, or nothing to go back to.
            DocumentDamaged: the file of the checkpoint is damaged.
            DaemonUnavailable: a sequence or a time needs the daemon, and none answers.
            FlushTimeout: no daemon has answered yet. The files follow.
            CheckpointFailed: the files could not be written.
            UsageError: more than one of `to`, `sequence` and `time`, or one of another type.
            the publishing errors: see `Session`.
        Source: the seed, "Checkpoint Strategy": "Provides ability to roll back to previous states if needed".
        Example:
            good = session.checkpoint("before the experiment")
            session["progress"] = 90
            session.rollback(good)
            print(session["progress"])  # 0
        """
        if to is None and sequence is None and time is None:
            read = partial(points.find, self._link, self.session_id)
            point = points.last_good(self.session_id, self.checkpoints(), read, self.texts())
        else:
            point = self._point(to, sequence, time)
        return self._answer(self._published.rollback(point, keys))

    def _point(self, to: CheckpointInfo | str | None, sequence: int | None, time: datetime | None) -> Point:
        self._published.check()
        if to is None and self._link.connected:  # an entry or a time may lie after the last acknowledgement
            with contextlib.suppress(FlushTimeout):
                self.flush(timeout_s=_REQUEST_TIMEOUT_S)
        return points.find(self._link, self.session_id, to, sequence, time)

    def fork(
        self, to: CheckpointInfo | str | None = None, *, sequence: int | None = None, session_id: str | None = None
    ) -> str:
        """Make a new session with the state of now, of a checkpoint or of an entry, and return its id.

        The new session is not open: `Client.session` opens it. This session is its `parent_session`.

        Args:
            to: a checkpoint, as its row or its file name.
            sequence: the number of an entry, from 1.
            session_id: the id of the new session; None makes a UUID.
        Waits: for the daemon, at most 5 s for each step: to find the state, to look for the id, to open the session.
            Its first checkpoint takes at most 2 s more.
        Raises:
            NotFound: no such checkpoint or sequence.
            SessionIdError: the id cannot become a file name, or it is taken.
            DocumentDamaged: the file of the checkpoint is damaged.
            DaemonUnavailable: a sequence needs the daemon, and none answers.
            CheckpointFailed: the first checkpoint could not be written.
            UsageError: both `to` and `sequence`, or one of another type.
            SessionBusy: another process has opened a session of this id at the same moment.
            the publishing errors: see `Session`.
        Source: the seed, "Checkpoint State Object": "Reference to parent session".
        Example:
            variant = session.fork()
            with client.session(variant) as copy:
                print(copy["prompts"], copy.parent_session == session.session_id)  # ['a green roof'] True
        """
        self._published.check()
        of_now = to is None and sequence is None
        point = Point(self.texts(), 0, "now") if of_now else self._point(to, sequence, None)
        return self._fork(self.session_id, point, session_id)

    def amend(
        self, name: str, *, pinned: bool | None = None, label: str | None = None, note: str | None = None
    ) -> CheckpointInfo:
        """Pin a checkpoint, or change its label or note, and return its new row.

        None leaves a value as it is; an empty text removes the label or note.

        Args:
            name: the checkpoint's file name.
            pinned: whether to keep it until it is unpinned; at most 50 checkpoints of a session are pinned.
            label: a name by which commands find it, at most 1024 characters.
            note: a text for people, at most 1024 characters.
        Waits: for the daemon to write the file again, at most 5 s.
        Raises:
            CheckpointFailed: there is no such checkpoint, too many are pinned, or the file could not be written.
            FlushTimeout: no daemon has answered yet. The change is in the outbox and follows.
            the publishing errors: see `Session`.
        Example:
            made = session.checkpoint("analysis_done")
            print(session.amend(made.name, label="best", pinned=True).label)  # best
        """
        return self._answer(self._published.pin(name, pinned, label, note))

    def _answer(self, asked: Future[CheckpointInfo]) -> CheckpointInfo:
        """Return the checkpoint's row; without a connected daemon raise `FlushTimeout` at once."""
        return self.core.wait_checkpoint(asked, _REQUEST_TIMEOUT_S if self._link.connected else 0.0)

    def resume_report(self) -> ResumeReport:
        """Return what happened to the session before it was opened here: how it was left, and whether anything is
        missing.

        `print` shows the report in sentences. The first call checks the files that the state names (`image_path`,
        `edited_image_path`, `mask_path`).

        Waits: the first call checks these files, at most 0.25 s; a file it cannot check in time is `Verdict.UNKNOWN`.
        Example:
            session.close()
            with client.session(session.session_id) as again:
                print(again.resume_report().left_as)  # clean
        """
        paths = self._link.paths
        if not self._files_checked and paths is not None:
            self._files_checked = True
            recorded = offline.recorded_files(paths, self._resumed.checkpoint)
            files = compare(recorded, look_in_time(recorded, _CHECK_FILES_S))
            self._resumed = structs.replace(self._resumed, files=tuple(files))
        return self._resumed

    @property
    def resumed(self) -> ResumeReport:
        """The report of `resume_report` without the check of files.

        Example:
            print(session.resumed.resumed)  # False
        """
        return self._resumed

    @property
    def closed(self) -> bool:
        """Whether the session was closed.

        Example:
            session.close()
            print(session.closed)  # True
        """
        return self._published.closed

    @property
    def stream(self) -> str:
        """The id of this writer's stream of entries: 32 hexadecimal digits, new each time a session is opened.

        Example:
            print(len(session.stream))  # 32
        """
        return self._stream.id

    @property
    def usable(self) -> bool:
        """Whether the session can be written: it is open, belongs to this process, and no other writer took it over.

        Example:
            session.close()
            print(session.usable)  # False
        """
        return self._published.usable

    # -- leaving -----------------------------------------------------------------------------------------------------

    def end(self, status: str | None = None) -> None:
        """Set `status` and close: the work is finished.

        Args:
            status: the new `status`. None leaves `completed` and `failed` as they are and sets `completed` otherwise.
                With any other word the session counts as unfinished.
        Waits: as `close`, at most 2 s.
        Raises: the publishing errors, see `Session`.
        Example:
            session.end()
            rows = {row.session_id: row for row in client.sessions()}
            print(rows[session.session_id].condition)  # ended
        """
        if status is None:
            status = "completed" if self.get("status") not in _ENDED else None
        if status is not None:
            self["status"] = status
        self.close()

    def close(self, timeout_s: float = 2.0) -> None:
        """Close the session cleanly, so that another writer can open it. A second call does nothing.

        Entries that the daemon has not acknowledged by then stay in the outbox; the daemon takes them from there.

        Args:
            timeout_s: how long to wait for the daemon's acknowledgement, in seconds.
        Waits: at most `timeout_s`; without a daemon, for one fsync.
        Source: flock(2): closing the file gives up the writer's lock.
        Example:
            session.close()
            rows = {row.session_id: row for row in client.sessions()}
            print(rows[session.session_id].condition)  # unfinished
        """
        self.leave(cleanly=True, timeout_s=timeout_s)

    def leave(self, *, cleanly: bool, timeout_s: float = 2.0) -> None:
        """Close the session, cleanly or not. Not cleanly means that it counts as interrupted, as if this process had
        died.

        Args:
            cleanly: True does what `close` does.
            timeout_s: how long to wait for the daemon's acknowledgement, in seconds.
        Waits: at most `timeout_s`; without a daemon, for one fsync.
        Example:
            session.leave(cleanly=False)
            rows = {row.session_id: row for row in client.sessions()}
            print(rows[session.session_id].condition)  # interrupted
        """
        if self.closed or not self._published.ours:
            return
        stream = self._stream
        self._published.close(cleanly=cleanly)
        reached(ClientPoint.LAST_MARK_PUBLISHED)
        if self._link.connected:
            stream.wait_for(lambda: stream.journaled >= stream.outbox.published, timeout_s)
        elif stream.outbox.published:
            with contextlib.suppress(OSError):
                stream.outbox.sync()
        self._link.detach(stream)

    def __enter__(self) -> Session:
        """Return the session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session; after an exception other than a successful `sys.exit()` it counts as interrupted."""
        self.leave(cleanly=is_clean_exit(error), timeout_s=2.0)


def is_clean_exit(error: BaseException | None) -> bool:
    """Return whether a `with` block ended without an exception, or with a successful `sys.exit()`."""
    return error is None or (isinstance(error, SystemExit) and not error.code)
