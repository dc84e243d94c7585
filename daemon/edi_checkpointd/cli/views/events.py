"""The words and colours of the daemon's events, for the lines and for the live view of `watch`."""

from __future__ import annotations

from typing import Final

from edi_checkpoint.model import Event

EVENT_STYLE: Final = {"checkpoint": "green", "rollback": "cyan", "fault": "bold red", "daemon": "bold"}


def details(event: Event) -> str:
    """Return the details of an event, without its kind and its session."""
    match event.event:
        case "update":
            return f"{event.entries} change{'s' * (event.entries != 1)}: {event.detail}"
        case "checkpoint":
            return f"{event.detail}, {event.name}"
        case _:
            return ": ".join(text for text in (event.name, event.detail) if text)


def brief_details(event: Event) -> str:
    """Return the details of an event, without the file name of a checkpoint, which rarely fits into a table."""
    return event.detail or "" if event.event == "checkpoint" else details(event)
