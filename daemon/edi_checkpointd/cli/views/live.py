"""The live view of `watch`: the newest sessions at the top, the newest events below, as many as fit."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections import deque
from datetime import UTC, datetime
from functools import partial

from msgspec import structs
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edi_checkpoint.errors import DaemonUnavailable
from edi_checkpoint.link.link import Link
from edi_checkpoint.model import Event, SessionInfo
from edi_checkpoint.wire import messages
from edi_checkpointd.cli.daemon import expect
from edi_checkpointd.cli.follow import follow
from edi_checkpointd.cli.output.screen import visible
from edi_checkpointd.cli.output.tables import CONDITION_STYLE
from edi_checkpointd.cli.views.events import EVENT_STYLE, brief_details
from edi_checkpointd.cli.views.status import duration

SESSIONS_ASKED = 100
EVENTS_KEPT = 200
_GATHER_S = 0.1  # between two redraws
_ANSWER_S = 5.0
_SESSION_CELLS = 16
_FRAME_LINES = 4  # the heading, an empty line, and the titles of both tables


def show(link: Link) -> None:
    """Show the view until Ctrl-C or SIGTERM; restore the terminal then."""
    view = View()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with Live(view, console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        for event in follow(link, pause_s=_GATHER_S):
            if event is None:
                live.refresh()
                continue
            view.apply(event)
            if event.event == "daemon" and event.name == "connected":
                view.begin(_sessions(link))


def _sessions(link: Link) -> list[SessionInfo]:
    with contextlib.suppress(DaemonUnavailable):
        question = partial(messages.ListSessions, condition=None, limit=SESSIONS_ASKED)
        return expect(messages.Sessions, link.ask(question, _ANSWER_S)).sessions
    return []


class View:
    """The sessions and events seen so far; rich draws them at the terminal's current size."""

    def __init__(self) -> None:
        """Start without sessions and events."""
        self._daemon = ""
        self._sessions: dict[str, SessionInfo] = {}
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)

    def begin(self, found: list[SessionInfo]) -> None:
        """Replace the sessions by `found`, newest first."""
        self._sessions = {info.session_id: info for info in reversed(found)}

    def apply(self, event: Event) -> None:
        """Add an event, and move its session to the top."""
        self._events.append(event)
        if event.event == "daemon":
            self._daemon = f"{event.name}: {event.detail}"
        if event.session_id is not None and event.event in ("update", "rollback", "condition"):
            before = self._sessions.pop(event.session_id, None) or _unknown(event.session_id)
            self._sessions[event.session_id] = structs.replace(
                before,
                condition=event.name if event.event == "condition" else before.condition,
                stage=event.stage or before.stage,
                sequence=event.sequence or before.sequence,
                updated=event.timestamp,
            )
            while len(self._sessions) > SESSIONS_ASKED:
                del self._sessions[next(iter(self._sessions))]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the view: sessions get at most half of the lines, events the rest."""
        room = max(2, (options.height or console.height) - _FRAME_LINES)
        sessions = list(reversed(self._sessions.values()))[: room // 2]
        events = list(self._events)[-max(1, room - len(sessions)) :]
        yield Group(
            _head(f"daemon {self._daemon or 'not found yet'}"),
            _session_table(sessions, datetime.now(UTC)),
            Text(""),
            _event_table(events),
        )


def _head(title: str) -> Table:
    head = Table.grid(expand=True)
    head.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    head.add_column(no_wrap=True, justify="right")
    head.add_row(Text(f"edi-checkpoint watch  {title}", "bold"), Text("Ctrl-C ends", "dim"))
    return head


def _unknown(session_id: str) -> SessionInfo:
    return SessionInfo(session_id, "live", None, None, None, None, None, None, None, 0, 0, None)


def _session_table(sessions: list[SessionInfo], now: datetime) -> Table:
    table = _table("SESSION", "CONDITION", "SEQUENCE", "UPDATED", "STAGE", "PROMPT")
    for info in sessions:
        ago = "-" if info.updated is None else f"{duration(max(0.0, (now - info.updated).total_seconds()))} ago"
        condition = Text(info.condition, CONDITION_STYLE.get(info.condition, ""))
        stage, prompt = _text(info.stage or ""), _text(info.prompt or "")
        table.add_row(_text(info.session_id), condition, str(info.sequence), ago, stage, prompt)
    return table


def _event_table(events: list[Event]) -> Table:
    table = _table("TIME", "EVENT", "SESSION", "SEQUENCE", "WHAT")
    for event in events:
        time = event.timestamp.astimezone().strftime("%H:%M:%S")
        what = Text(event.event, EVENT_STYLE.get(event.event, ""))
        sequence = "" if event.sequence is None else str(event.sequence)
        table.add_row(time, what, _text(event.session_id or ""), sequence, _text(brief_details(event)))
    return table


def _table(*columns: str) -> Table:
    """Return a table without borders; the last column takes the remaining width."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, header_style="dim")
    for title in columns:
        at_most, ratio = _SESSION_CELLS if title == "SESSION" else None, 1 if title == columns[-1] else None
        table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=at_most, ratio=ratio)
    return table


def _text(text: str) -> Text:
    return Text(visible(text))
