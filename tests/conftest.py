from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from disks import SmallDisk, TurningDisk, built
from harness import Home

# No deadlines: on a busy machine an example may take long.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """A home for one test. At the end all its processes are killed and its files are checked."""
    made = Home(tmp_path / "h")
    for marker in request.node.iter_markers("leaves"):
        made.left_damaged.update(marker.args)
    yield made
    try:
        made.close()
    finally:
        for process in made.processes:  # pytest shows it if the test failed
            print(process.popen.args, "ended with", process.popen.returncode, *process.stderr[-200:], sep="\n  ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], SmallDisk]]:
    """A function that mounts a `SmallDisk` with the given options."""
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
    """The library that makes writes fail; see `failing_disk.c`."""
    return str(built("failing_disk.c", tmp_path_factory.mktemp("built")))
