"""SessionCore: the parts of an open session and the steps that its public calls are made of."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Literal, TypeAlias

from edi_checkpoint.errors import FlushTimeout, StateValueError, UsageError
from edi_checkpoint.link.contracts import SessionAttachments, SessionLink
from edi_checkpoint.link.stream import Stream, wait
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.session.lazy_state import LazyState
from edi_checkpoint.session.publication import Publication
from edi_checkpoint.system.settings import Limits
from edi_checkpoint.values import codec
from edi_checkpoint.values.normalise import Encoder
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.references import Attachment, digests_in

Level: TypeAlias = Literal["journaled", "checkpointed"]


class SessionCore:
    """What `Session`, `Client`, `StateManager` and `aio` share of one open session. Not for applications.

    A call that waits has two steps here: `ask_checkpoint` and `ask_flush` publish what is needed and return a future;
    `checkpoint_heard` and `flush_heard` turn the future into a result or an error. Between the two, `Session` blocks
    its thread and `aio` awaits.
    """

    def __init__(
        self,
        link: SessionLink,
        stream: Stream,
        publication: Publication,
        attachments: SessionAttachments,
        limits: Limits,
        encoder: Encoder | None,
    ) -> None:
        """Take the parts; the stream is attached to the link already, and `publication` publishes to it."""
        self.link = link
        self.stream = stream
        self.publication = publication
        self.attachments = attachments
        self._limits = limits
        self._encoder = encoder

    # -- values ------------------------------------------------------------------------------------------------------

    def encode(self, key: str, value: object, carried: dict[str, Attachment]) -> JsonText:
        """Return the JSON text of a value; what it refers to goes into `carried`."""
        if key == "session_id" and value != self.stream.session_id:
            raise StateValueError(f"session_id: {value!r} is not this session's id {self.stream.session_id!r}")
        return codec.encode(
            value, key, carried, self.attachments.recent, self._encoder,
            max_bytes=self._limits.value_max_bytes, max_depth=self._limits.value_max_depth,
        )  # fmt: skip

    def encode_all(self, items: Mapping[str, object]) -> tuple[dict[str, JsonText], dict[str, Attachment]]:
        """Return the JSON texts of `items`, their keys checked, and what the texts refer to."""
        carried: dict[str, Attachment] = {}
        return {codec.check_key(key): self.encode(key, value, carried) for key, value in items.items()}, carried

    def decode(self, key: str, text: JsonText) -> object:
        """Return the value of a JSON text under `key`; its arrays and bytes are read now."""
        return codec.decode(text, key, self.attachments.restore)

    def restored(self, state: Mapping[str, JsonText]) -> LazyState:
        """Return a state of the session as a dict of its own; each value is read when it is first accessed."""
        return LazyState(state, self.decode)

    def texts(self) -> dict[str, JsonText]:
        """Return the state as it is published: compact JSON text by key."""
        with self.stream.outbox.lock:
            return dict(self.publication.texts)

    def publish_difference(self, state: Mapping[str, object]) -> None:
        """Publish, as one entry, whatever of `state` differs from what is published; all of it is encoded for that.

        A value of a `LazyState` that was never read cannot have been changed: its text is used as it is.
        """
        unread = state.unread if isinstance(state, LazyState) else {}
        texts, carried = self.encode_all({key: state[key] for key in state if key not in unread})
        texts |= unread
        published = self.publication.texts
        changed = {key: text for key, text in texts.items() if published.get(key) != text}
        removed = tuple(key for key in list(published) if key not in texts)
        if changed or removed:
            named = set[str]().union(*map(digests_in, changed.values()))
            self.publication.update(changed, {digest: carried[digest] for digest in carried.keys() & named}, removed)

    # -- checkpoints and durability ----------------------------------------------------------------------------------

    def checkpoint(
        self, reason: str, label: str | None = None, *, pin: bool = False, keep: int | None = None, timeout_s: float
    ) -> CheckpointInfo:
        """Ask for a checkpoint and wait for its file; as `Session.checkpoint`.

        `keep` says how many checkpoints of the session are kept from now on.
        """
        asked = self.ask_checkpoint(reason, label, pin=pin, keep=keep)
        wait(asked, timeout_s)
        return self.checkpoint_heard(asked, timeout_s)

    def ask_checkpoint(
        self, reason: str, label: str | None = None, *, pin: bool = False, keep: int | None = None
    ) -> Future[CheckpointInfo]:
        """Publish a mark; return the future of its checkpoint, for `checkpoint_heard`."""
        return self.publication.manual(reason, label, pin=pin, keep=keep)

    def checkpoint_heard(self, asked: Future[CheckpointInfo], timeout_s: float) -> CheckpointInfo:
        """Return the checkpoint, or raise its error; `timeout_s` are over. Without an answer, sync the wish to disk."""
        silent = asked.cancel()
        self.stream.raise_failure()
        if silent:
            self.stream.outbox.sync()
            raise FlushTimeout(f"session {self.stream.session_id}: no checkpoint heard of within {timeout_s:g} s")
        return asked.result()

    def ask_flush(self, level: Level) -> Future[None]:
        """Ask for what `Session.flush` waits for; return its future, for `flush_heard`."""
        if level not in ("journaled", "checkpointed"):
            raise UsageError(f"flush({level!r}): `journaled` or `checkpointed` is meant")
        self.publication.check()
        number = self.stream.outbox.published
        self.stream.hurry(number)
        if level == "checkpointed":
            self.stream.want_saved(number)
        self.link.wake()
        return self.stream.when(lambda: self._reached(level) >= number)

    def _reached(self, level: str) -> int:
        return self.stream.journaled if level == "journaled" else self.stream.saved

    def flush_heard(self, asked: Future[None], level: Level, timeout_s: float) -> None:
        """Raise unless everything was confirmed within `timeout_s`, which are over."""
        if asked.cancel():
            self.stream.raise_failure()
            done = f"{self._reached(level)} of {self.stream.outbox.published} entries {level}"
            raise FlushTimeout(f"session {self.stream.session_id}: {done} within {timeout_s:g} s")
        asked.result()
