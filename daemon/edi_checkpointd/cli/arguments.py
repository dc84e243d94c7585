"""The arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from edi_checkpointd.cli.select import CommandLineError

SEQUENCE_MAX = (1 << 63) - 1


def flag(text: str, *names: str) -> Parameter:
    """Return an option without a value; `text` is its help, `names` replace the parameter's own name."""
    return Parameter(names or None, negative="", show_default=False, help=text)


_CHECKPOINT = "A file name, a timestamp or the beginning of one, a label, or @1 (the newest), @2"

SessionArgument = Annotated[str, Parameter(help="An id, a unique beginning of one, or `latest`.")]
Checkpoint = Annotated[str, Parameter(help=f"{_CHECKPOINT}.")]
CheckpointOrNow = Annotated[str | None, Parameter(help=f"{_CHECKPOINT}; by default the current state.")]
Target = Annotated[str | None, Parameter(help=f"{_CHECKPOINT}.")]
AsJson = Annotated[bool, flag("Print one JSON document, with times in UTC.", "--json")]
Yes = Annotated[bool, flag("Do not ask.")]
Takeover = Annotated[
    bool, flag("Do it even while an app has the session open. Whatever that app publishes later becomes a branch.")
]


def require_within(option: str, number: int, least: int = 0, most: int = SEQUENCE_MAX) -> None:
    """Raise `UsageError` for a number outside its range."""
    if not least <= number <= most:
        raise CommandLineError(f"{option} {number}: it must be {least} to {most}")
