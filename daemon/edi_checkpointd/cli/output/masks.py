"""How a mask changed: its area, and its overlap with the old one (intersection over union: 1 the same, 0 nothing)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Any, Final

from edi_checkpoint.errors import ArraysMissing, AttachmentDamaged, AttachmentMissing
from edi_checkpoint.values.arrays import decode
from edi_checkpoint.wire.references import Reference

OVERLAP_MAX_PIXELS: Final = 64 << 20  # both masks are in memory, a byte per pixel; for larger ones the area is enough

Read = Callable[[Reference], bytes]


def change(before: Reference, after: Reference, reads: tuple[Read, Read]) -> str:
    """Return in words how a mask changed; an empty text if one of the two is no mask. `reads` loads each side.

    The overlap is left out if content is missing or damaged, if sizes differ, or without numpy.
    """
    if before.area is None or after.area is None:
        return ""
    words = f"area {before.area:,} -> {after.area:,} px"
    if before.area:
        words += f" ({100 * (after.area - before.area) / before.area:+.1f} %)"
    if before.shape == after.shape and prod(after.shape) <= OVERLAP_MAX_PIXELS:
        with suppress(ArraysMissing, AttachmentDamaged, AttachmentMissing, ValueError):
            was, now = (decode(one, read(one)) for one, read in zip((before, after), reads, strict=True))
            words += f", overlap {_overlap(was, now):.2f}"
    return words


def _overlap(before: Any, after: Any) -> float:
    one, other = before != 0, after != 0
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0
