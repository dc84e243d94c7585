from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home of its own, with everything in it killed at the end."""
    made = Home(tmp_path / "h")
    yield made
    made.close()
    for process in made.processes:  # pytest shows it when the test failed
        print(process.popen.args, "ended with", process.popen.returncode, *process.stderr[-200:], sep="\n  ")
