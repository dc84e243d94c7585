"""What a session needs of its link and its attachments; `stream.SessionOutbox` is what it needs of its outbox.

`Link`, `Outbox` and `Attachments` save what is published; the classes in `disabled` save nothing. mypy compares each
class with its protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from edi_checkpoint.link.stream import Stream
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.values.cache import Recent
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.messages import Answer, Attached, Question
from edi_checkpoint.wire.references import Attachment, Reference


class SessionLink(Protocol):
    """Connects the sessions of one process to a daemon. Any thread may call its methods."""

    @property
    def paths(self) -> Paths | None:
        """The folders of the sessions; None if nothing is saved."""

    @property
    def connected(self) -> bool:
        """Whether a daemon answers."""

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until a daemon answers, at most `timeout_s`; return whether one does."""

    def wake(self) -> None:
        """Send the published entries."""

    def ask(self, question: Callable[[int], Question], timeout_s: float) -> Answer:
        """Return the daemon's answer. Raises its error, or `DaemonUnavailable`."""

    def open(self, session_id: str, parent_session: str | None, *, seen: bool, takeover: bool) -> Stream:
        """Lock the session and return a new stream. Raises the errors of `Outbox`."""

    def attach(self, stream: Stream, *, timeout_s: float) -> Attached | None:
        """Attach a new stream; return the daemon's answer with the session's state, None without a daemon."""

    def serve(self, stream: Stream, publish_base: Callable[[], int]) -> None:
        """Have `publish_base` called when the daemon lacks entries; it publishes a base and returns its number."""

    def detach(self, stream: Stream, *, unused: bool = False) -> None:
        """Close a stream. `unused`: nothing was published, so its files are removed."""

    def close(self) -> None:
        """Disconnect, after all streams were detached."""


class SessionAttachments(Protocol):
    """The arrays and bytes of one session."""

    recent: Recent  # encoded or read lately

    def restore(self, reference: Reference, path: str) -> object:
        """Return the array or bytes of `reference`, which is at `path` in the state.

        Raises `AttachmentMissing`, `AttachmentDamaged` and `ArraysMissing`.
        """

    def remaining_after(self, carried: Mapping[str, Attachment], held: Iterable[JsonText], left_bytes: int) -> int:
        """Return how many of `left_bytes` remain after an entry with the attachments `carried`.

        Attachments that the texts `held` name cost nothing. Raises `AttachmentsFull`.
        """

    def unfiled(self, texts: Iterable[JsonText], most_bytes: int) -> dict[str, Attachment]:
        """Return the attachments that `texts` name and no file holds, at most `most_bytes`."""
