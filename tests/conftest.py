from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from disks import SmallDisk, TurningDisk, built
from harness import Home

# How long an example takes is the machine's business: a busy one must not fail a promise.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """A home of its own, with everything in it killed at the end, and what is left looked through."""
    made = Home(tmp_path / "h")
    for marker in request.node.iter_markers("leaves"):
        made.left_damaged.update(marker.args)
    yield made
    try:
        made.close()
    finally:
        for process in made.processes:  # pytest shows it when the test failed
            print(process.popen.args, "ended with", process.popen.returncode, *process.stderr[-200:], sep="\n  ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], SmallDisk]]:
    """What mounts a `SmallDisk` with the options given."""
    disks: list[SmallDisk] = []

    def mount(options: str) -> SmallDisk:
        disks.append(SmallDisk(tmp_path / f"disk{len(disks)}", options))
        return disks[-1]

    yield mount
    for disk in disks:
        disk.close()


@pytest.fixture
def turning_disk(tmp_path: Path) -> Iterator[TurningDisk]:
    disk = TurningDisk(tmp_path)
    yield disk
    disk.close()


@pytest.fixture(scope="session")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The library that fails what is written, see `failing_disk.c`."""
    return str(built("failing_disk.c", tmp_path_factory.mktemp("built")))
