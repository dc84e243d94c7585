"""Whether all work is safe, and what is wrong: told from outside, by outboxes, journal, documents and disk.

What only a daemon knows of itself it tells (`DaemonReport`); everything else is looked for here, in the same way by the
daemon, by the command without one, and by a client without one. So nobody is asked whether they did what they promised.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from msgspec import structs

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.home import problems
from edi_checkpoint.home.condition import CONDITIONS
from edi_checkpoint.home.problems import Trouble
from edi_checkpoint.home.sizes import Size, sizes_of
from edi_checkpoint.model import NOT_OURS, SessionInfo
from edi_checkpoint.outbox.survey import WaitingStream, between
from edi_checkpoint.system.daemon_lock import Holder
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.process import Descriptors, Sandbox, descriptors, sandbox

PATIENCE_S: Final = 2.0  # entries on their way for longer wait


class Served(msgspec.Struct, frozen=True):
    """The daemon; what is not known is None. `connections` counts clients that write to a session."""

    running: bool
    pid: int | None = None
    version: str | None = None
    uptime_s: float | None = None
    connections: int | None = None
    sandbox: Sandbox | None = None
    descriptors: Descriptors | None = None


class DaemonReport(NamedTuple):
    """What a daemon says of itself; `answered` is False for one that is asked in vain, or not there. `caps` are the
    bounds of what lies on disk, by kind.
    """

    daemon: Served
    answered: bool
    troubles: Sequence[Trouble] = ()
    errors: Mapping[str, int] = {}
    caps: Mapping[str, int] = {}


class Waiting(msgspec.Struct, frozen=True):
    """Entries of a session that lie in outboxes and are not acknowledged, and when the first was published."""

    session_id: str
    entries: int
    since: datetime | None


class Status(msgspec.Struct, frozen=True):
    """The document of `edi-checkpoint status --json`, without its format.

    `safe`: all that is published is on disk, and the disk takes more. `last_durable` is when the newest acknowledged
    entry was journaled; without a journal, when the newest document was written. `unacknowledged` counts entries that
    lie in outboxes and not in the journal: safe from EDI's death, not from a power cut. `sessions` counts by condition,
    `errors` what the daemon refused, by code. `sizes` is what lies on disk, by kind, with its bound.
    """

    safe: bool
    daemon: Served
    last_durable: datetime | None
    unacknowledged: int
    waiting: tuple[Waiting, ...]
    degraded: tuple[Trouble, ...]
    sessions: dict[str, int]
    journal_bytes: int
    errors: dict[str, int]
    sizes: dict[str, Size] = {}


def status_of(
    paths: Paths,
    catalog: Catalog,
    rows: Iterable[SessionInfo],
    outboxes: Mapping[str, Sequence[WaitingStream]],
    journaled: Mapping[str, int],
    last_received: datetime | None,
    told: DaemonReport,
    now: datetime,
) -> Status:
    """Return the status of the home at `paths`.

    `outboxes` is what `outbox.survey.survey_all` found before anything else was read: what is committed in between then
    counts as acknowledged, which it is. `journaled` holds the journal's highest number by stream, `last_received` is
    when its newest row came; where no journal tells, documents do.
    """
    held_up = _held_up(catalog, outboxes, journaled)
    last_durable = last_received or _newest_document(catalog)
    full = problems.disk_full(paths.state)
    refused = [trouble for trouble in told.troubles if trouble.code == "disk_refused"]
    conditions = Counter(info.condition for info in rows)
    return Status(
        safe=not held_up and not full and not refused,
        daemon=structs.replace(told.daemon, sandbox=sandbox(told.daemon.pid), descriptors=descriptors(told.daemon.pid)),
        last_durable=last_durable,
        unacknowledged=sum(one.entries for one in held_up),
        waiting=held_up,
        degraded=(
            *full,
            *told.troubles,
            *_wait(held_up, told, now),
            *problems.clock_stepped(last_durable, now),
            *problems.set_aside(paths),
            *problems.unusable(catalog.damaged),
        ),
        sessions={condition: conditions[condition] for condition in CONDITIONS},
        journal_bytes=sum(_size(f"{paths.journal}{suffix}") for suffix in ("", "-wal")),
        errors=dict(told.errors),
        sizes=sizes_of(paths, catalog, told.caps),
    )


def served(holder: Holder | None, now: datetime) -> Served:
    """Return what the lock file says of the daemon that holds it, None when none does."""
    if holder is None:
        return Served(running=False)
    uptime_s = None
    with contextlib.suppress(ValueError, TypeError):
        uptime_s = (now - datetime.fromisoformat(holder.started)).total_seconds()
    return Served(True, holder.pid, holder.version, uptime_s)


def _held_up(
    catalog: Catalog, outboxes: Mapping[str, Sequence[WaitingStream]], journaled: Mapping[str, int]
) -> tuple[Waiting, ...]:
    found = []
    for session_id, streams in outboxes.items():
        header = catalog.newest_header(session_id)
        counts = []
        for files, _, last, _ in streams:
            stream = files.owner.stream
            done = max(journaled.get(stream, 0), header.streams.get(stream, 0) if header else 0)
            if last > done:
                counts.append(between(files, done, last))
        if entries := sum(count for count, _ in counts):  # else trimmed meanwhile: a file covers them
            found.append(Waiting(session_id, entries, min((since for _, since in counts if since), default=None)))
    return tuple(found)


def _newest_document(catalog: Catalog) -> datetime | None:
    headers = (catalog.newest_header(session_id) for session_id in catalog.sessions())
    return max((header.timestamp for header in headers if header and header.kind not in NOT_OURS), default=None)


def _wait(held_up: Sequence[Waiting], told: DaemonReport, now: datetime) -> list[Trouble]:
    if told.daemon.running and not told.answered:
        return [problems.daemon_hangs(told.daemon.pid)]
    if not held_up:
        return []
    if not told.daemon.running:
        return [problems.no_daemon(amount(held_up))]
    late = any(one.since and (now - one.since).total_seconds() > PATIENCE_S for one in held_up)
    return [problems.outbox_waiting(amount(held_up))] if late else []


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0


def amount(held_up: Sequence[Waiting]) -> str:
    """Return how much waits, as the part of a sentence: `3 changes of 1 session wait in an outbox`."""
    entries, count = sum(one.entries for one in held_up), len(held_up)
    return (
        f"{entries} change{'s' * (entries != 1)} of {count} session{'s' * (count != 1)}"
        f" wait{'s' * (entries == 1)} in {'an outbox' if count == 1 else 'outboxes'}"
    )
