"""Measures figures in interleaved rounds, each with a floor, and decides with regard to noise.

A figure is measured in several rounds. Each round runs every case once, ours twice: `ours` and `again` measure the same
(an A/A pair), and their difference is the noise. Values are medians over the rounds. A ratio is the median of the
ratios of the rounds, so that a machine that is slow for a while affects both sides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from statistics import median
from typing import Literal, TypeVar

ROUNDS = 5
Verdict = Literal["", "reached", "missed", "undecided", "skipped"]
T = TypeVar("T")


def interleave(cases: Mapping[str, Callable[[], T]], turns: int = ROUNDS) -> dict[str, list[T]]:
    """Run all cases `turns` times, each time in another order; return their results by name."""
    results: dict[str, list[T]] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(cases[name]())
    return results


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the quantile `share` of the samples (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def p50(samples: Sequence[float]) -> float:
    return quantile(samples, 0.5)


def p99(samples: Sequence[float]) -> float:
    return quantile(samples, 0.99)


def p999(samples: Sequence[float]) -> float:
    return quantile(samples, 0.999)


@dataclass(frozen=True, slots=True)
class Target:
    """A limit on the value or on the ratio to the floor: at most, or at least."""

    of: Literal["value", "ratio"]
    limit: float
    at_least: bool = False

    def text(self, unit: str) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g} {unit if self.of == 'value' else 'x floor'}"

    def shortfall(self, value: float) -> float:
        """Return by how much `value` misses the limit; 0 or less if it is within the limit."""
        return self.limit - value if self.at_least else value - self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `noise` has the unit of the target's limit; without a target, of the value."""

    name: str
    unit: str
    value: float | None
    floor: float | None = None
    ratio: float | None = None
    noise: float | None = None
    target: Target | None = None

    @property
    def out_of_reach(self) -> bool:
        """Whether the floor itself misses the target on this machine now."""
        by_value = self.target is not None and self.target.of == "value"
        return by_value and self.floor is not None and self.target.shortfall(self.floor) > 0

    @property
    def verdict(self) -> Verdict:
        if self.value is None:
            return "skipped"
        if self.target is None:
            return ""
        measured = self.value if self.target.of == "value" else self.ratio
        if measured is None:
            return "skipped"
        short = self.target.shortfall(measured)
        if short <= 0:
            return "reached"
        return "undecided" if short < (self.noise or 0.0) else "missed"

    def as_json(self) -> dict[str, object]:
        """Return the row of `latest.json`; `reached` is null if the figure has no verdict."""
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "floor": _rounded(self.floor),
            "ratio": _rounded(self.ratio),
            "target": self.target and self.target.text(self.unit),
            "reached": {"reached": True, "missed": False}.get(self.verdict),
        }


def row(
    name: str,
    unit: str,
    ours: Sequence[float],
    *,
    again: Sequence[float] = (),
    floor: Sequence[float] = (),
    target: Target | None = None,
) -> Row:
    """Return the figure of some rounds, from one number per round of ours, of its twin and of the floor."""
    ratios = [one / least for one, least in zip(ours, floor, strict=bool(floor))] if floor else []
    twins = [one / least for one, least in zip(again, floor, strict=bool(floor))] if floor and again else []
    limits_ratio = target is not None and target.of == "ratio"
    return Row(
        name,
        unit,
        median(ours),
        floor=median(floor) if floor else None,
        ratio=median(ratios) if ratios else None,
        noise=_noise(ratios, twins) if limits_ratio else _noise(ours, again),
        target=target,
    )


def pooled(
    name: str,
    unit: str,
    share: Callable[[Sequence[float]], float],
    series: Mapping[str, Sequence[Sequence[float]]],
    target: Target | None = None,
) -> Row:
    """Return the figure of a high quantile, which needs the samples of all rounds together."""
    together = {case: [share(list(chain.from_iterable(rounds)))] for case, rounds in series.items()}
    return row(name, unit, target=target, **together)


def beside(
    name: str, ours: Sequence[float], again: Sequence[float], peer: Sequence[float], target: Target | None = None
) -> Row:
    """Return the ratio of our figure to a peer's, round by round; without the peer, a skipped row."""
    if not peer:
        return Row(name, "x", None, target=target)
    shares = [[one / other for one, other in zip(series, peer, strict=True)] for series in (ours, again)]
    return row(name, "x", shares[0], again=shares[1], target=target)


def _noise(ours: Sequence[float], again: Sequence[float]) -> float | None:
    """Return the typical difference in a round between two measurements of the same thing.

    The difference of the two medians would be near 0 by chance too often, with five rounds.
    """
    return median(abs(one - other) for one, other in zip(ours, again, strict=True)) if again else None


def table(rows: Sequence[Row]) -> str:
    """Return the rows for people."""
    head = ("figure", "value", "unit", "floor", "x floor", "A/A", "target", "")
    lines = [head]
    for one in rows:
        relative = one.ratio if one.target and one.target.of == "ratio" else one.value
        noise = f"{100 * one.noise / relative:.0f}%" if one.noise is not None and relative else ""
        lines.append(
            (
                one.name,
                _shown(one.value),
                one.unit,
                _shown(one.floor),
                _shown(one.ratio),
                noise,
                one.target.text(one.unit) if one.target else "",
                one.verdict + (", as by the floor" if one.verdict == "missed" and one.out_of_reach else ""),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    right = {1, 3, 4, 5}
    return "\n".join(
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def summary(rows: Sequence[Row]) -> str:
    """Return the closing line; skipped figures do not count among the targets."""
    verdicts = [one.verdict for one in rows if one.target is not None]
    skipped = verdicts.count("skipped")
    return (
        f"bench: targets={len(verdicts) - skipped} reached={verdicts.count('reached')}"
        f" undecided={verdicts.count('undecided')} skipped={skipped}"
    )


def write(rows: Sequence[Row], path: Path) -> None:
    """Write `latest.json`: an array with one row on each line."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{_lines(rows)}\n")


def keep(rows: Sequence[Row], machine: Mapping[str, object], folder: Path) -> Path:
    """Write a result for the repository as `<date>-<n>.json` of today; return its path."""
    folder.mkdir(exist_ok=True)
    today = datetime.now(UTC).date()
    number = next(number for number in count(1) if not (folder / f"{today}-{number}.json").exists())
    path = folder / f"{today}-{number}.json"
    about = json.dumps({"date": str(today), **machine}, indent=2)
    path.write_text(f'{{"machine": {about},\n"rows": {_lines(rows)}}}\n')
    return path


def _lines(rows: Sequence[Row]) -> str:
    lines = ",\n".join("  " + json.dumps(one.as_json()) for one in rows)
    return f"[\n{lines}\n]"


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")


def _shown(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
