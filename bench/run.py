"""The figures of this project, each beside its floor and its peers. See README.md.

Prints a table, writes `results/latest.json`, and ends with one line of counts. Exit 0 whether or not targets are
reached, 1 when something could not be measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from figures import checkpoints, durability, publishing
from measure import ROUNDS, Row, summary, table, write
from parts import Neighbours, Place, file_system

RESULTS = Path(__file__).with_name("results") / "latest.json"

QUICK: dict[str, Callable[[Place], list[Row]]] = {
    "publish": publishing.small,
    "durable": durability.updates,
    "checkpoint": checkpoints.large,
}
FIGURES: dict[str, Callable[[Place], list[Row]]] = {
    **QUICK,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="the main figures alone, under a minute")
    parser.add_argument("--below", type=Path, default=Path("/var/tmp"), help="a folder on the disk to measure")
    arguments = parser.parse_args()
    if unknown := set(arguments.figures) - FIGURES.keys():
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    start_s, neighbours = time.monotonic(), Neighbours()
    rows: list[Row] = []
    try:
        with Place(arguments.below) as place:
            disk = file_system(place.folder)
            for name in arguments.figures or (QUICK if arguments.quick else FIGURES):
                print(f"{time.monotonic() - start_s:4.0f} s  measuring: {name}", file=sys.stderr)
                rows += FIGURES[name](place)
    except (OSError, RuntimeError) as error:
        print(f"bench: could not measure: {error}", file=sys.stderr)
        return 1
    if not arguments.figures:
        write(rows, RESULTS)
    print(table(rows))
    print(
        f"\nmedians of {ROUNDS} interleaved rounds in {time.monotonic() - start_s:.0f} s: {disk},"
        f" {os.cpu_count()} processors, Python {sys.version.split()[0]}"
    )
    print(neighbours.remark())
    if disk in ("tmpfs", "ramfs"):
        print("this is memory: fsync costs nothing here, choose a disk by --below")
    print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
