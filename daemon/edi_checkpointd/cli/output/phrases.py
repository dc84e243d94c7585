"""Describe attachments in a few words, which replace references in output for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

import msgspec

from edi_checkpoint.wire.references import MARK, Reference
from edi_checkpointd.cli.output.screen import size

_REFERENCE = re.compile(rb'\{\s*"\$attachment":\s*(\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\})\s*\}')


def phrase(reference: Reference) -> str:
    """Return a description of an attachment; the size of a picture has the width first."""
    shape, kind = reference.shape, f"array of {reference.dtype}"
    if reference.dtype is None:
        return f"bytes, {size(reference.bytes)}"
    if reference.area is not None:
        share = 100 * reference.area / max(1, prod(shape))
        return f"mask {_times(shape[::-1])}, {share:.1f} % set, {size(reference.bytes)}"
    if reference.type == "png":
        shape, kind = shape[1::-1], "picture"
    return f"{kind} {_times(shape)}, {size(reference.bytes)}"


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def in_words(text: bytes) -> bytes:
    """Return a JSON text with each reference replaced by its description: `<mask 64x64, 1.6 % set, 107 B>`."""
    return _REFERENCE.sub(_phrase_of, text) if MARK in text else text


def _phrase_of(found: re.Match[bytes]) -> bytes:
    try:
        return f"<{phrase(msgspec.json.decode(found[1], type=Reference))}>".encode()
    except msgspec.MsgspecError:
        return found[0]
