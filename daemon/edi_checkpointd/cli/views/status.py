"""Print the status for people: first whether all work is safe, then the faults with remedies, then the facts."""

from __future__ import annotations

from datetime import datetime

from edi_checkpoint.home.sizes import Size
from edi_checkpoint.home.status import Served, Status, amount
from edi_checkpointd.cli.output.screen import Cell, Column, Screen, moment, size

_WAITING_SHOWN = 5  # sessions with waiting entries that are named


def show_status(screen: Screen, found: Status, now: datetime) -> None:
    """Write the status. Its first line says whether the user has to do anything."""
    _paragraph(screen, verdict(found, now), "bold green" if found.safe else "bold yellow", indent=0)
    for fault in found.degraded:
        screen.line()
        _paragraph(screen, f"! {fault.message}", "yellow", indent=2)
        _paragraph(screen, f"  {fault.hint}", "", indent=2)
    screen.line()
    screen.table([Column("", "dim"), Column("")], _facts(found, now), titled=False)


def verdict(found: Status, now: datetime) -> str:
    """Return the sentence that says whether all work is safe and since when, or what is not safe."""
    if found.safe and found.last_durable is None:
        return "all work is safe: nothing has been published yet"
    if found.safe:
        return f"all work is safe: everything published is on disk since {_at(found.last_durable, now)}"
    if not found.waiting:
        return "not all work is safe: the disk is full or failing, and new changes may be in EDI's memory only"
    since = min((one.since for one in found.waiting if one.since), default=None)
    waits = amount(found.waiting) + (f", since {_at(since, now)}" if since else "")
    return f"not all work is safe: {waits}; a power cut could lose them, a crash of EDI could not"


def _facts(found: Status, now: datetime) -> list[tuple[str, str]]:
    counts = [f"{count} {condition}" for condition, count in found.sessions.items() if count]
    facts = [("daemon", _daemon(found.daemon)), ("sessions", ", ".join(counts) or "none")]
    if (sandbox := found.daemon.sandbox) and sandbox.seccomp != "off":
        facts.append(
            ("sandbox", f"{'no new privileges, ' * sandbox.no_new_privileges}{sandbox.filters} seccomp filters")
        )
    for one in found.waiting[:_WAITING_SHOWN]:
        since = f" since {_at(one.since, now)}" if one.since else ""
        facts.append(("waiting", f"{one.session_id}: {one.entries}{since}"))
    if more := len(found.waiting) - _WAITING_SHOWN:
        facts += [("", f"and {more} more sessions")] * (more > 0)
    facts += [(kind, _size(one)) for kind, one in found.sizes.items() if one.bytes]
    if found.errors:
        facts.append(("refused", ", ".join(f"{code} {count}" for code, count in sorted(found.errors.items()))))
    return facts


def _size(one: Size) -> str:
    return size(one.bytes) if one.cap_bytes is None else f"{size(one.bytes)} of {size(one.cap_bytes)}"


def _daemon(daemon: Served) -> str:
    if not daemon.running:
        return "not running"
    uptime = "" if daemon.uptime_s is None else f", up {duration(daemon.uptime_s)}"
    return f"process {daemon.pid}, version {daemon.version}{uptime}"


def _at(time: datetime | None, now: datetime) -> str:
    """Return a time for people; without the date if it is today."""
    if time is None:
        return "-"
    text = moment(time)
    return text[11:19] if text[:10] == moment(now)[:10] else text


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that it contains at least twice."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _paragraph(screen: Screen, text: str, style: str, *, indent: int) -> None:
    screen.paragraphs([[Cell(word, style) for word in text.split(" ")]], indent=indent)
