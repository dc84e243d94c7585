"""Following the daemon's feed: its events as they come, over its restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

from edi_checkpoint import protocol
from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.holder import running
from edi_checkpoint.link import Link
from edi_checkpoint.model import Event

TICK_S = 0.5  # how often who waits is let go on, to look at the clock and at the terminal's size


def follow(link: Link, *, pause_s: float = 0.0) -> Iterator[Event | None]:
    """Yield what happens from now on, for ever; None when there is no more just now, every `TICK_S` at least.

    That the daemon is gone or there (again), and that events were missed, is told among it. `pause_s` lets events
    gather between two answers. Raises what the daemon refuses a watcher with.
    """
    link.wait_connected(TICK_S)
    feed, number = "", 0
    connected: bool | None = None
    while True:
        asked = link.put(partial(protocol.Subscribe, feed=feed, after=number))
        while not asked.done():
            if link.connected != connected:
                connected = link.connected
                feed = feed if connected else ""
                yield _daemon(link, connected=connected)
            try:
                asked.result(TICK_S)
            except TimeoutError:
                yield None
        answer = asked.result()
        if not isinstance(answer, protocol.Events):
            raise ProtocolError(f"answered by {type(answer).__name__}, not by Events")
        if feed not in ("", answer.feed):  # so soon that we did not see it go
            yield _daemon(link, connected=True)
        if answer.missed:
            yield _told("fault", "events_missed", f"{answer.missed} events came too fast to be told")
        feed, number = answer.feed, answer.number
        yield from answer.events
        yield None
        time.sleep(pause_s)


def _daemon(link: Link, *, connected: bool) -> Event:
    if not connected:
        return _told("daemon", "gone", "none answers; waiting for the next")
    holder = running(link.paths.lock)
    return _told("daemon", "connected", f"process {holder.pid}" if holder else "")


def _told(event: str, name: str, detail: str) -> Event:
    return Event(event, None, None, datetime.now(UTC), name, None, detail)
