"""Measures EDI's masks: publishing, the disk, and a resume. `mask_codecs.py` compares the codecs."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path

from measure import Row, Target, interleave, row
from parts import Place

COUNT, SIZE = 17, 1024  # EDI's own test run
WORDS = f"{COUNT} masks of {SIZE}x{SIZE}"
CALLER = Target("value", 15)
ON_DISK = Target("value", 64)
NEXT = Target("value", 2)


def masks(place: Place) -> list[Row]:
    """Measure 17 masks in one `set_state`, the same call again, a checkpoint, and a resume by another client."""
    if find_spec("numpy") is None:
        return [Row(f"{WORDS} in one set_state: in the caller", "ms", None, target=CALLER)]
    home = place.home("masks")
    saver = place.worker(home, "saver.py")
    saver.ask("hold_masks", count=COUNT, size=SIZE)
    new = partial(saver.ask, "publish_masks")
    known = partial(saver.ask, "publish_masks", changed=False)
    found = interleave({"new": new, "again": new, "known": known})
    folder = home.sessions / "attachments"
    saver.ask("checkpoint_masks")
    sizes = [_bytes(folder)]
    new()
    for _ in range(2):
        saver.ask("checkpoint_masks")
        sizes.append(_bytes(folder))
    document = max(path.stat().st_size for path in home.sessions.glob("masks_checkpoint_*.json"))
    seed = saver.ask("dump_mask", path=str(place.folder / "seed.json"))
    saver.ask("close")
    resumed = place.worker(home, "saver.py").ask("read_masks")
    return [
        row(f"{WORDS} in one set_state: in the caller", "ms", found["new"], again=found["again"], target=CALLER),
        row(f"{WORDS} published again, unchanged: in the caller", "ms", found["known"]),
        Row(f"{WORDS}: on disk", "kB", (sizes[1] - sizes[0]) / 1000, target=ON_DISK),
        Row(f"{WORDS}, the next checkpoint: attachments", "kB", (sizes[2] - sizes[1]) / 1000, target=NEXT),
        Row(f"{WORDS}: a checkpoint's document", "kB", document / 1000),
        Row(f"{WORDS}: resumed by another client, nothing decoded", "ms", resumed["resumed"]),
        Row(f"{WORDS}: read there", "ms", resumed["read"]),
        Row(f"{WORDS}, the seed's way, {COUNT} times the first: in the caller", "ms", COUNT * seed["ms"]),
        Row(f"{WORDS}, the seed's way, {COUNT} times the first: on disk", "kB", COUNT * seed["bytes"] / 1000),
    ]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))
