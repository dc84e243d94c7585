"""A home in which a case runs: its processes, their work, and their reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from harness import Ended, Home, Process, Publisher, Refused, eventually

from edi_checkpoint.system.paths import Paths, locate


@dataclass
class Stage:
    """A home with its processes: the writer of `s1`, the daemon, and further publishers."""

    home: Home
    load: int  # writers that publish all the time during the case
    paths: Paths = field(init=False)
    publishers: dict[str, Publisher] = field(default_factory=dict)  # by the name in their entries
    names: Iterable[int] = field(default_factory=count)
    daemon: Process | None = None
    victim: Process | None = None
    unnamed: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.paths = locate(self.home.environment)

    @property
    def writer(self) -> Publisher:
        return self.publishers["s1"]

    @property
    def dead(self) -> bool:
        """Whether the process that must die has died."""
        return self.victim is not None and self.victim.popen.poll() is not None

    def publish(self, who: str, number: int, **how: object) -> None:
        """Let a publisher publish some more, and wait for its calls; a daemon is not necessary."""
        options = "".join(f", {key}={value!r}" for key, value in how.items())
        self.attempt(f"publish({number}, who={who!r}, tell=True, each=1{options})", self.publishers[who])

    def enter(self, who: str, session_id: str = "", publisher: Publisher | None = None) -> Publisher:
        """Add a publisher. If it is given, this does not wait for it."""
        self.publishers[who] = publisher or self.home.publisher(session_id)
        return self.publishers[who]

    def attempt(self, code: str, publisher: Publisher | None = None) -> bool:
        """Run `code` in a publisher, by default the writer; return whether it succeeded.

        It fails if a call times out because the daemon is dead or busy, or if the publisher itself dies at the point.
        Nothing else may fail.
        """
        publisher = publisher or self.writer
        try:
            publisher.do(code)
        except Refused as refused:
            if refused.type not in ("FlushTimeout", "DaemonUnavailable"):
                raise
            return False
        except Ended:
            if self.victim is not publisher:
                raise
            return False
        return True

    def kill(self, who: str) -> None:
        self.publishers[who].kill()

    def told(self) -> dict[str, int]:
        """Return how many calls of each publisher have returned."""
        return {who: publisher.returned for who, publisher in self.publishers.items()}

    def acknowledged(self) -> dict[str, int]:
        """Return how many acknowledged updates each publisher has reported."""
        return {who: publisher.acknowledged_here for who, publisher in self.publishers.items()}

    def waits(self) -> None:
        """Wait for the death of the process that must die, by a start, upkeep, or a running call."""
        eventually(lambda: self.dead)


Step = Callable[[Stage], None]
