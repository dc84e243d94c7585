"""The records that the API returns: immutable values, which the wire carries in the same form."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec


class Kind(StrEnum):
    """Why a checkpoint was made. `REFERENCE` is a file of EDI's own class, `FOREIGN` a file of another program."""

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
    """One checkpoint file: the row that `Session.checkpoints` returns and `edi-checkpoint log` shows.

    Fields:
        name: its file name in the sessions folder.
        session_id: the session that it belongs to.
        sequence: the number of the last entry that it contains, from 1; 0 in a file of EDI's own older class.
        timestamp: when it was made, with a time zone.
        kind: why it was made, a word of `docs/format.md`, Checkpoint: `manual`, `transition`, `interval` and others.
        reason: the reason that was given.
        stage: the value of `current_stage`, `unknown` without one.
        label: the name that a person gave it, or None.
        pinned: whether no rule deletes it.
        size_bytes: the size of the file.
        note: the text that a person wrote at it, or None.
        rule: in a checkpoint of a transition, the key whose change was the transition.
        score: the validation score of the state, or None.
    Example:
        info = session.checkpoint("analysis_done")
        print(info.session_id == session.session_id, info.kind, info.pinned)  # True manual False
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
    """One session: the row that `Client.sessions` returns. What is not known is None.

    Fields:
        session_id: its id.
        condition: `live`: a writer is attached. `interrupted`: the last writer died or left with an exception. `ended`:
            it left cleanly with a `status` of `completed` or `failed`. `unfinished`: it left cleanly otherwise.
        status: the value of EDI's key `status`.
        stage: the value of `current_stage`.
        image: the file name of `image_path`.
        prompt: the user's prompt.
        score: the validation score.
        started: when the session began, with a time zone.
        updated: when its state changed last, with a time zone.
        sequence: the number of its newest entry.
        checkpoints: how many checkpoint files it has.
        parent_session: the id of the session that it comes from.
    Example:
        session.flush()
        (row,) = [row for row in client.sessions() if row.session_id == session.session_id]
        print(row.condition, row.image, row.parent_session)  # live roof.jpg None
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
    """One event of `edi-checkpoint watch`; a field that does not apply is None.

    update      `entries` changes of a session became durable, the newest of them `sequence`; `detail` names the keys
    rollback    a session was rolled back; `detail` names the target
    checkpoint  `name` is its file; `detail` gives its kind and reason, or says that it was amended
    condition   a session is `name` from now on: live, interrupted, unfinished or ended
    fault       an error; `name` is its code, `detail` its message
    daemon      the watching program reports that the daemon is `connected` or `gone`
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
    """How far the entries of one writer are: the number of the last entry at each step.

    Fields:
        published: published by a call that has returned.
        spooled: written to the outbox file, so it survives the death of this process.
        journaled: acknowledged by the daemon, which has fsynced it: it survives a power cut.
        checkpointed: contained in a checkpoint or in the auto-save.
    Example:
        session.flush("checkpointed")
        print(session.durable)  # Durable(published=1, spooled=1, journaled=1, checkpointed=1)
    """

    published: int
    spooled: int
    journaled: int
    checkpointed: int


class Gap(msgspec.Struct, frozen=True):
    """Entries that were published and never reached the daemon; a `ResumeReport` lists them.

    Fields:
        sequence: the number of the entry that follows the gap.
        missing: how many entries are missing.
    Example:
        lost = sum(gap.missing for gap in session.resumed.gaps)
        print(lost)  # 0
    """

    sequence: int
    missing: int


class Verdict(StrEnum):
    """What happened to a file since a checkpoint recorded its size, time and digest; a text.

    `UNKNOWN` stands for a relative path, for a file of which nothing was recorded, and for one that could not be
    checked in time.

    Example:
        from edi_checkpoint import Verdict

        files = session.resume_report().files
        changed = [file for file in files if file.verdict in (Verdict.EDITED, Verdict.MISSING)]
        print(changed)  # []
    """

    SAME = "same"
    MOVED = "moved"
    EDITED = "edited"
    MISSING = "missing"
    UNKNOWN = "unknown"


class NamedFile(NamedTuple):
    """A file that a state names, and what happened to it; a `ResumeReport` lists them.

    Fields:
        key: the key of the state: `image_path`, `edited_image_path` or `mask_path`.
        path: its value.
        verdict: what happened to the file.
        moved_to: where the same content lies now, if the file was moved within its folder.
    Example:
        for file in session.resume_report().files:
            print(f"{file.key}: {file.path} is {file.verdict}")
    """

    key: str
    path: str
    verdict: Verdict
    moved_to: str | None


class ResumeReport(msgspec.Struct, frozen=True):
    """What happened to a session before it was opened, from `Session.resume_report`; `str` gives sentences for a
    person.

    Fields:
        session_id: the session's id.
        resumed: whether there was a state to continue.
        left_as: how the last writer left: `clean`, `interrupted`, or `live` (it was taken over); None if not known.
        stage: the value of `current_stage`, `unknown` without one.
        status: the value of EDI's key `status`, or None.
        sequence: the number of the newest entry that the state contains.
        updated: when that entry was published, with a time zone; None if not known.
        age_s: the seconds since then, or None.
        sources: where the state came from: `file`, `journal`, `outbox` (entries that the daemon had not received).
        document: the name of the file that it came from, or None.
        from_outbox: how many entries came from outboxes of writers that had died.
        journal_first: the oldest entry that `rollback` and `at` can reach, or None.
        journal_last: the newest one, or None.
        gaps: entries that were lost before the daemon received them, or with a journal.
        work_s: the sum of the state's own `stage_timings`, in seconds.
        checkpoint: the file name of the newest checkpoint, or None.
        short_lives: how many writers in a row died within a minute after they had resumed the session.
        offered: after three such deaths, a checkpoint from before the state that they resumed; otherwise None.
        files: what happened to the files that the newest checkpoint names, from `resume_report`; empty in `resumed`.
    Example:
        with client.session("roof_42") as roof:
            print(roof.resume_report())  # Session roof_42 is new.
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
        """Return the report in sentences, for a person who decides whether to continue."""
        if not self.resumed:
            return f"Session {self.session_id} is new."
        how = {"interrupted": "interrupted", "live": "taken over"}.get(self.left_as or "", "left")
        ago = "" if self.age_s is None else f" {_spoken(self.age_s)} ago"
        work = f", with {_spoken(self.work_s)} of work" if self.work_s else ""
        parts = [
            f"Session {self.session_id} was {how}{ago} in stage {self.stage}.",
            f"It is restored up to entry {self.sequence}{work}.",
        ]
        if self.from_outbox:
            parts.append(f"{_entries(self.from_outbox)} recovered from the outbox of a process that had died.")
        if self.document:
            parts.append(f"The state was read from {self.document}.")
        if lost := sum(gap.missing for gap in self.gaps):
            parts.append(f"{_entries(lost)} lost.")
        for file in self.files:
            if file.verdict in (Verdict.MOVED, Verdict.EDITED, Verdict.MISSING):
                parts.append(f"{file.path} is {file.verdict}{f' to {file.moved_to}' if file.moved_to else ''}.")
        if self.offered:
            died = f"EDI died {self.short_lives} times within a minute of resuming this session."
            parts.append(f"{died} To get an older state, roll back to {self.offered.name}.")
        return " ".join(parts)


def _entries(number: int) -> str:
    return f"{number} entry was" if number == 1 else f"{number} entries were"


def _spoken(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"


class HistoryEntry(msgspec.Struct, frozen=True):
    """One entry of the journal, as `edi-checkpoint history` shows it.

    `op` is update, base, mark, rollback or pin; `stage` is the stage that the entry set, if any.
    """

    sequence: int
    timestamp: datetime
    op: str
    keys: tuple[str, ...]
    bytes: int
    stage: str | None
