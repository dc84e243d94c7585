"""Publication: the state of one session as texts, and the entries that change it.

An entry is in the outbox before the texts follow, both under the outbox's lock; so what the mapping holds is what was
published, and nothing is published behind the last mark or after another writer has taken over.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future

import msgspec

from edi_checkpoint.errors import NotFound, OutboxFull, SessionClosed, SessionForked, StateValueError
from edi_checkpoint.link.contracts import SessionAttachments
from edi_checkpoint.link.stream import Stream
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.session import points
from edi_checkpoint.session.points import Point
from edi_checkpoint.wire.entries import TEXT_MAX, Base, JsonText, Mark, Pin, Rollback, Update, encode_entry
from edi_checkpoint.wire.records import ENTRY_MAX_BYTES
from edi_checkpoint.wire.references import Attachment

STATE_MAX_BYTES = 63 << 20  # a whole state must fit into one entry (a base)
_BASE_ROOM_BYTES = 1024  # for what a base says beside its state


class Publication:
    """What one stream publishes of its session; safe to use from several threads.

    `texts` is the state, compact JSON text by key; it is read without a lock, and changed under the outbox's.
    """

    def __init__(
        self, stream: Stream, state: Mapping[str, JsonText], attachments: SessionAttachments, wake: Callable[[], None]
    ) -> None:
        """Continue from `state`; `wake` lets the link look for what was published."""
        self.texts = points.compact(state)
        self.closed = False
        self._bytes = _size(self.texts)
        self._stream = stream
        self._attachments = attachments
        self._wake = wake
        self._pid = os.getpid()

    @property
    def usable(self) -> bool:
        """Whether anything can be published: open, of this process, and not taken over by another writer."""
        return not self.closed and self._stream.fenced is None and self.ours

    @property
    def ours(self) -> bool:
        """Whether this is the process that opened the session, no forked child of it."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise what keeps from publishing, and once whatever the daemon refused of an earlier call."""
        if not self.ours:
            raise SessionForked(f"session {self._stream.session_id} was opened in process {self._pid}")
        if self.closed:
            if threading.current_thread().daemon and not threading.main_thread().is_alive():
                raise SystemExit  # the interpreter is leaving and stops this thread anyway: without a word
            raise SessionClosed(f"session {self._stream.session_id} is closed")
        self._stream.raise_failure()

    # -- entries -----------------------------------------------------------------------------------------------------

    def update(
        self,
        changed: dict[str, JsonText],
        carried: dict[str, Attachment],
        removed: tuple[str, ...] = (),
        reason: str | None = None,
    ) -> None:
        """Publish keys with new texts, what these refer to, and keys that are gone, as one entry."""
        self.check()
        if carried and (left := self._stream.attachments_left) is not None:
            left = self._attachments.remaining_after(carried, list(self.texts.values()), left)
            self._stream.note_attachments_left(left)
        entry = encode_entry(Update(_now_us(), changed, removed, reason, 0, carried))
        with self._stream.outbox.lock:
            held = self.texts
            grown = 0
            for key, text in changed.items():
                grown += len(text) - len(held[key]) if key in held else len(text) + _key_bytes(key)
            for key in removed:
                if key in held:
                    grown -= len(held[key]) + _key_bytes(key)
            if self._bytes + grown > STATE_MAX_BYTES:
                raise StateValueError(f"{', '.join(changed)}: the state would be larger than {STATE_MAX_BYTES} bytes")
            if len(entry) > ENTRY_MAX_BYTES:  # a reader would stop there, and miss what follows
                raise StateValueError(f"{len(entry)} bytes in one entry; at most {ENTRY_MAX_BYTES} are stored")
            self._append(entry)
            for key in removed:
                held.pop(key, None)
            held.update(changed)
            self._bytes += grown
        if self._stream.wants_link:
            self._wake()

    def base(self) -> int:
        """Publish the whole state, as the link does when the daemon lacks entries, also while we wait to leave."""
        with self._stream.outbox.lock:
            if self._stream.fenced is not None:
                raise self._stream.fenced
            return self._stream.outbox.append(self._base(self.texts))

    def replace(self, state: Mapping[str, JsonText]) -> None:
        """Publish `state` in the place of whatever the session held."""
        self.check()
        state = self._own(points.compact(state))
        with self._stream.outbox.lock:
            self._append(self._base(state))
            self._become(state)
        self._wake()

    def begin_anew(self) -> None:
        """Publish an empty state; what an earlier writer left is kept as a checkpoint, unless it is in one."""
        if self.texts:
            self.mark(Mark(_now_us(), "interrupted", "begun anew")).cancel()
            self.replace({})

    def rollback(self, point: Point, keys: Collection[str] | None) -> Future[CheckpointInfo]:
        """Publish the return to `point`, or of `keys` alone; return the future of its checkpoint."""
        self.check()
        with self._stream.outbox.lock:
            state, reason = self._own(point.state), f"back to {point.said}"
            if keys is not None:
                if unknown := [key for key in keys if key not in state and key not in self.texts]:
                    raise NotFound(f"{', '.join(unknown)}: neither in the state of now nor in {point.said}")
                state = points.with_keys(self.texts, state, keys)
                reason = f"{reason}, {', '.join(keys)} alone"
            if (size := _size(state)) > STATE_MAX_BYTES:
                raise StateValueError(f"{point.said}: {size} bytes; a state has at most {STATE_MAX_BYTES}")
            entry = encode_entry(Rollback(_now_us(), dict(state), point.sequence, reason[:TEXT_MAX]))
            future = self._stream.when_marked(self._append(entry))
            self._become(state)
        self._wake()
        return future

    def manual(self, reason: str, label: str | None, *, pin: bool, keep: int | None) -> Future[CheckpointInfo]:
        """Publish the wish for a checkpoint; return its future."""
        return self.mark(Mark(_now_us(), "manual", text(reason) or "manual", text(label), pin, keep))

    def pin(self, name: str, pinned: bool | None, label: str | None, note: str | None) -> Future[CheckpointInfo]:
        """Publish what a checkpoint's header is to say from now on; return the future of its row."""
        return self.mark(Pin(_now_us(), name, pinned, text(label), text(note)))

    def mark(self, mark: Mark | Pin) -> Future[CheckpointInfo]:
        """Publish what a checkpoint is to come of; return its future."""
        self.check()
        entry = encode_entry(mark)
        with self._stream.outbox.lock:  # the link cannot have sent it before it is known that somebody waits
            future = self._stream.when_marked(self._append(entry))
        self._wake()
        return future

    def close(self, *, cleanly: bool) -> None:
        """Publish the last mark of a writer that leaves `cleanly`; nothing can be published any more."""
        with self._stream.outbox.lock:  # nothing follows the mark: what other threads publish is before it, or refused
            if cleanly and self._stream.fenced is None:
                with contextlib.suppress(OSError, OutboxFull):
                    self._stream.outbox.append(encode_entry(Mark(_now_us(), "shutdown", "closed")))
            self.closed = True
        self._wake()

    def _append(self, entry: bytes) -> int:
        """Append to the outbox, whose lock is held: under it, it is known whether we left or another has taken over."""
        if self.closed:
            self.check()
        if self._stream.fenced is not None:
            raise self._stream.fenced
        return self._stream.outbox.append(entry)

    def _own(self, state: Mapping[str, JsonText]) -> Mapping[str, JsonText]:
        """Return a state that came from another session, or from a file of EDI's own class, with this session's id."""
        if "session_id" not in state:
            return state
        return {**state, "session_id": msgspec.json.encode(self._stream.session_id)}

    def _become(self, state: Mapping[str, JsonText]) -> None:
        self.texts, self._bytes = dict(state), _size(state)

    def _base(self, state: Mapping[str, JsonText]) -> bytes:
        """Return the entry that carries a whole state, with what it refers to and no file holds."""
        room_bytes = ENTRY_MAX_BYTES - _size(state) - _BASE_ROOM_BYTES
        return encode_entry(Base(_now_us(), dict(state), 0, self._attachments.unfiled(state.values(), room_bytes)))


def text(given: str | None) -> str | None:
    """Return a reason or label in the length an entry takes; raises `StateValueError` when it is no text."""
    if given is None:
        return None
    if not isinstance(given, str):
        raise StateValueError(f"reason or label: {type(given).__name__} is no text")
    return given.encode(errors="replace").decode()[:TEXT_MAX]


def _size(state: Mapping[str, JsonText]) -> int:
    return sum(len(value) + _key_bytes(key) for key, value in state.items())


def _key_bytes(key: str) -> int:
    """Return how much a key adds to a base at most: its UTF-8, and the heads of key and text."""
    return 4 * len(key) + 8


def _now_us() -> int:
    return time.time_ns() // 1000
