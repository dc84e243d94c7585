"""Publication: the state of one session as JSON texts, and the entries that change it.

Under the outbox's lock, an entry is first appended to the outbox, then the texts change. So the mapping always holds
the published state. Nothing is published after the last mark, or after another writer took over.
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
from edi_checkpoint.wire.entries import TEXT_MAX, Base, JsonText, Mark, Pin, Rollback, Update, encode_entry
from edi_checkpoint.wire.records import ENTRY_MAX_BYTES
from edi_checkpoint.wire.references import Attachment

STATE_MAX_BYTES = 63 << 20  # a whole state must fit into one entry (a base)
_BASE_ROOM_BYTES = 1024  # for the other fields of a base


class Publication:
    """Publishes the changes of one session to its stream's outbox. Several threads may use it.

    `texts` is the state, compact JSON text by key. It is read without a lock, and changed under the outbox's lock.
    """

    def __init__(
        self, stream: Stream, state: Mapping[str, JsonText], attachments: SessionAttachments, wake: Callable[[], None]
    ) -> None:
        """Start with `state`; `wake` notifies the link of new entries."""
        self.texts = points.compact(state)
        self.closed = False
        self._bytes = _size(self.texts)
        self._stream = stream
        self._attachments = attachments
        self._wake = wake
        self._pid = os.getpid()

    @property
    def usable(self) -> bool:
        """Whether the session is open, belongs to this process, and was not taken over by another writer."""
        return not self.closed and self._stream.fenced is None and self.ours

    @property
    def ours(self) -> bool:
        """Whether this process opened the session; False in a forked child."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise the error that forbids publishing, if any; raise once the daemon's refusal of an earlier entry."""
        if not self.ours:
            raise SessionForked(f"session {self._stream.session_id} was opened in process {self._pid}")
        if self.closed:
            if threading.current_thread().daemon and not threading.main_thread().is_alive():
                raise SystemExit  # the interpreter exits and stops this thread anyway, so print nothing
            raise SessionClosed(f"session {self._stream.session_id} is closed")
        self._stream.raise_failure()

    # -- entries -----------------------------------------------------------------------------------------------------

    def update(
        self, changed: dict[str, JsonText], carried: dict[str, Attachment],
        removed: tuple[str, ...] = (), reason: str | None = None,
    ) -> None:  # fmt: skip
        """Publish changed texts, the arrays and bytes in them (`carried`), and removed keys, as one entry."""
        self.check()
        if carried and (left := self._stream.attachments_left) is not None:
            left = self._attachments.remaining_after(carried, list(self.texts.values()), left)
            self._stream.note_attachments_left(left)
        entry = encode_entry(Update(_now_us(), changed, removed, reason, 0, carried))
        with self._stream.outbox.lock:
            texts = self.texts
            grown = 0
            for key, text in changed.items():
                grown += len(text) - len(texts[key]) if key in texts else len(text) + _key_bytes(key)
            for key in removed:
                if key in texts:
                    grown -= len(texts[key]) + _key_bytes(key)
            if self._bytes + grown > STATE_MAX_BYTES:
                raise StateValueError(f"{', '.join(changed)}: the state would be larger than {STATE_MAX_BYTES} bytes")
            if len(entry) > ENTRY_MAX_BYTES:  # a reader would stop there and miss the next entries
                raise StateValueError(f"{len(entry)} bytes in one entry; at most {ENTRY_MAX_BYTES} are stored")
            self._append(entry)
            for key in removed:
                texts.pop(key, None)
            texts.update(changed)
            self._bytes += grown
        if self._stream.wants_link:
            self._wake()

    def base(self) -> int:
        """Publish the whole state and return the entry's number. The link calls it when the daemon lacks entries.

        The link may call it after `close`, while the client waits for the last acknowledgements.
        """
        with self._stream.outbox.lock:
            if self._stream.fenced is not None:
                raise self._stream.fenced
            return self._stream.outbox.append(self._base(self.texts))

    def replace(self, state: Mapping[str, JsonText]) -> None:
        """Publish `state`, which replaces the whole state of the session."""
        self.check()
        state = self._own(points.compact(state))
        with self._stream.outbox.lock:
            self._append(self._base(state))
            self._become(state)
        self._wake()

    def start_empty(self) -> None:
        """Publish an empty state. An earlier writer's state is first saved in a checkpoint, unless it is in one."""
        if self.texts:
            self.mark(Mark(_now_us(), "interrupted", "started again with an empty state")).cancel()
            self.replace({})

    def rollback(self, point: points.Point, keys: Collection[str] | None) -> Future[CheckpointInfo]:
        """Publish a rollback to `point`, of all keys or of `keys`; return the future of its checkpoint."""
        self.check()
        with self._stream.outbox.lock:
            state, reason = self._own(point.state), f"back to {point.name}"
            if keys is not None:
                if unknown := [key for key in keys if key not in state and key not in self.texts]:
                    raise NotFound(f"{', '.join(unknown)}: neither in the present state nor in {point.name}")
                state = points.with_keys(self.texts, state, keys)
                reason = f"{reason}, only {', '.join(keys)}"
            if (size := _size(state)) > STATE_MAX_BYTES:
                raise StateValueError(f"{point.name}: {size} bytes; a state has at most {STATE_MAX_BYTES}")
            entry = encode_entry(Rollback(_now_us(), dict(state), point.sequence, reason[:TEXT_MAX]))
            future = self._stream.when_marked(self._append(entry))
            self._become(state)
        self._wake()
        return future

    def ask_checkpoint(
        self, reason: str, label: str | None = None, *, pin: bool = False, keep: int | None = None
    ) -> Future[CheckpointInfo]:
        """Publish a mark that asks for a checkpoint; return the checkpoint's future."""
        return self.mark(Mark(_now_us(), "manual", text(reason) or "manual", text(label), pin, keep))

    def pin(self, name: str, pinned: bool | None, label: str | None, note: str | None) -> Future[CheckpointInfo]:
        """Publish a change of a checkpoint's pin, label or note; return the future of its new row."""
        return self.mark(Pin(_now_us(), name, pinned, text(label), text(note)))

    def mark(self, mark: Mark | Pin) -> Future[CheckpointInfo]:
        """Publish an entry that makes or changes a checkpoint; return the checkpoint's future."""
        self.check()
        entry = encode_entry(mark)
        with self._stream.outbox.lock:  # the link cannot send the entry before the future exists
            future = self._stream.when_marked(self._append(entry))
        self._wake()
        return future

    def close(self, *, cleanly: bool) -> None:
        """Close the publication. If the writer leaves `cleanly`, publish the last mark, of kind `shutdown`."""
        with self._stream.outbox.lock:  # so no thread publishes an entry after the mark
            if cleanly and self._stream.fenced is None:
                with contextlib.suppress(OSError, OutboxFull):
                    self._stream.outbox.append(encode_entry(Mark(_now_us(), "shutdown", "closed")))
            self.closed = True
        self._wake()

    def _append(self, entry: bytes) -> int:
        """Append to the outbox and return the number. The caller holds its lock, so the checks here stay true."""
        if self.closed:
            self.check()
        if self._stream.fenced is not None:
            raise self._stream.fenced
        return self._stream.outbox.append(entry)

    def _own(self, state: Mapping[str, JsonText]) -> Mapping[str, JsonText]:
        """Return `state` with this session's id in `session_id`. It may come from another session or EDI's class."""
        return {**state, "session_id": msgspec.json.encode(self._stream.session_id)} if "session_id" in state else state

    def _become(self, state: Mapping[str, JsonText]) -> None:
        self.texts, self._bytes = dict(state), _size(state)

    def _base(self, state: Mapping[str, JsonText]) -> bytes:
        """Return an entry with the whole state, and with those of its arrays and bytes that no file holds."""
        room_bytes = ENTRY_MAX_BYTES - _size(state) - _BASE_ROOM_BYTES
        return encode_entry(Base(_now_us(), dict(state), 0, self._attachments.unfiled(state.values(), room_bytes)))


def text(given: str | None) -> str | None:
    """Return a reason, label or note cut to the length limit of an entry; raise `StateValueError` unless it is text."""
    if given is None:
        return None
    if not isinstance(given, str):
        raise StateValueError(f"a reason, label or note must be text, not {type(given).__name__}")
    return given.encode(errors="replace").decode()[:TEXT_MAX]


def _size(state: Mapping[str, JsonText]) -> int:
    return sum(len(value) + _key_bytes(key) for key, value in state.items())


def _key_bytes(key: str) -> int:
    """Return the most bytes that a key adds to a base: its UTF-8, and the headers of key and text."""
    return 4 * len(key) + 8


def _now_us() -> int:
    return time.time_ns() // 1000
