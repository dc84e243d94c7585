"""Formats numbers for people, from their JSON texts."""

from __future__ import annotations

from math import isfinite
from typing import Final

_SHORT: Final = 12  # characters; a longer number is rounded to six digits
_EXACT: Final = 18  # characters of an integer whose differences are exact


def is_number(text: bytes) -> bool:
    """Return whether a compact JSON text is a number."""
    return text[0] in b"-0123456789"


def number(text: bytes) -> str:
    """Return the text of a number, rounded if it is long."""
    value = float(text)
    return f"{value:.6g}" if len(text) > _SHORT and isfinite(value) else text.decode()


def step(before: bytes, after: bytes) -> str:
    """Return the signed difference of two numbers (`+0.25`); nothing if they are equal or no float holds them."""
    if max(len(before), len(after)) <= _EXACT and before.lstrip(b"-").isdigit() and after.lstrip(b"-").isdigit():
        return f"{int(after) - int(before):+d}"
    by = float(after) - float(before)
    return f"{by:+.6g}" if by and isfinite(by) else ""
