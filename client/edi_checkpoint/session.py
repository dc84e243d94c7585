"""Session: the state of one editing session as a mutable mapping whose every change is published.

Values are normalised: the mapping holds the JSON text that is published, so reading a key gives at once the form that a
restore will give, and always a copy.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, MutableMapping
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any

from msgspec import structs

from edi_checkpoint import offline, points, protocol, values
from edi_checkpoint.entries import JsonText
from edi_checkpoint.errors import DaemonUnavailable, FlushTimeout
from edi_checkpoint.faults import ClientPoint, reached
from edi_checkpoint.model import CheckpointInfo, Durable, ResumeReport
from edi_checkpoint.named_files import compare, look_in_time
from edi_checkpoint.points import Point
from edi_checkpoint.publication import text
from edi_checkpoint.references import Attachment
from edi_checkpoint.session_core import Level, SessionCore
from edi_checkpoint.stream import wait

log = logging.getLogger(__name__)

ENDED = ("completed", "failed")  # the values of EDI's `status` that end a session
_REQUEST_TIMEOUT_S = 5.0
_LOOK_S = 0.25  # for files on a mount whose server is gone


class Session(MutableMapping[str, object]):
    """One attached session. Made by `Client.session`; safe to use from several threads.

    Each item assignment, deletion, `update` and `transition` is one entry: it is there as a whole or not at all, and
    survives the death of this process as soon as the call returns (P2). None of them waits for the daemon.

    Raises, at any publishing call: `StateValueError` (the state is unchanged), `Fenced`, `SessionForked`,
    `SessionClosed`, `OutboxFull`, and once whatever the daemon refused of an earlier call.
    """

    def __init__(self, core: SessionCore, resumed: ResumeReport, fork: Callable[[str, Point, str | None], str]) -> None:
        """Continue from the state of `core`. `fork` begins another session, as `Client.fork`."""
        self.session_id = core.stream.session_id
        self.parent_session = core.stream.parent_session
        self.core = core  # for this package, see `SessionCore`
        self._link = core.link
        self._stream = core.stream
        self._published = core.publication
        self._resumed = resumed
        self._looked = not resumed.resumed  # at the files that the state names
        self._fork = fork

    # -- the mapping -------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> object:
        """Return a copy of the value of `key`, in the form a restore gives; its arrays and bytes are read now.

        Raises `AttachmentMissing` or `AttachmentDamaged`, naming the path, when one of them cannot be had.
        """
        return self.core.decode(key, self._published.texts[key])

    def __setitem__(self, key: str, value: object) -> None:
        """Publish `key` with `value`."""
        if key not in self._published.texts:
            key = values.check_key(key)
        carried: dict[str, Attachment] = {}
        self._published.update({key: self.core.encode(key, value, carried)}, carried)

    def __delitem__(self, key: str) -> None:
        """Publish that `key` is gone; raises KeyError when it is not there."""
        if key not in self._published.texts:
            raise KeyError(key)
        self._published.update({}, {}, removed=(values.check_key(key),))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys as they are now."""
        return iter(list(self._published.texts))

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._published.texts)

    def __repr__(self) -> str:
        """Name the session and what is durable; no content, which may be private."""
        return f"<Session {self.session_id} keys={len(self._published.texts)} {self.durable}>"

    def texts(self) -> dict[str, JsonText]:
        """Return the state as it is published: compact JSON text by key."""
        return self.core.texts()

    def update(self, *args: Any, **fields: object) -> None:
        """Publish several keys as one entry; takes what `dict.update` takes."""
        items: dict[str, object] = dict(*args, **fields)
        if items:
            self._published.update(*self.core.encode_all(items))

    def pop(self, key: str, *default: object) -> object:
        """Publish that `key` is gone and return its value; without it, `default` or KeyError."""
        if key not in self._published.texts:
            if default:
                return default[0]
            raise KeyError(key)
        value = self[key]
        del self[key]
        return value

    def clear(self) -> None:
        """Publish that all keys are gone, as one entry."""
        if self._published.texts:
            self._published.update({}, {}, removed=tuple(self._published.texts))

    def transition(self, stage: str, *, reason: str | None = None, **fields: object) -> None:
        """Publish `current_stage` with other keys as one entry; `reason` names the checkpoint it leads to."""
        self._published.update(*self.core.encode_all({**fields, "current_stage": stage}), reason=text(reason))

    @contextlib.contextmanager
    def edit(self, key: str) -> Iterator[object]:
        """Give a copy of the value of `key` to change in place; publishes it on exit, not on an exception."""
        value = self[key]
        yield value
        carried: dict[str, Attachment] = {}
        encoded = self.core.encode(key, value, carried)
        if encoded != self._published.texts.get(key):
            self._published.update({key: encoded}, carried)

    # -- checkpoints and durability ----------------------------------------------------------------------------------

    @property
    def durable(self) -> Durable:
        """How far this stream's entries have come: published, in the outbox file, acknowledged, in a file."""
        return self._stream.durable()

    def checkpoint(
        self, reason: str = "manual", *, label: str | None = None, pin: bool = False, timeout_s: float = 2.0
    ) -> CheckpointInfo:
        """Ask for a checkpoint of the state as it is now and wait for its file.

        Raises `CheckpointFailed` when told that it could not be written, and `FlushTimeout` when nothing was heard
        within `timeout_s`: then the wish is in the outbox, fsynced, and the file follows.
        """
        return self.core.checkpoint(reason, label, pin=pin, timeout_s=timeout_s)

    def flush(self, level: Level = "journaled", *, timeout_s: float = 2.0) -> None:
        """Wait until all that is published is acknowledged (`journaled`) or in the auto-save (`checkpointed`).

        Raises `FlushTimeout` when that is not so within `timeout_s`; nothing is lost by it.
        """
        asked = self.core.ask_flush(level)
        wait(asked, timeout_s)
        self.core.flush_heard(asked, level, timeout_s)

    def checkpoints(self) -> list[CheckpointInfo]:
        """Return the session's checkpoints, oldest first: from the daemon, or from the files when none answers."""
        try:
            answer = self._link.ask(lambda n: protocol.ListCheckpoints(n, self.session_id), _REQUEST_TIMEOUT_S)
        except DaemonUnavailable:
            paths = self._link.paths
            return [] if paths is None else offline.checkpoints(paths, self.session_id)
        return answer.checkpoints if isinstance(answer, protocol.Checkpoints) else []

    # -- going back --------------------------------------------------------------------------------------------------

    def at(self, *, sequence: int | None = None, time: datetime | None = None) -> dict[str, object]:
        """Return the state as it was after the entry `sequence`, or at `time` (naive: local).

        Its arrays and bytes are read when their keys are looked at.

        Raises `NotFound` outside the journal's window, and `DaemonUnavailable`.
        """
        return self.core.restored(self._point(None, sequence, time).state)

    def rollback(
        self,
        to: CheckpointInfo | str | None = None,
        *,
        sequence: int | None = None,
        time: datetime | None = None,
        keys: Collection[str] | None = None,
    ) -> CheckpointInfo:
        """Go back to a checkpoint (its row or file name), a sequence or a time; return its `rollback` checkpoint.

        Without any: to the newest checkpoint that is intact, not failed, and differs from now. `keys`: only these go
        back. The present is kept as a checkpoint of kind `before_rollback` and as history, so going back can itself be
        gone back on. The mapping has followed when this returns, or raises `FlushTimeout`: then the files follow.

        Raises `NotFound`, `DocumentDamaged`, `DaemonUnavailable`, `CheckpointFailed` (the state is back, its file is
        not there), and what publishing raises.
        """
        if to is None and sequence is None and time is None:
            read = partial(points.find, self._link, self.session_id)
            point = points.last_good(self.session_id, self.checkpoints(), read, self.texts())
        else:
            point = self._point(to, sequence, time)
        return self._heard(self._published.rollback(point, keys))

    def _point(self, to: CheckpointInfo | str | None, sequence: int | None, time: datetime | None) -> Point:
        self._published.check()
        if to is None and self._link.connected:  # what this writer has published is part of the past
            with contextlib.suppress(FlushTimeout):
                self.flush(timeout_s=_REQUEST_TIMEOUT_S)
        return points.find(self._link, self.session_id, to, sequence, time)

    def fork(
        self, to: CheckpointInfo | str | None = None, *, sequence: int | None = None, session_id: str | None = None
    ) -> str:
        """Begin a session of its own with the state of now, of a checkpoint or of a sequence; return its id.

        It is not attached. Raises `NotFound`, `SessionIdError` (also for an id that is taken), `SessionBusy`.
        """
        self._published.check()
        of_now = to is None and sequence is None
        point = Point(self.texts(), 0, "now") if of_now else self._point(to, sequence, None)
        return self._fork(self.session_id, point, session_id)

    def amend(
        self, name: str, *, pinned: bool | None = None, label: str | None = None, note: str | None = None
    ) -> CheckpointInfo:
        """Have a checkpoint pinned, labelled or noted at; None leaves as it is, an empty text removes."""
        return self._heard(self._published.pin(name, pinned, label, note))

    def _heard(self, asked: Future[CheckpointInfo]) -> CheckpointInfo:
        """Wait for what a daemon answers, if there is one."""
        timeout_s = _REQUEST_TIMEOUT_S if self._link.connected else 0.0
        wait(asked, timeout_s)
        return self.core.checkpoint_heard(asked, timeout_s)

    def resume_report(self) -> ResumeReport:
        """Return what was resumed when this session was opened: from where, how it was left, what is missing.

        The first call looks what has become of the files that the state names, for at most a quarter of a second.
        """
        paths = self._link.paths
        if not self._looked and paths is not None:
            self._looked = True
            recorded = offline.recorded_files(paths, self._resumed.checkpoint)
            files = compare(recorded, look_in_time(recorded, _LOOK_S))
            self._resumed = structs.replace(self._resumed, files=tuple(files))
        return self._resumed

    @property
    def resumed(self) -> ResumeReport:
        """The report as it was when the session was opened, without a look at files."""
        return self._resumed

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._published.closed

    @property
    def stream(self) -> str:
        """The id of this attachment."""
        return self._stream.id

    @property
    def usable(self) -> bool:
        """Whether it can be written: open, of this process, and not taken over by another writer."""
        return self._published.usable

    # -- leaving -----------------------------------------------------------------------------------------------------

    def end(self, status: str | None = None) -> None:
        """Publish EDI's `status` of the finished work and close; by default `completed`, unless it says so already."""
        if status is None:
            status = "completed" if self.get("status") not in ENDED else None
        if status is not None:
            self["status"] = status
        self.close()

    def close(self, timeout_s: float = 2.0) -> None:
        """Leave cleanly: publish a last mark, wait for the acknowledgement at most `timeout_s`, give up the lock.

        What is not acknowledged by then stays in the outbox; the daemon takes it from there.
        """
        self.leave(cleanly=True, timeout_s=timeout_s)

    def leave(self, *, cleanly: bool, timeout_s: float = 2.0) -> None:
        """Close; not `cleanly`: the session counts as interrupted, as if this process had died."""
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
        """Close; after an exception other than `sys.exit()` the session counts as interrupted."""
        self.leave(cleanly=ended_well(error), timeout_s=2.0)


def ended_well(error: BaseException | None) -> bool:
    """Whether a block that was left by `error` came to its end: by none, or by `sys.exit()` with success."""
    return error is None or (isinstance(error, SystemExit) and not error.code)
