"""`make soak`: ten minutes of eight publishers, random kills, and a small disk that fills and empties.

In the first half the daemon is killed, too. In the second half the memory and the descriptors of the daemon and of one
publisher must not grow. `SECONDS=<n>` shortens the run, `SEED=<n>` repeats the same random choices.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from crash.verdict import Verdict, history, judge_files, newest_documents
from disks import SmallDisk
from harness import Home, Process, eventually

from edi_checkpoint.system.paths import locate

SECONDS = int(os.environ.get("SECONDS") or 600)
PUBLISHERS = 8
PAUSE_S = 0.02
DISK = "size=128m"
FLAGS = (
    "--transition-keys", "attempt", "--autosave-every-s", "1", "--checkpoint-every-s", "5", "--keep-per-session", "3",
    "--history-max-bytes", str(4 << 20),
)  # fmt: skip
PUBLISHER_DIES_S, DAEMON_DIES_S, DISK_FILLS_S, DISK_IS_FULL_S = (0.5, 2.0), (5.0, 20.0), (20.0, 40.0), (2.0, 6.0)
SAMPLE_S = 1.0
STEADY_PUBLISHER = Path(__file__).parents[1] / "publishers" / "steady.py"
RSS_MIB, FDS = 8.0, 8  # allowed growth: the allocator's, and short-lived descriptors


class Soak:
    """A home on a small disk, its processes, and their measured memory and descriptors."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.disk = SmallDisk(folder / "disk", DISK)
        self.home = Home(folder / "disk" / "h")
        self.home.environment["EDI_CHECKPOINT_RUNTIME_DIR"] = str(folder / "run")
        self.paths = locate(self.home.environment)
        self.verdict = Verdict()
        self.kills = 0
        self.daemon = self._daemon()
        self.publishers: dict[str, Process] = {}
        self.safe: dict[str, int] = {}  # by session: updates that must not be lost
        self.samples: dict[str, list[tuple[float, int]]] = {"daemon": [], "publisher": []}  # MiB, descriptors

    def _daemon(self) -> Process:
        return self.home.start([sys.executable, "-m", "edi_checkpointd", "run", *FLAGS], lines_from="stderr")

    def run(self) -> None:
        """Do each event at its times, until the end."""
        begun_s = time.monotonic()
        due = {"publisher": 0.0, "daemon": 5.0, "fill": 10.0, "empty": float("inf"), "sample": 0.0, "tell": 10.0}
        for number in range(PUBLISHERS):
            self._begin(f"s{number}")
        while (now_s := time.monotonic() - begun_s) < SECONDS:
            later = now_s > SECONDS / 2
            for what in [what for what, at_s in due.items() if at_s <= now_s]:
                due[what] = now_s + self._do(what, later=later)
                if what == "fill":
                    due["empty"] = now_s + self.chance.uniform(*DISK_IS_FULL_S)
            if self.daemon.popen.poll() is not None:  # as systemd does
                self.daemon = self._daemon()
            time.sleep(0.05)
        if due["empty"] < float("inf"):
            self.disk.empty()

    def _do(self, what: str, *, later: bool) -> float:
        """Do one event; return in how many seconds it is due again."""
        match what:
            case "publisher":
                session_id = f"s{self.chance.randrange(1 if later else 0, PUBLISHERS)}"
                self._end(session_id)
                self._begin(session_id)
                return self.chance.uniform(*PUBLISHER_DIES_S)
            case "daemon" if not later:
                self.daemon.kill()
                self.kills += 1
                return self.chance.uniform(*DAEMON_DIES_S)
            case "fill":
                self.disk.fill()
                return self.chance.uniform(*DISK_FILLS_S)
            case "empty":
                self.disk.empty()
                return float("inf")
            case "sample" if later:
                for name, process in (("daemon", self.daemon), ("publisher", self.publishers["s0"])):
                    self.samples[name].append(_memory_and_descriptors(process.pid))
                return SAMPLE_S
            case "tell":
                print(f"{sum(self.safe.values())} updates, {self.kills} kills {self.verdict.findings}", file=sys.stderr)
                self._look()
                return 30.0
        return SAMPLE_S

    def _begin(self, session_id: str) -> None:
        arguments = [sys.executable, str(STEADY_PUBLISHER), session_id, str(PAUSE_S)]
        self.publishers[session_id] = self.home.start(arguments)

    def _look(self) -> None:
        for session_id in self.publishers:
            self._hear(session_id)

    def _hear(self, session_id: str) -> None:
        """Record a publisher's reports, and the updates that it should have found but did not."""
        for line in list(self.publishers[session_id].lines):
            word, number = line.split()
            if word == "resumed":
                missing = self.safe.get(session_id, 0) - int(number)
                if missing > 0:
                    self.verdict.find(f"{session_id}: resumed at {number}, {missing} are lost", lost=missing)
            self.safe[session_id] = max(int(number), self.safe.get(session_id, 0))
        self.publishers[session_id].lines.clear()

    def _end(self, session_id: str) -> None:
        self.publishers[session_id].kill()
        self.kills += 1
        self._hear(session_id)
        self.home.processes.remove(self.publishers[session_id])

    def come_to_rest(self) -> int:
        """End all processes and judge the files; return the number of updates."""
        for session_id in list(self.publishers):
            self._end(session_id)
        if self.daemon.popen.poll() is not None:
            self.daemon = self._daemon()
        eventually(lambda: self.paths.outbox.exists() and not list(self.paths.outbox.iterdir()))
        self.verdict.add(judge_files(self.paths))
        held, newest = history(self.paths), newest_documents(self.paths)
        for session_id, safe in self.safe.items():
            numbers = [entry["values"]["n"] for entry in held[session_id] if entry["op"] == "update"]
            once = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            self.verdict.find(f"{session_id}: {numbers[:3]}... are not there once and in order", duplicated=not once)
            found = int(newest[session_id].values["n"])
            self.verdict.find(f"{session_id}: its newest document says {found} of {safe}", lost=max(0, safe - found))
        return sum(int(document.values["n"]) for document in newest.values())

    def close(self) -> None:
        self.home.close()
        self.disk.close()


def _memory_and_descriptors(pid: int) -> tuple[float, int]:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _growth(samples: list[tuple[float, int]]) -> tuple[float, int]:
    """Return by how much the last quarter's median is above the second quarter's; the first is for warming up."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    rss, fds = ([statistics.median(one[at] for one in part) for part in (early, late)] for at in (0, 1))
    return rss[1] - rss[0], int(fds[1] - fds[0])


def main() -> int:
    """Run the soak and print the closing line; return 1 if anything was lost, doubled or torn, or grew."""
    if os.geteuid() != 0:  # only root can mount a small disk, also root of a user namespace
        os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m", "crash.soak"])
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEED={seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="edi-soak-") as folder:
        soak = Soak(Path(folder), random.Random(seed))
        try:
            soak.run()
            updates = soak.come_to_rest()
        finally:
            soak.close()
    grown = [_growth(samples) for samples in soak.samples.values()]
    rss_mib, fds = max(rss for rss, _ in grown), max(fds for _, fds in grown)
    for what in soak.verdict.findings:
        print(what, file=sys.stderr)
    print(
        f"soak: seconds={SECONDS} updates={updates} kills={soak.kills} lost={soak.verdict.lost}"
        f" rss_growth_mib={rss_mib:.1f} fd_growth={fds}"
    )
    return 1 if soak.verdict or rss_mib > RSS_MIB or fds > FDS else 0


if __name__ == "__main__":
    sys.exit(main())
