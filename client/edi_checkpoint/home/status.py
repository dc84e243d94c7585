"""Decides whether all work is safe, and which faults a home has, from outboxes, journal, documents and disk.

The daemon, the command without a daemon and a client without a daemon all call these functions, so a daemon does not
judge itself. It only reports what files cannot show (`DaemonReport`).
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

PATIENCE_S: Final = 2.0  # entries that wait for longer are a trouble


class Served(msgspec.Struct, frozen=True):
    """The facts about the daemon, None if not known. `connections` counts the clients that write to a session."""

    running: bool
    pid: int | None = None
    version: str | None = None
    uptime_s: float | None = None
    connections: int | None = None
    sandbox: Sandbox | None = None
    descriptors: Descriptors | None = None


class DaemonReport(NamedTuple):
    """The daemon's report about itself. `answered` is False if it did not answer or does not run.

    `caps` has the limits of sizes on disk, by kind.
    """

    daemon: Served
    answered: bool
    troubles: Sequence[Trouble] = ()
    errors: Mapping[str, int] = {}
    caps: Mapping[str, int] = {}


class Waiting(msgspec.Struct, frozen=True):
    """The count of a session's entries that are not acknowledged, and when the writer published the first of them."""

    session_id: str
    entries: int
    since: datetime | None


class Status(msgspec.Struct, frozen=True):
    """The document of `edi-checkpoint status --json`, without its format.

    `safe`: all published entries are on disk, and the disk takes more. `last_durable` is when the newest acknowledged
    entry was journaled; without a journal, when the newest document was written. `unacknowledged` counts entries in
    outboxes that the journal lacks: they survive EDI's death, but not a power cut. `sessions` counts by condition,
    `errors` counts refused messages by code. `sizes` has the sizes on disk by kind, with their limits.
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
    report: DaemonReport,
    now: datetime,
) -> Status:
    """Return the status of the home at `paths`.

    `outboxes` is the result of `outbox.survey.survey_all`, called before anything else is read: an entry committed
    afterwards then counts as acknowledged. `journaled` has the journal's highest number by stream, `last_received` the
    time of its newest row. Without a journal, documents tell both.
    """
    waiting = _waiting(catalog, outboxes, journaled)
    last_durable = last_received or _newest_document(catalog)
    full = problems.disk_full(paths.state)
    refused = [trouble for trouble in report.troubles if trouble.code == "disk_refused"]
    conditions = Counter(info.condition for info in rows)
    pid = report.daemon.pid
    return Status(
        safe=not waiting and not full and not refused,
        daemon=structs.replace(report.daemon, sandbox=sandbox(pid), descriptors=descriptors(pid)),
        last_durable=last_durable,
        unacknowledged=sum(one.entries for one in waiting),
        waiting=waiting,
        degraded=(
            *full,
            *report.troubles,
            *_late(waiting, report, now),
            *problems.clock_stepped(last_durable, now),
            *problems.set_aside(paths),
            *problems.unusable(catalog.damaged),
        ),
        sessions={condition: conditions[condition] for condition in CONDITIONS},
        journal_bytes=sum(_size(f"{paths.journal}{suffix}") for suffix in ("", "-wal")),
        errors=dict(report.errors),
        sizes=sizes_of(paths, catalog, report.caps),
    )


def served(holder: Holder | None, now: datetime) -> Served:
    """Return the facts about the daemon that holds the lock file; `holder` is None when no daemon does."""
    if holder is None:
        return Served(running=False)
    uptime_s = None
    with contextlib.suppress(ValueError, TypeError):
        uptime_s = (now - datetime.fromisoformat(holder.started)).total_seconds()
    return Served(True, holder.pid, holder.version, uptime_s)


def _waiting(
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
        if entries := sum(count for count, _ in counts):  # none: the daemon has trimmed the outbox since
            found.append(Waiting(session_id, entries, min((since for _, since in counts if since), default=None)))
    return tuple(found)


def _newest_document(catalog: Catalog) -> datetime | None:
    headers = (catalog.newest_header(session_id) for session_id in catalog.sessions())
    return max((header.timestamp for header in headers if header and header.kind not in NOT_OURS), default=None)


def _late(waiting: Sequence[Waiting], report: DaemonReport, now: datetime) -> list[Trouble]:
    if report.daemon.running and not report.answered:
        return [problems.daemon_hangs(report.daemon.pid)]
    if waiting and not report.daemon.running:
        return [problems.no_daemon(amount(waiting))]
    late = any(one.since and (now - one.since).total_seconds() > PATIENCE_S for one in waiting)
    return [problems.outbox_waiting(amount(waiting))] if late else []


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0


def amount(waiting: Sequence[Waiting]) -> str:
    """Return how much waits, as a part of a sentence: `3 changes of 1 session wait in an outbox`."""
    entries, count = sum(one.entries for one in waiting), len(waiting)
    return (
        f"{entries} change{'s' * (entries != 1)} of {count} session{'s' * (count != 1)}"
        f" wait{'s' * (entries == 1)} in {'an outbox' if count == 1 else 'outboxes'}"
    )
