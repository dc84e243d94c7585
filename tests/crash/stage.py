"""A home on which a case is played: its processes, what they are had to do, and what they have told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from harness import Ended, Home, Process, Publisher, Refused, eventually

from edi_checkpoint.system.paths import Paths, locate


@dataclass
class Stage:
    """A home with its processes: the writer of `s1`, the daemon, and whoever else takes part."""

    home: Home
    load: int  # writers that publish all the time beside what the case does
    paths: Paths = field(init=False)
    publishers: dict[str, Publisher] = field(default_factory=dict)  # by what their entries call them
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
        """Whether the process that is to die has died."""
        return self.victim is not None and self.victim.popen.poll() is not None

    def publish(self, who: str, number: int, **how: object) -> None:
        """Have a publisher publish some more and wait for it; no daemon need be there."""
        options = "".join(f", {key}={value!r}" for key, value in how.items())
        self.attempt(f"publish({number}, who={who!r}, tell=True, each=1{options})", self.publishers[who])

    def enter(self, who: str, session_id: str = "", publisher: Publisher | None = None) -> Publisher:
        """Let a publisher in; not waited for when it is given."""
        self.publishers[who] = publisher or self.home.publisher(session_id)
        return self.publishers[who]

    def attempt(self, code: str, publisher: Publisher | None = None) -> bool:
        """Have a publisher, by default the writer, run `code`; return whether it did.

        It did not when a call of its gave up waiting for a daemon, which is dead or busy, or when it is the one to die
        and did. Nothing else may fail.
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
        """Return of each publisher how many of its calls have returned."""
        return {who: publisher.returned for who, publisher in self.publishers.items()}

    def acknowledged(self) -> dict[str, int]:
        """Return of each publisher how many it has seen acknowledged."""
        return {who: publisher.acknowledged_here for who, publisher in self.publishers.items()}

    def waits(self) -> None:
        """Wait for the death of the process that is to die: a start, upkeep, or a call under way leads there."""
        eventually(lambda: self.dead)


Step = Callable[[Stage], None]
