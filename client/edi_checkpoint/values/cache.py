"""The attachments that this process encoded lately."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from edi_checkpoint.wire.references import Attachment, Encoded

RECENT_MAX_BYTES: Final = 32 << 20


class Recent:
    """A bounded memory of encoded attachments, so that an array published again is not compressed again.

    A digest of the pixels finds an array again, never its identity, since arrays change in place.
    """

    def __init__(self, max_bytes: int = RECENT_MAX_BYTES) -> None:
        """Hold at most `max_bytes` of encoded data; the least recently used goes first."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()  # sessions of several threads share this memory
        self._encoded: OrderedDict[str, tuple[Encoded, bytes | None]] = OrderedDict()  # by sha256, with the key
        self._digests: dict[bytes, str] = {}  # by key, the sha256 of the file

    def keep(self, encoded: Encoded, key: bytes | None = None) -> None:
        """Remember an attachment; `key` is a digest of its content before it was encoded."""
        with self._lock:
            self._forget(encoded.reference.sha256)
            if len(encoded.attachment.data) > self._max_bytes:
                return
            self._encoded[encoded.reference.sha256] = encoded, key
            self._bytes += len(encoded.attachment.data)
            if key is not None:
                self._digests[key] = encoded.reference.sha256
            while self._bytes > self._max_bytes:
                self._forget(next(iter(self._encoded)))

    def _forget(self, digest: str) -> None:
        encoded, key = self._encoded.pop(digest, (None, None))
        if encoded is not None:
            self._bytes -= len(encoded.attachment.data)
        if key is not None:
            self._digests.pop(key, None)

    def known(self, key: bytes) -> Encoded | None:
        """Return the attachment that was kept with `key`, None without one."""
        with self._lock:
            digest = self._digests.get(key, "")
            if digest not in self._encoded:
                return None
            self._encoded.move_to_end(digest)
            return self._encoded[digest][0]

    def attachment(self, digest: str) -> Attachment | None:
        """Return the attachment with a digest, None if it is not in memory."""
        with self._lock:
            found = self._encoded.get(digest)
            return None if found is None else found[0].attachment
