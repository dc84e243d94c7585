"""What `make bench` tells: the closing line, `latest.json` and the verdicts, in the form that others read."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCH = Path(__file__).parents[2] / "bench"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


measure = loaded("measure")
AT_MOST, AT_LEAST = measure.Target("value", 40), measure.Target("ratio", 0.5, at_least=True)
ROWS = [
    measure.row("reached", "us", [30, 31, 32], again=[30, 30, 30], floor=[10, 10, 10], target=AT_MOST),
    measure.row("undecided", "us", [41, 41, 41], again=[43, 39, 43], target=AT_MOST),
    measure.row("missed", "us", [60, 60, 60], again=[61, 60, 60], target=AT_MOST),
    measure.row("a ratio", "1/s", [4, 4, 4], again=[4, 4, 4], floor=[10, 10, 10], target=AT_LEAST),
    measure.beside("skipped", [1, 1, 1], [1, 1, 1], (), AT_MOST),
    measure.row("told", "ms", [1.23456, 1, 2]),
]


def test_the_closing_line_counts_targets_without_those_that_were_skipped() -> None:
    assert measure.summary(ROWS) == "bench: targets=4 reached=1 undecided=1 skipped=1"
    assert measure.summary([]) == "bench: targets=0 reached=0 undecided=0 skipped=0"


def test_latest_json_is_an_array_of_rows_with_their_verdicts(tmp_path: Path) -> None:
    path = tmp_path / "results" / "latest.json"
    measure.write(ROWS, path)
    rows = json.loads(path.read_text())
    assert {tuple(one) for one in rows} == {("name", "value", "unit", "floor", "ratio", "target", "reached")}
    assert [one["reached"] for one in rows] == [True, None, False, False, None, None]
    assert rows[0] == {
        "name": "reached", "value": 31, "unit": "us", "floor": 10, "ratio": 3.1, "target": "<= 40 us", "reached": True,
    }  # fmt: skip
    assert rows[3]["target"] == ">= 0.5 x floor"
    assert (rows[4]["value"], rows[5]["target"]) == (None, None)


def test_a_kept_result_says_what_machine_gave_it_and_takes_the_place_of_none(tmp_path: Path) -> None:
    kept = [measure.keep(ROWS, {"processors": 2}, tmp_path) for _ in range(2)]
    assert [re.fullmatch(r"\d{4}-\d\d-\d\d-(\d)\.json", path.name)[1] for path in kept] == ["1", "2"]
    written = json.loads(kept[0].read_text())
    assert written["machine"]["processors"] == 2
    assert [one["name"] for one in written["rows"]] == [one.name for one in ROWS]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([0.5, 0.99, 0.999]))
def test_a_quantile_is_a_sample_that_so_many_are_not_above(samples: list[float], share: float) -> None:
    found = measure.quantile(samples, share)
    assert found in samples
    assert sum(one <= found for one in samples) >= share * len(samples)
    below = [one for one in samples if one < found]
    assert len(below) < share * len(samples)


def test_a_high_quantile_is_told_by_all_rounds_together() -> None:
    rounds = [[1.0] * 600 for _ in range(5)]
    rounds[2][:3] = [900.0, 800.0, 700.0]
    series = {"ours": rounds, "again": rounds, "floor": rounds}
    assert measure.pooled("p99.9", "us", measure.p999, series).value == pytest.approx(1.0)
    rounds[4][0] = 600.0
    assert measure.pooled("p99.9", "us", measure.p999, series).value == pytest.approx(600.0)
