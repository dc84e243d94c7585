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
