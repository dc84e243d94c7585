"""The command line as a whole: the app that commands join, what several of them take, and what they are run with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter

from edi_checkpoint.paths import locate
from edi_checkpointd.cli import PROGRAM, Exit, select
from edi_checkpointd.cli.screen import Screen
from edi_checkpointd.cli.source import Source

if TYPE_CHECKING:
    from rich.console import Console

SEQUENCE_MAX = (1 << 63) - 1

SessionArgument = Annotated[str, Parameter(help="An id, the beginning of one that no other has, or `latest`.")]
CheckpointArgument = Annotated[
    str | None,
    Parameter(
        help="A file's name, its timestamp or the beginning of that, a label, or @1 (the newest), @2 and so on;"
        " without it the current state."
    ),
]
AsJson = Annotated[
    bool, Parameter("--json", negative="", show_default=False, help="Print one JSON document, with times in UTC.")
]

Takeover = Annotated[
    bool,
    Parameter(
        negative="",
        show_default=False,
        help="Even while another writes to it: that one is shut out, and what it publishes on becomes a branch.",
    ),
]


def _version() -> str:
    from importlib.metadata import version

    return f"{PROGRAM} {version(PROGRAM)}"


app = App(
    name=PROGRAM,
    help="""Look at what is kept of EDI's sessions: which were interrupted, what changed, how they stood at any time.

It works with and without a running daemon. What only shows changes nothing.

Begin with:  edi-checkpoint sessions
Then:        edi-checkpoint show latest

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 needs a daemon and none answers, 5 busy, 6 damage,
7 acknowledged entries lost.""",
    help_format="plaintext",
    version=_version,
    version_flags=["--version"],
    result_action="return_value",
)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Raises `EdiCheckpointError`; a fault of usage is a `UsageError`."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, console=_help_console(arguments))
    except CycloptsError as error:
        raise select.UsageError(" ".join(str(error).split())) from error
    return code if isinstance(code, int) else Exit.DONE


def open_source() -> Source:
    """Return where answers come from; what people should know beside them goes to stderr."""
    return Source(locate(), tell)


def chosen(source: Source, text: str) -> str:
    """Return the id of the session that `text` selects; a whole id is recognised without a list of all."""
    return text if source.knows(text) else select.session(text, [info.session_id for info in source.sessions()])


def require_within(option: str, number: int, least: int, most: int) -> None:
    """Raise `UsageError` for a number out of its range."""
    if not least <= number <= most:
        raise select.UsageError(f"{option} {number}: it must be {least} to {most}")


def agreed(question: str) -> bool:
    """Ask a person, and return whether they said yes."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def tell(text: str) -> None:
    """Tell a person what is no result."""
    print(f"{PROGRAM}: {text}", file=sys.stderr)


def _help_console(arguments: Sequence[str]) -> Console | None:
    """Return where help is printed, when it is asked for: our colours, and no frames of other characters than ASCII."""
    if arguments and {"--help", "-h"}.isdisjoint(arguments):
        return None
    from cyclopts.help import DefaultFormatter, PanelSpec
    from rich.box import Box
    from rich.console import Console

    app.help_formatter = DefaultFormatter(panel_spec=PanelSpec(box=Box("    \n" * 8, ascii=True), padding=(0, 1)))
    return Console(color_system="auto" if Screen.of_stdout().colours else None, highlight=False)
