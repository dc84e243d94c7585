"""What a session needs of its link, of its outbox and of its attachments.

Two sets of classes satisfy these protocols: `Link`, `Outbox` and `Attachments`, which save what is published, and
those in `disabled`, which keep nothing. mypy compares each class with its protocol where it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from edi_checkpoint.system.paths import Paths
from edi_checkpoint.values.cache import Recent
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.messages import Answer, Attached, Question
from edi_checkpoint.wire.references import Attachment, Reference

if TYPE_CHECKING:
    from edi_checkpoint.link.stream import Stream


class SessionLink(Protocol):
    """Connects the sessions of one process to a daemon. Its methods are safe to call from several threads."""

    @property
    def paths(self) -> Paths | None:
        """The folders that sessions are saved in; None when nothing is saved."""

    @property
    def connected(self) -> bool:
        """Whether a daemon answers."""

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until a daemon answers, at most `timeout_s`; return whether one does."""

    def wake(self) -> None:
        """Tell the link that entries were published."""

    def ask(self, question: Callable[[int], Question], timeout_s: float) -> Answer:
        """Return the answer to a question. Raises the daemon's error, and `DaemonUnavailable`."""

    def open(self, session_id: str, parent_session: str | None, *, seen: bool, takeover: bool) -> Stream:
        """Take the session's lock and return a new stream. Raises what `Outbox` raises."""

    def attach(self, stream: Stream, *, timeout_s: float) -> Attached | None:
        """Attach a new stream; return the daemon's answer with the session's state, None without one."""

    def serve(self, stream: Stream, publish_base: Callable[[], int]) -> None:
        """Call `publish_base` whenever the daemon lacks entries of `stream`.

        It publishes the whole state as one entry and returns its number.
        """

    def detach(self, stream: Stream, *, unused: bool = False) -> None:
        """Close a stream; `unused`: remove its files, because nothing was published."""

    def close(self) -> None:
        """Disconnect. All streams must be detached before."""


class SessionOutbox(Protocol):
    """Numbers the entries of one stream and holds them until a file contains them."""

    @property
    def stream(self) -> str:
        """The id of the stream."""

    @property
    def lock(self) -> Lock:
        """Held by a publisher while it calls `append`."""

    @property
    def published(self) -> int:
        """The number of the newest entry."""

    @property
    def spooled(self) -> int:
        """The number of the newest entry in a file."""

    @property
    def fenced(self) -> Mapping[str, int]:
        """The streams of living writers that this one takes over from, with the last number of each."""

    @property
    def full(self) -> bool:
        """Whether the link has work to do before more is published."""

    @property
    def unsent_bytes(self) -> int:
        """About how many bytes are not sent yet."""

    def append(self, entry: bytes) -> int:
        """Store an entry; return its number. Raises `OutboxFull`."""

    def acknowledged(self, number: int) -> None:
        """Free the memory of entries up to `number`."""

    def trim(self, covered: int) -> None:
        """Delete the files whose entries up to `covered` are in a checkpoint or in the auto-save."""

    def sync(self) -> None:
        """Bring all entries onto the disk. Raises OSError."""


class SessionAttachments(Protocol):
    """The arrays and bytes of one session."""

    @property
    def recent(self) -> Recent:
        """What was encoded lately."""

    def restore(self, reference: Reference, path: str) -> object:
        """Return the array or bytes of `reference`, which stands under `path` of the state.

        Raises `AttachmentMissing`, `AttachmentDamaged` and `ArraysMissing`.
        """

    def remaining_after(self, carried: Mapping[str, Attachment], held: Iterable[JsonText], left_bytes: int) -> int:
        """Return how many of `left_bytes` are left after an entry with the attachments `carried`.

        Attachments that the texts `held` name cost nothing. Raises `AttachmentsFull`.
        """

    def unfiled(self, texts: Iterable[JsonText], most_bytes: int) -> dict[str, Attachment]:
        """Return the attachments that `texts` name and no file holds, at most `most_bytes`."""
