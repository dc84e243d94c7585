"""The tables of `docs/faults.md` name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`")


def rows() -> list[str]:
    tables = (ROOT / "docs" / "faults.md").read_text().split("\n## How the crash tests judge\n")[0]
    return [line for line in tables.splitlines() if line.startswith("| ") and not line.startswith("| fault |")]


def test_each_fault_names_what_happens_and_tests_that_are_there() -> None:
    found = rows()
    assert len(found) > 50
    for row in found:
        fault, happens, shown_by = (cell.strip() for cell in row.strip("|").split("|"))
        assert fault, row
        assert happens, row
        named = NAMED.findall(shown_by)
        assert named, f"no test is named for {fault}"
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), (file, test)


def test_each_row_of_tests_in_faults_is_in_the_table() -> None:
    named = set(NAMED.findall("\n".join(rows())))
    for path in sorted((ROOT / "tests" / "faults").glob("test_*.py")):
        assert any(file == f"faults/{path.name}" for file, _ in named), path.name
