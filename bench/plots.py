"""Draws the growth figures from the committed results into `docs/pictures/`: `make plots`.

A row with a growing number in its name (`checkpoint: 10,000 foreign files`) is a point of a curve; the rest of the name
is the curve's name. A curve is the median of the results, its band reaches from the lowest to the highest, and the
dashed line is its floor.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).with_name("results")
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
GROWTH = {
    "growth-foreign-files": ("files of others in the sessions folder", r"(?P<number>[\d,]+) foreign files"),
    "growth-sessions": ("live sessions", r"(?P<number>[\d,]+) live sessions?"),
    "growth-state-size": ("bytes of the state", r"(?<=^checkpoint)\W*(?P<number>[\d.]+) (?P<unit>[kM]B)( state)?"),
    "growth-journal": ("updates in the journal", r"(?P<number>[\d,]+) journaled updates|(?<=READY, )empty"),
}
BYTES = {"kB": 1e3, "MB": 1e6}
INCHES, DOTS_PER_INCH = (8, 4.5), 120
DECADES = 30  # highest to lowest value; beyond this the axis is logarithmic
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#ff7f0e")

Point = tuple[float, float | None]  # value and floor
Curve = Mapping[float, Sequence[Point]]  # by the growing number: one point for each result


def main() -> int:
    results = [json.loads(path.read_text())["rows"] for path in sorted(RESULTS.glob("????-??-??-*.json"))]
    if not results:
        print("plots: no result is kept; `bench/run.py --keep` does it", file=sys.stderr)
        return 1
    drawn = 0
    for name, (axis, pattern) in GROWTH.items():
        curves = {what: curve for what, curve in _curves(results, pattern).items() if len(curve) > 1}
        if curves:
            _drawn(curves, axis).savefig(PICTURES / f"{name}.png", dpi=DOTS_PER_INCH, metadata={"Software": None})
            drawn += 1
    print(f"plots: results={len(results)} pictures={drawn}")
    return 0


def _curves(results: Iterable[Sequence[Mapping[str, object]]], pattern: str) -> dict[tuple[str, str], Curve]:
    """Return the curves of one kind of growth, by name and unit."""
    curves: dict[tuple[str, str], dict[float, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for rows in results:
        for one in rows:
            name, value, unit, floor = (one[key] for key in ("name", "value", "unit", "floor"))
            if value is None or unit == "x" or (found := re.search(pattern, name)) is None:
                continue
            number = float((found["number"] or "0").replace(",", "")) * BYTES.get(found.groupdict().get("unit"), 1)
            what = re.sub(r"( beside)?\W+$", "", name[: found.start()]) + name[found.end() :]
            curves[what, unit][number].append((value, floor))
    return curves


def _drawn(curves: Mapping[tuple[str, str], Curve], axis: str) -> Figure:
    """Return the picture of these curves, with a panel for each unit."""
    figure = Figure(INCHES, layout="constrained")
    units = sorted({unit for _, unit in curves})
    for axes, unit in zip(figure.subplots(1, len(units), squeeze=False)[0], units, strict=True):
        of_unit = {what: curve for (what, its_unit), curve in curves.items() if its_unit == unit}
        for index, (what, curve) in enumerate(of_unit.items()):
            _line(axes, what, curve, COLOURS[index % len(COLOURS)])
        numbers = sorted(set().union(*of_unit.values()))
        axes.set_xscale("symlog", linthresh=next(number for number in numbers if number))  # as log, but with a 0
        axes.set_xticks(numbers, labels=map(_shown, numbers))
        axes.minorticks_off()
        values = [value for curve in of_unit.values() for points in curve.values() for value, _ in points]
        if max(values) > DECADES * min(values):
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.3 * max(values))  # so that flat curves look flat, and the legend has room
        axes.set_xlabel(axis)
        axes.set_ylabel(unit)
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def _line(axes: Axes, what: str, curve: Curve, colour: str) -> None:
    numbers = sorted(curve)
    values = [[value for value, _ in curve[number]] for number in numbers]
    axes.plot(numbers, list(map(median, values)), "o-", color=colour, label=what)
    axes.fill_between(numbers, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.15)
    floors = {number: [floor for _, floor in curve[number] if floor is not None] for number in numbers}
    held = [number for number in numbers if floors[number]]
    axes.plot(held, [median(floors[number]) for number in held], "--", color=colour)


def _shown(number: float) -> str:
    """Return a number as it stands in rows."""
    for unit, size in ((" M", 1e6), (" k", 1e3)):
        if number >= size:
            return f"{number / size:,g}{unit}"
    return f"{number:g}"


if __name__ == "__main__":
    sys.exit(main())
