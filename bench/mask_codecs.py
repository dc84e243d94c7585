"""Compares codecs for masks as EDI has them (docs/decisions.md). `run.py masks` measures masks as a whole.

.venv/bin/python bench/mask_codecs.py
"""

from __future__ import annotations

import io
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from machine import Neighbours
from measure import ROUNDS, Row, interleave, table
from PIL import Image

from edi_checkpoint.values import arrays
from edi_checkpoint.values.cache import Recent

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "publishers"))
from masks import EntityMask, entities

COUNT, SIZE = 17, 1024  # EDI's own test run

Array = np.ndarray  # of any shape


def codecs(made: list[EntityMask]) -> list[Row]:
    """Encode the masks with each codec."""
    masks = [entity.mask for entity in made]

    def deflated(level: int, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> Callable[[Array], bytes]:
        def encode(mask: Array) -> bytes:
            deflate = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
            return deflate.compress(np.packbits(mask, axis=1).data) + deflate.flush()

        return encode

    def pillow(level: int) -> Callable[[Array], bytes]:
        def encode(mask: Array) -> bytes:
            file = io.BytesIO()
            Image.fromarray(mask.view(np.bool_)).save(file, "png", compress_level=level)
            return file.getvalue()

        return encode

    ways: dict[str, Callable[[Array], bytes]] = {
        "ours, with digests and area": lambda mask: arrays.encode(mask, Recent()).attachment.data,
        "packbits + zlib, runs": deflated(1, zlib.Z_RLE),
        **{f"packbits + zlib {level}": deflated(level) for level in (1, 3, 6)},
        **{f"Pillow's PNG {level}": pillow(level) for level in (1, 3, 6)},
    }
    try:
        import zstandard
    except ImportError:
        print("zstandard is not installed: left out", file=sys.stderr)
    else:
        zstd = zstandard.ZstdCompressor(3)
        ways["packbits + zstd 3 (no PNG)"] = lambda mask: zstd.compress(np.packbits(mask, axis=1).tobytes())

    def timed(encode: Callable[[Array], bytes]) -> tuple[float, int]:
        start_s = time.perf_counter()
        size = sum(len(encode(mask)) for mask in masks)
        return (time.perf_counter() - start_s) * 1000, size

    found = interleave({name: lambda encode=encode: timed(encode) for name, encode in ways.items()}, ROUNDS)
    rows = []
    for name, rounds in found.items():
        rows.append(Row(f"encode {COUNT}: {name}", "ms", median(took for took, _ in rounds)))
        rows.append(Row("... size", "kB", rounds[0][1] / 1000))
    return rows


def main() -> int:
    neighbours = Neighbours()
    print(table(codecs(entities(COUNT, SIZE))))
    print(f"\nmedians of {ROUNDS} interleaved rounds; {neighbours.remark()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
