"""The status as OpenMetrics text (`status --openmetrics`), for a node exporter's textfile collector."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from edi_checkpoint.home.status import Status

_PREFIX = "edi_checkpoint_"


@dataclass(slots=True, eq=False)
class _StatusCollector(Collector):
    """Gives one status to the library's writer."""

    _found: Status
    _now: datetime

    def collect(self) -> Iterator[Metric]:
        return metrics(self._found, self._now)


def write(found: Status, now: datetime) -> None:
    """Write the status to stdout, as OpenMetrics text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StatusCollector(found, now))
    sys.stdout.buffer.write(generate_latest(registry))  # type: ignore[no-untyped-call] # it has no types
    sys.stdout.buffer.flush()


def metrics(found: Status, now: datetime) -> Iterator[Metric]:
    """Yield the metrics of a status, without unknown values."""
    daemon = found.daemon
    yield _gauge("daemon_running", "Whether a daemon runs.", daemon.running)
    yield _gauge("safe", "Whether every published change is on disk, and the disk accepts more.", found.safe)
    if daemon.version is not None:
        yield InfoMetricFamily(f"{_PREFIX}daemon", "The running daemon.", {"version": daemon.version})
    if daemon.uptime_s is not None:
        yield _gauge("daemon_uptime_seconds", "How long the daemon has run.", daemon.uptime_s, unit="seconds")
    if found.last_durable is not None:
        text = "When the newest acknowledged entry became durable."
        yield _gauge("last_durable_timestamp_seconds", text, found.last_durable.timestamp(), unit="seconds")
    yield _gauge("lag_seconds", "Age of the oldest unacknowledged entry.", _lag_s(found, now), unit="seconds")
    yield _gauge("unacknowledged_entries", "Entries in outboxes that are not in the journal.", found.unacknowledged)
    yield _by("sessions", "Sessions, by condition.", "condition", found.sessions)
    yield _by("degraded", "Faults, by code; 1 while a fault lasts.", "code", {one.code: 1 for one in found.degraded})
    sizes = {kind: one.bytes for kind, one in found.sizes.items()}
    caps = {kind: one.cap_bytes for kind, one in found.sizes.items() if one.cap_bytes is not None}
    yield _by("size_bytes", "Size on disk, by kind.", "kind", sizes, unit="bytes")
    yield _by("size_cap_bytes", "Limit of the size on disk, by kind.", "kind", caps, unit="bytes")
    if daemon.connections is not None:
        yield _gauge("connections", "Clients that have a session open.", daemon.connections)
    if daemon.descriptors is not None:
        yield _gauge("open_files", "Files that the daemon has open.", daemon.descriptors.open)
        yield _gauge("open_files_limit", "Files that the daemon may open.", daemon.descriptors.limit)
    if daemon.sandbox is not None:
        restricted, seccomp = daemon.sandbox.no_new_privileges, daemon.sandbox.seccomp != "off"
        enforced = {"no_new_privileges": int(restricted), "seccomp": int(seccomp)}
        yield _by("sandbox", "Restrictions that the kernel enforces on the daemon.", "what", enforced)
    text = "Requests refused since the daemon started, by code."
    errors = CounterMetricFamily(f"{_PREFIX}errors", text, labels=["code"])
    for code, count in sorted(found.errors.items()):
        errors.add_metric([code], count)
    yield errors


def _lag_s(found: Status, now: datetime) -> float:
    return max((now - one.since).total_seconds() for one in found.waiting if one.since) if found.waiting else 0.0


def _gauge(name: str, text: str, value: float, *, unit: str = "") -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, value=float(value), unit=unit)


def _by(name: str, text: str, label: str, values: dict[str, int], *, unit: str = "") -> GaugeMetricFamily:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=[label], unit=unit)
    for key, value in values.items():
        family.add_metric([key], value)
    return family
