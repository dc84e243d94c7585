"""Follow the daemon's feed of events, also across restarts of the daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

from edi_checkpoint.link.link import Link
from edi_checkpoint.model import Event
from edi_checkpoint.system.daemon_lock import running
from edi_checkpoint.wire import messages
from edi_checkpointd.cli.daemon import expect

TICK_S = 0.5  # how often the caller gets control, to look at the clock and at the terminal's size


def follow(link: Link, *, pause_s: float = 0.0) -> Iterator[Event | None]:
    """Yield all events from now on, for ever; and None whenever there is no event, at least every `TICK_S`.

    Events of its own say that the daemon ended or started, and that events were missed. `pause_s` collects more events
    per answer. Raises the error with which the daemon refuses a watcher.
    """
    link.wait_connected(TICK_S)
    feed, number = "", 0
    connected: bool | None = None
    while True:
        asked = link.put(partial(messages.Subscribe, feed=feed, after=number))
        while not asked.done():
            if link.connected != connected:
                connected = link.connected
                feed = feed if connected else ""
                yield _daemon(link, connected=connected)
            try:
                asked.result(TICK_S)
            except TimeoutError:
                yield None
        answer = expect(messages.Events, asked.result())
        if feed not in ("", answer.feed):  # the daemon restarted faster than we looked
            yield _daemon(link, connected=True)
        if answer.missed:
            yield _event("fault", "events_missed", f"{answer.missed} events came too fast and are not shown")
        feed, number = answer.feed, answer.number
        yield from answer.events
        yield None
        time.sleep(pause_s)


def _daemon(link: Link, *, connected: bool) -> Event:
    if not connected:
        return _event("daemon", "gone", "no daemon answers; waiting for one")
    holder = running(link.paths.lock)
    return _event("daemon", "connected", f"process {holder.pid}" if holder else "")


def _event(event: str, name: str, detail: str) -> Event:
    return Event(event, None, None, datetime.now(UTC), name, None, detail)
