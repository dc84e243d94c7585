"""What was encoded lately: so that an array published again is neither deflated again nor read from its file."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from edi_checkpoint.wire.references import Attachment, Encoded

RECENT_MAX_BYTES: Final = 32 << 20


class Recent:
    """A bounded memory of attachments encoded lately, so that an array published again is not deflated again.

    What is known again is known by a digest of its pixels, never by its identity: arrays change in place.
    """

    def __init__(self, max_bytes: int = RECENT_MAX_BYTES) -> None:
        """Hold at most `max_bytes` of encoded data, the least recently met going first."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()  # sessions of several threads share it
        self._encoded: OrderedDict[str, tuple[Encoded, bytes | None]] = OrderedDict()  # by sha256, with the key
        self._digests: dict[bytes, str] = {}  # by key: what the file's digest is

    def keep(self, encoded: Encoded, key: bytes | None = None) -> None:
        """Take note of an attachment; `key` tells its content before it was encoded."""
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
        """Return what the content that `key` tells was encoded as."""
        with self._lock:
            digest = self._digests.get(key, "")
            if digest not in self._encoded:
                return None
            self._encoded.move_to_end(digest)
            return self._encoded[digest][0]

    def attachment(self, digest: str) -> Attachment | None:
        """Return the attachment of a digest."""
        with self._lock:
            found = self._encoded.get(digest)
            return None if found is None else found[0].attachment
