"""Fragments: the values of a state as the exact bytes of a checkpoint file, and the facts that lists show of them.

A checkpoint is made of fragments, so each value is formatted and digested once, not at each checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import msgspec

from edi_checkpoint.errors import ProtocolError

DEPTH_MAX: Final = 100
SHOWN_MAX_CHARS: Final = 200
SUMMARY_MAX_BYTES: Final = 64 << 10  # a larger value is not a status, path, prompt or score

_TOO_DEEP: Final = b"\n" + b" " * (2 * (DEPTH_MAX + 1))


class Fragment:
    """A value as it stands under `state_info` in a checkpoint: indented by two spaces, nested lines by four more.

    Immutable. The digest is computed at its first use.
    """

    __slots__ = ("_digest", "text")

    def __init__(self, text: bytes) -> None:
        self.text: Final = text
        self._digest: str | None = None

    @property
    def digest(self) -> str:
        """The sha256 of the text, in hex."""
        if self._digest is None:
            self._digest = sha256(self.text).hexdigest()  # no lock: two threads compute the same digest
        return self._digest

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Fragment) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)


def fragment(value: bytes) -> Fragment:
    """Return the fragment of one JSON value, compact or not; numbers and strings keep their text.

    Raises `ProtocolError` for text that is not JSON or not UTF-8, and for more than `DEPTH_MAX` nested containers.
    """
    try:
        text = msgspec.json.format(value, indent=2)
        if not text.isascii():
            text.decode()  # msgspec checks the syntax, not the encoding of strings
    except RecursionError:
        raise ProtocolError(f"value: nested deeper than {DEPTH_MAX}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"value: {error}") from error
    if b"\n" not in text:
        return Fragment(text)
    if _TOO_DEEP in text:
        raise ProtocolError(f"value: nested deeper than {DEPTH_MAX}")
    return Fragment(text.replace(b"\n", b"\n    "))


def summarise(fragments: Mapping[str, Fragment]) -> dict[str, object]:
    """Return what a session list shows of a state: status, image, prompt and score, each None if it is missing."""
    status, image, prompt = (string(_short_text(fragments, key)) for key in ("status", "image_path", "naive_prompt"))
    score = _score(fragments, "validation")
    return {
        "status": status,
        "image": image and image.replace("\\", "/").rpartition("/")[2],
        "prompt": prompt and prompt[:SHOWN_MAX_CHARS],
        "score": _score(fragments, "validation_results") if score is None else score,
    }


def stage_of(fragments: Mapping[str, Fragment]) -> str:
    """Return a state's `current_stage`: a string unchanged, another value as short JSON text, else `unknown`."""
    value = fragments.get("current_stage")
    return "unknown" if value is None else shown(value.text)


def parent_of(fragments: Mapping[str, Fragment]) -> str | None:
    """Return a state's `parent_session`, None unless it is a string."""
    value = fragments.get("parent_session")
    return None if value is None else string(value.text)


def string(text: bytes) -> str | None:
    """Return the string in a valid JSON text, None for a text of another type."""
    return msgspec.json.decode(text, type=str) if text.startswith(b'"') else None


def shown(text: bytes) -> str:
    """Return the string in a valid JSON text; for another type the text itself on one line, cut short."""
    value = string(text)
    if value is None:
        value = re.sub("\n *", "", text[:SUMMARY_MAX_BYTES].decode(errors="ignore"))[:SHOWN_MAX_CHARS]
    return value


class _Scored(msgspec.Struct):
    score: float | None = None


_decode_scored = msgspec.json.Decoder(_Scored).decode  # built here: see `values.codec._Plain`


def _score(fragments: Mapping[str, Fragment], key: str) -> float | None:
    try:
        return _decode_scored(_short_text(fragments, key)).score
    except msgspec.DecodeError:  # not an object, or a score that is not a float
        return None


def _short_text(fragments: Mapping[str, Fragment], key: str) -> bytes:
    """Return the JSON text of a value, `null` for a value that is missing or larger than `SUMMARY_MAX_BYTES`."""
    value = fragments.get(key)
    return b"null" if value is None or len(value.text) > SUMMARY_MAX_BYTES else value.text
