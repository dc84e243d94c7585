"""The command `watch`: show events when they happen, in a live view on a terminal, else line by line."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

from edi_checkpoint.model import Event
from edi_checkpoint.system.paths import locate
from edi_checkpointd.cli.app import app
from edi_checkpointd.cli.arguments import flag
from edi_checkpointd.cli.exits import PROGRAM
from edi_checkpointd.cli.output.screen import Cell, Screen, moment
from edi_checkpointd.cli.views import documents
from edi_checkpointd.cli.views.events import EVENT_STYLE, details

_EVENT_CELLS = 10


@app.command(sort_key=17, usage="Usage: edi-checkpoint watch [--lines] [--json]")
def watch(
    *,
    lines: Annotated[bool, flag("Print lines on a terminal too, as when piped.")] = False,
    json: Annotated[bool, flag("Print a line of JSON for each event, with times in UTC.", "--json")] = False,
) -> None:
    """Show events when they happen. Ctrl-C ends it.

    Events are changes, checkpoints, conditions, rollbacks and faults. On a
    terminal the command shows a live view of the newest sessions and events. If
    piped, it prints a line for each event. If no daemon runs, it waits for one.
    After a restart of the daemon it continues with the new one.

    Example: edi-checkpoint watch
             edi-checkpoint watch --json | grep checkpoint
    """
    from edi_checkpoint.link.link import Link
    from edi_checkpointd.cli.follow import follow

    screen = Screen.of_stdout()
    with closing(Link(locate(), app=PROGRAM, version="")) as link:
        if sys.stdout.isatty() and not lines and not json:
            from edi_checkpointd.cli.views.live import show

            show(link)
            return
        for event in follow(link):
            if event is not None and json:
                documents.write_event(event)
            elif event is not None:
                screen.line(*_line(event))
                sys.stdout.flush()


def _line(event: Event) -> list[str | Cell]:
    what = Cell(event.event.ljust(_EVENT_CELLS), EVENT_STYLE.get(event.event, ""))
    whose = "" if event.session_id is None else f"  {event.session_id} {event.sequence or ''}".rstrip()
    return [moment(event.timestamp), "  ", what, whose, "  ", details(event)]
