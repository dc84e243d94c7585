"""Measures the figures of this project, with their floors and peers. See README.md.

It prints a table, writes `results/latest.json`, and ends with one line of counts. It exits with 1 if something could
not be measured, else with 0, also if targets are missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from figures import checkpoints, durability, growth, hour, living, masks, overload, publishing
from machine import Disk, Neighbours, facts
from measure import ROUNDS, Row, keep, summary, table, write
from parts import Place

RESULTS = Path(__file__).with_name("results")

QUICK: dict[str, Callable[[Place], list[Row]]] = {
    "publish": publishing.small,
    "durable-few": durability.few,
    "checkpoint-5-mb": checkpoints.large,
}
FIGURES: dict[str, Callable[[Place], list[Row]]] = {
    "publish": publishing.small,
    "publish-ways": publishing.ways,
    "publish-large": publishing.large,
    "durable": durability.updates,
    "slow-disk": overload.slow_disk,
    "overload": overload.flood,
    "checkpoint": checkpoints.sizes,
    "acknowledgement-beside": checkpoints.acknowledgements,
    "foreign-files": checkpoints.growth,
    "hour": hour.typical,
    "masks": masks.masks,
    "start": living.starts,
    "death": living.death,
    "resume": living.resume,
    "memory": living.memory,
    "idle": living.idle,
    "commands": living.commands,
    "sessions": growth.sessions,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {**FIGURES, **QUICK}
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(known)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="the main figures alone, under a minute")
    parser.add_argument(
        "--keep", action="store_true", help="write the results, and what machine gave them, to be committed"
    )
    parser.add_argument("--below", type=Path, default=Path("/var/tmp"), help="a folder on the disk to measure")
    arguments = parser.parse_args()
    if unknown := set(arguments.figures) - known.keys():
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    if arguments.keep and (arguments.figures or arguments.quick):
        parser.error("--keep: a kept result has all figures")
    start_s, neighbours = time.monotonic(), Neighbours()
    rows: list[Row] = []
    try:
        with Place(arguments.below) as place:
            machine, disk = facts(place.folder), Disk(place.folder)
            disk.probe()
            for name in arguments.figures or (QUICK if arguments.quick else FIGURES):
                print(f"{time.monotonic() - start_s:4.0f} s  measuring: {name}", file=sys.stderr)
                with Place(place.folder) as its_place:
                    rows += known[name](its_place)
                disk.probe()
    except (OSError, RuntimeError) as error:
        print(f"bench: could not measure: {error}", file=sys.stderr)
        return 1
    took_s = time.monotonic() - start_s
    if not arguments.figures:
        write(rows, RESULTS / "latest.json")
    print(table(rows))
    print(
        f"\nmedians of {ROUNDS} interleaved rounds in {took_s:.0f} s: {machine['file_system']},"
        f" {machine['processors']} processors, Python {machine['python']}"
    )
    print(disk.remark())
    print(neighbours.remark())
    if machine["file_system"] in ("tmpfs", "ramfs"):
        print("this is memory: fsync costs nothing here, choose a disk by --below")
    if arguments.keep:
        run = {"took_s": round(took_s), "others_share": neighbours.share(), "disk_probes_ms": disk.probes_ms}
        print(f"kept as {keep(rows, {**machine, **run}, RESULTS)}")
    print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
