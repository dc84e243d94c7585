"""What callers are given to look at: immutable values that also go over the wire as they are."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec


class Kind(StrEnum):
    """Why a checkpoint was made; `REFERENCE` is a file of EDI's old class, `FOREIGN` an auto-save by somebody else."""

    MANUAL = "manual"
    TRANSITION = "transition"
    INTERVAL = "interval"
    SHUTDOWN = "shutdown"
    INTERRUPTED = "interrupted"
    RECOVERED = "recovered"
    BEFORE_ROLLBACK = "before_rollback"
    ROLLBACK = "rollback"
    STRANDED = "stranded"
    REFERENCE = "reference"
    FOREIGN = "foreign"


AUTOMATIC: Final = frozenset({Kind.INTERVAL, Kind.SHUTDOWN, Kind.INTERRUPTED, Kind.RECOVERED})
NOT_OURS: Final = frozenset({Kind.REFERENCE, Kind.FOREIGN})


class CheckpointInfo(msgspec.Struct, frozen=True):
    """One checkpoint file: `name` is its file name, `kind` one of `Kind`, `timestamp` aware.

    `sequence` is the number of the last entry contained, 0 in a file of EDI's own old class. `rule` is the key whose
    change was the transition that it was made for, `score` the state's validation score.
    """

    name: str
    session_id: str
    sequence: int
    timestamp: datetime
    kind: str
    reason: str
    stage: str
    label: str | None
    pinned: bool
    size_bytes: int
    note: str | None = None
    rule: str | None = None
    score: float | None = None


class SessionInfo(msgspec.Struct, frozen=True):
    """One row of a session list; what is not known is None.

    `condition` is live, interrupted, unfinished or ended; `status`, `stage`, `image` (a file's name), `prompt` and
    `score` are EDI's own values; `checkpoints` counts the files.
    """

    session_id: str
    condition: str
    status: str | None
    stage: str | None
    image: str | None
    prompt: str | None
    score: float | None
    started: datetime | None
    updated: datetime | None
    sequence: int
    checkpoints: int
    parent_session: str | None


class Event(msgspec.Struct, frozen=True):
    """Something that happened while somebody watched; what does not apply is None.

    update      `entries` changes of a session became durable, the newest of them `sequence`; `detail` names keys
    rollback    a session went back; `detail` says where to
    checkpoint  `name` is its file; `detail` says of what kind it is and why it was made, or that it was amended
    condition   a session is `name` from now on: live, interrupted, unfinished or ended
    fault       `name` is the code of what was refused or failed, `detail` the message
    daemon      told by who watches: the daemon is `connected` or `gone`
    """

    event: str
    session_id: str | None
    sequence: int | None
    timestamp: datetime
    name: str | None = None
    stage: str | None = None
    detail: str | None = None
    entries: int | None = None


class Durable(msgspec.Struct, frozen=True):
    """How far a stream's entries have come, by the number of the last one.

    Published; written to the outbox (`spooled`); acknowledged (`journaled`); in a checkpoint or auto-save.
    """

    published: int
    spooled: int
    journaled: int
    checkpointed: int


class Gap(msgspec.Struct, frozen=True):
    """Entries that were published and never came; `sequence` is that of the entry behind them."""

    sequence: int
    missing: int


class Verdict(StrEnum):
    """What has become of a file since a checkpoint recorded it."""

    SAME = "same"
    MOVED = "moved"
    EDITED = "edited"
    MISSING = "missing"
    UNKNOWN = "unknown"  # its path is relative; or nothing of it was recorded, or could be found out in time


class NamedFile(NamedTuple):
    """A file that a state names: by which key, its path, the verdict, and where its content lies if it was moved."""

    key: str
    path: str
    verdict: Verdict
    moved_to: str | None


class ResumeReport(msgspec.Struct, frozen=True):
    """What a writer that resumes a session is told of it; `str` says it in words.

    resumed         whether there was anything to continue
    left_as         how the writer before left: clean, interrupted, or live (it was taken over from); None: not known
    stage, status   EDI's own values
    sequence        the newest entry that the state contains
    updated, age_s  when that was published, and how long ago
    sources         where the state came from: journal, file, outbox (entries that no daemon had taken yet)
    document        the file's name, if it came from one
    from_outbox     how many entries came from outboxes of writers that had died
    journal_first   the oldest and the newest entry that can still be gone back to one by one; None: none
    journal_last
    gaps            entries that were lost before they were acknowledged, or with a journal
    work_s          the seconds that the state's own `stage_timings` add up to
    checkpoint      the newest checkpoint's file name
    files           what has become of the files that it names (`image_path` and such)
    short_lives     how many writers in a row died within a minute after they had resumed it
    offered         a checkpoint from before the state that they died of, from the third on
    """

    session_id: str
    resumed: bool
    left_as: str | None
    stage: str
    status: str | None
    sequence: int
    updated: datetime | None
    age_s: float | None
    sources: tuple[str, ...]
    document: str | None
    from_outbox: int
    journal_first: int | None
    journal_last: int | None
    gaps: tuple[Gap, ...]
    work_s: float
    checkpoint: str | None
    short_lives: int
    offered: CheckpointInfo | None
    files: tuple[NamedFile, ...] = ()

    def __str__(self) -> str:
        """Say it in sentences, for a person who decides whether to go on."""
        if not self.resumed:
            return f"Session {self.session_id} is new."
        how = {"interrupted": "interrupted", "live": "taken over", "clean": "left"}.get(self.left_as or "", "left")
        ago = "" if self.age_s is None else f" {_spoken(self.age_s)} ago"
        parts = [
            f"Session {self.session_id} was {how}{ago} in stage {self.stage}; all up to entry {self.sequence} is back"
        ]
        if self.work_s:
            parts.append(f", with {_spoken(self.work_s)} of work")
        parts.append(".")
        if self.from_outbox:
            what = "entry" if self.from_outbox == 1 else "entries"
            parts.append(f" {self.from_outbox} {what} came from the outbox of a writer that had died.")
        if self.document:
            parts.append(f" It was taken from {self.document}.")
        if missing := sum(gap.missing for gap in self.gaps):
            parts.append(f" {missing} entries are missing.")
        for file in self.files:
            if file.verdict in (Verdict.MOVED, Verdict.EDITED, Verdict.MISSING):
                parts.append(f" {file.path} is {file.verdict}{f' to {file.moved_to}' if file.moved_to else ''}.")
        if self.offered:
            parts.append(
                f" EDI died {self.short_lives} times within a minute of resuming it: the point before is"
                f" {self.offered.name}."
            )
        return "".join(parts)


def _spoken(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"


class HistoryEntry(msgspec.Struct, frozen=True):
    """One journaled entry: `op` is update, base, mark, rollback or pin; `stage` the stage that it set, if any."""

    sequence: int
    timestamp: datetime
    op: str
    keys: tuple[str, ...]
    bytes: int
    stage: str | None
