"""The machine of a measurement: its facts, its load by other processes, and the speed of its disk over time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

QUIET_SHARE = 0.1  # of the processors, used by other processes; more affects the figures
STEADY = 1.5  # the slowest disk probe to the fastest; more affects the figures, too
PROBES = 40
PROBE_BYTES = 4096
PACKAGES = ("edi-checkpoint", "pyzmq", "msgspec", "apsw", "redis", "langgraph-checkpoint-sqlite")


def facts(folder: Path) -> dict[str, object]:
    """Return the facts of this machine for a result file."""
    return {
        "commit": _said("git", "rev-parse", "--short", "HEAD"),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": file_system(folder),
        "python": sys.version.split()[0],
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "redis_server": _said("redis-server", "--version"),
    }


def _said(*command: str) -> str | None:
    """Return the output of a system program; None if it is missing or prints nothing."""
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def file_system(folder: Path) -> str:
    """Return the type of the file system of `folder`, from Linux."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    found = [line.split()[1:3] for line in mounts]
    holding = [(point, kind) for point, kind in found if folder.resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else "unknown"


class Disk:
    """A small file that is appended and synced between the figures, to notice a disk that becomes slower."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "probe"
        self.probes_ms: list[float] = []

    def probe(self) -> None:
        """Note the median of some appends of 4 kB, each with `fdatasync`."""
        took_ms = []
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for _ in range(PROBES):
                start_s = time.perf_counter()
                os.write(fd, bytes(PROBE_BYTES))
                os.fdatasync(fd)
                took_ms.append((time.perf_counter() - start_s) * 1000)
        finally:
            os.close(fd)
        self.probes_ms.append(round(median(took_ms), 3))

    def remark(self) -> str:
        """Return a sentence for people about all probes so far."""
        fastest, slowest = min(self.probes_ms), max(self.probes_ms)
        advice = "; compare within a figure only" if slowest > STEADY * fastest else ""
        return (
            f"4 kB to the disk took {self.probes_ms[0]:.2g} ms at first,"
            f" {fastest:.2g} to {slowest:.2g} ms between the figures{advice}"
        )


class Neighbours:
    """Measures how much of the machine other processes use from now on."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._others_s = self._used_by_others_s()

    @staticmethod
    def _used_by_others_s() -> float | None:
        """Return the processor time of all other processes, without ended children of this one; None if unknown."""
        try:
            line = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        except OSError:
            return None
        user, nice, system, _idle, _waiting, irq, softirq, stolen = (int(text) for text in line[1:9])
        busy_s = (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")
        return busy_s - sum(os.times()[:4])

    def share(self) -> float | None:
        """Return the share of all processors; None if unknown. Call it when all children have ended."""
        now_s = self._used_by_others_s()
        if now_s is None or self._others_s is None:
            return None
        return round(max(0.0, now_s - self._others_s) / (time.monotonic() - self._start_s) / (os.cpu_count() or 1), 3)

    def remark(self) -> str:
        """Return a sentence for people; call it when all children have ended."""
        share = self.share()
        if share is None:
            return f"load {os.getloadavg()[0]:.1f}"
        advice = "; read the ratios, not the values, and measure again" if share > QUIET_SHARE else ""
        return f"others used {100 * share:.0f}% of the processors meanwhile{advice}"
