"""Numbers as people read them, from their JSON texts."""

from __future__ import annotations

from math import isfinite
from typing import Final

_SHORT: Final = 12  # characters; a longer one is rounded to six digits
_EXACT: Final = 18  # digits of a whole number whose steps are told to the last


def is_number(text: bytes) -> bool:
    """Return whether a compact JSON text is a number."""
    return text[0] in b"-0123456789"


def number(text: bytes) -> str:
    """Return a number, rounded if it is long."""
    value = float(text)
    return f"{value:.6g}" if len(text) > _SHORT and isfinite(value) else text.decode()


def step(before: bytes, after: bytes) -> str:
    """Return by how much a number rose (`+0.25`) or fell; nothing if it is the same, or too large to say."""
    if max(len(before), len(after)) <= _EXACT and before.lstrip(b"-").isdigit() and after.lstrip(b"-").isdigit():
        return f"{int(after) - int(before):+d}"
    by = float(after) - float(before)
    return f"{by:+.6g}" if by and isfinite(by) else ""
