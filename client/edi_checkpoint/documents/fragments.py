"""Fragments: a state's values kept as the very bytes that stand in a checkpoint file, and what is read off them.

A checkpoint is a splice of fragments, so a value is laid out and digested when it arrives, not at each checkpoint.
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
SUMMARY_MAX_BYTES: Final = 64 << 10  # a larger value is no status, path, prompt or score

_TOO_DEEP: Final = b"\n" + b" " * (2 * (DEPTH_MAX + 1))


class Fragment:
    """A state's value as it stands under `state_info` in a checkpoint: indented by two, nested four deeper.

    Never changed after it was made, but for the digest, which is computed when it is first asked for.
    """

    __slots__ = ("_digest", "text")

    def __init__(self, text: bytes) -> None:
        self.text: Final = text
        self._digest: str | None = None

    @property
    def digest(self) -> str:
        """The sha256 of the text, in hex."""
        if self._digest is None:
            self._digest = sha256(self.text).hexdigest()  # two threads may both do this, with the same result
        return self._digest

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Fragment) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)


def fragment(value: bytes) -> Fragment:
    """Return the fragment of one JSON value, compact or not; numbers and strings keep their text.

    Raises `ProtocolError` naming the fault: no JSON, no UTF-8, or something nested in more than `DEPTH_MAX` others.
    """
    try:
        text = msgspec.json.format(value, indent=2)
        if not text.isascii():
            text.decode()  # msgspec checks the syntax, not what stands inside a string
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
    """Return what a session list shows of a state: status, image, prompt, score; None where it has no such thing."""
    status, image, prompt = (string(_short_text(fragments, key)) for key in ("status", "image_path", "naive_prompt"))
    score = _score(fragments, "validation")
    return {
        "status": status,
        "image": image and image.replace("\\", "/").rpartition("/")[2],
        "prompt": prompt and prompt[:SHOWN_MAX_CHARS],
        "score": _score(fragments, "validation_results") if score is None else score,
    }


def stage_of(fragments: Mapping[str, Fragment]) -> str:
    """Return a state's `current_stage`: a string as it is, other values as short JSON text, `unknown` without one."""
    value = fragments.get("current_stage")
    return "unknown" if value is None else shown(value.text)


def parent_of(fragments: Mapping[str, Fragment]) -> str | None:
    """Return a state's `parent_session` if it is a string."""
    value = fragments.get("parent_session")
    return None if value is None else string(value.text)


def string(text: bytes) -> str | None:
    """Return the string that the valid JSON `text` is, or None if it is something else."""
    return msgspec.json.decode(text, type=str) if text.startswith(b'"') else None


def shown(text: bytes) -> str:
    """Return the string that the valid JSON `text` is; for something else the text on one line, cut short."""
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
    except msgspec.DecodeError:  # no object, or its score no number that a float can hold
        return None


def _short_text(fragments: Mapping[str, Fragment], key: str) -> bytes:
    """Return the JSON text of a value, `null` for a value that is missing or larger than `SUMMARY_MAX_BYTES`."""
    value = fragments.get(key)
    return b"null" if value is None or len(value.text) > SUMMARY_MAX_BYTES else value.text
