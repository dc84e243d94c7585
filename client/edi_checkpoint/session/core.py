"""SessionCore: the parts of an open session, and the steps that its public calls share."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
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


@dataclass(slots=True, eq=False)
class SessionCore:
    """The parts of one open session, for `Session`, `Client`, `StateManager` and `aio`. Not for applications.

    The stream is attached to the link, and `publication` publishes to it.

    A call that waits has two steps. The first publishes what is needed and returns a future: `ask_flush`, and
    `Publication.ask_checkpoint`. The second, `finish_...`, returns the result or raises the error. Between the two,
    `Session` blocks its thread and `aio` awaits.
    """

    link: SessionLink
    stream: Stream
    publication: Publication
    attachments: SessionAttachments
    _limits: Limits
    _encoder: Encoder | None

    # -- values ------------------------------------------------------------------------------------------------------

    def encode(self, key: str, value: object, carried: dict[str, Attachment]) -> JsonText:
        """Return the JSON text of a value, and add its arrays and bytes to `carried`."""
        if key == "session_id" and value != self.stream.session_id:
            raise StateValueError(f"session_id: {value!r} is not this session's id {self.stream.session_id!r}")
        return codec.encode(
            value, key, carried, self.attachments.recent, self._encoder,
            max_bytes=self._limits.value_max_bytes, max_depth=self._limits.value_max_depth,
        )  # fmt: skip

    def encode_all(self, items: Mapping[str, object]) -> tuple[dict[str, JsonText], dict[str, Attachment]]:
        """Check the keys of `items`; return the JSON texts of its values, and their arrays and bytes."""
        carried: dict[str, Attachment] = {}
        return {codec.check_key(key): self.encode(key, value, carried) for key, value in items.items()}, carried

    def decode(self, key: str, text: JsonText) -> object:
        """Return the value of a JSON text under `key`; its arrays and bytes are read now."""
        return codec.decode(text, key, self.attachments.restore)

    def restored(self, state: Mapping[str, JsonText]) -> LazyState:
        """Return a state of the session as a dict of its own; each value is read when it is first accessed."""
        return LazyState(state, self.decode)

    def publish_difference(self, state: Mapping[str, object]) -> None:
        """Publish, as one entry, how `state` differs from the published state. It encodes all values to compare them.

        A value of a `LazyState` that was never read cannot have been changed, so its text is not made again.
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
        """Make a checkpoint, wait for its file, and return its row; as `Session.checkpoint`.

        `keep` sets how many checkpoints of the session the daemon keeps from now on.
        """
        return self.wait_checkpoint(self.publication.ask_checkpoint(reason, label, pin=pin, keep=keep), timeout_s)

    def wait_checkpoint(self, asked: Future[CheckpointInfo], timeout_s: float) -> CheckpointInfo:
        """Wait for a checkpoint, at most `timeout_s`; return its row or raise its error."""
        wait(asked, timeout_s)
        return self.finish_checkpoint(asked, timeout_s)

    def finish_checkpoint(self, asked: Future[CheckpointInfo], timeout_s: float) -> CheckpointInfo:
        """Return a checkpoint's row or raise its error, after the caller waited `timeout_s`.

        Without an answer it syncs the outbox, so that the request survives a power cut, and raises `FlushTimeout`.
        """
        unanswered = asked.cancel()
        self.stream.raise_failure()
        if unanswered:
            self.stream.outbox.sync()
            raise FlushTimeout(f"session {self.stream.session_id}: no checkpoint was confirmed within {timeout_s:g} s")
        return asked.result()

    def ask_flush(self, level: Level) -> Future[None]:
        """Ask the daemon to save all that was published; return the future for `finish_flush`."""
        if level not in ("journaled", "checkpointed"):
            raise UsageError(f"flush({level!r}): the level must be `journaled` or `checkpointed`")
        self.publication.check()
        number = self.stream.outbox.published
        self.stream.hurry(number)
        if level == "checkpointed":
            self.stream.want_saved(number)
        self.link.wake()
        return self.stream.when(lambda: self._saved(level) >= number)

    def finish_flush(self, asked: Future[None], level: Level, timeout_s: float) -> None:
        """Raise `FlushTimeout`, or the stream's error, unless the flush succeeded within the `timeout_s` waited."""
        if asked.cancel():
            self.stream.raise_failure()
            done = f"{self._saved(level)} of {self.stream.outbox.published} entries {level}"
            raise FlushTimeout(f"session {self.stream.session_id}: {done} within {timeout_s:g} s")
        asked.result()

    def _saved(self, level: Level) -> int:
        """Return the number of the last entry that is saved at `level`."""
        return self.stream.journaled if level == "journaled" else self.stream.saved
