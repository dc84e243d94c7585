"""Masks as EDI holds them: what 17 of them cost their publisher, what they take on disk, and the codecs weighed.

    .venv/bin/python bench/masks.py            all; some 30 s, of which the seed's way takes most

The seed's way is `json.dump(state, indent=2)` with the arrays as lists, once, in the same run. (`default=list`, as it
is often written, stops at numpy's scalars: `default=np.ndarray.tolist` is what it means.)
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import os
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from machine import Neighbours
from measure import ROUNDS, Row, Target, interleave, row, summary, table
from parts import Home, Place
from PIL import Image

from edi_checkpoint import StateManager, arrays, connect
from edi_checkpoint.recent import Recent

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "publishers"))
from masks import EntityMask, entities

COUNT, SIZE = 17, 1024  # EDI's own test run
CALLER = Target("value", 15)
ON_DISK = Target("value", 64)
NEXT = Target("value", 2)

Array = np.ndarray  # of any shape


def publish(home: Home, made: list[EntityMask]) -> list[Row]:
    os.environ.update({name: text for name, text in home.environment.items() if name.startswith("EDI_CHECKPOINT_")})
    manager = StateManager("masks")

    def call() -> float:
        start_s = time.perf_counter()
        manager.set_state("entities", made)
        return (time.perf_counter() - start_s) * 1000

    turns = itertools.count()

    def new() -> float:
        turn = next(turns)
        for entity in made:
            entity.mask[0, turn] ^= 1  # another picture each time, so that nothing is known
        return call()

    new(), call()  # numpy is loaded by the first
    found = interleave({"new": new, "again": call, "new twice": new, "known": call}, ROUNDS)
    manager.checkpoint()
    folder = home.sessions / "attachments"
    before = _bytes(folder)
    new(), manager.checkpoint()
    first = _bytes(folder) - before
    manager.set_state("n", 1)
    manager.checkpoint()
    document = max(path.stat().st_size for path in home.sessions.glob("masks_checkpoint_*.json"))
    words = f"{COUNT} masks of {SIZE}x{SIZE} in one set_state"
    rows = [
        row(f"{words}: in the caller", "ms", found["new"], again=found["new twice"], target=CALLER),
        row(f"{words}: published again, unchanged", "ms", found["known"]),
        Row(f"{words}: on disk", "kB", first / 1000, target=ON_DISK),
        Row("... the next checkpoint: attachments", "kB", (_bytes(folder) - before - first) / 1000, target=NEXT),
        Row("... its document, with all that is not a mask", "kB", document / 1000),
    ]
    manager._session.close()
    return [*rows, *_reading()]


def _reading() -> list[Row]:
    client = connect(autostart=False)
    start_s = time.perf_counter()
    session = client.session("masks")
    attached_ms = (time.perf_counter() - start_s) * 1000
    start_s = time.perf_counter()
    assert len(session["entities"]) == COUNT
    read_ms = (time.perf_counter() - start_s) * 1000
    client.close()
    return [
        Row("... resumed in another client, nothing decoded", "ms", attached_ms),
        Row("... its masks read", "ms", read_ms),
    ]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def seeds_way(folder: Path, made: list[EntityMask]) -> list[Row]:
    path = folder / "seed.json"
    start_s = time.perf_counter()
    with path.open("w") as file:
        json.dump(
            {"entities": [dataclasses.asdict(entity) for entity in made]}, file, indent=2, default=np.ndarray.tolist
        )
    took_s = time.perf_counter() - start_s
    size = path.stat().st_size
    path.unlink()
    return [
        Row("the seed's way, json.dump(indent=2), arrays as lists", "ms", took_s * 1000),
        Row("... on disk", "kB", size / 1000),
    ]


def codecs(made: list[EntityMask]) -> list[Row]:
    """Encode the masks in the ways that were weighed (docs/architecture.md)."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--below", type=Path, default=Path("/var/tmp"), help="a folder on the disk to measure")
    arguments = parser.parse_args()
    neighbours = Neighbours()
    made = entities(COUNT, SIZE)
    with Place(arguments.below) as place:
        rows = publish(place.home("masks"), made) + codecs(made) + seeds_way(place.folder, made)
    print(table(rows))
    print(f"\nmedians of {ROUNDS} interleaved rounds; {neighbours.remark()}")
    print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
