"""The app with all its commands, and what most commands call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError

from edi_checkpoint.system.paths import locate
from edi_checkpointd.cli import select
from edi_checkpointd.cli.exits import PROGRAM, Exit
from edi_checkpointd.cli.output.screen import Screen
from edi_checkpointd.cli.source import Source

if TYPE_CHECKING:
    from rich.console import Console


def software() -> str:
    """Return the program's name and version."""
    from importlib.metadata import version

    return f"{PROGRAM} {version(PROGRAM)}"


app = App(
    name=PROGRAM,
    help="""List EDI's sessions, show their states and changes, and roll them back.

Commands that only read need no daemon. Commands that change a session start
one, and exit 5 while an app has the session open.

Begin with:  edi-checkpoint sessions
Then:        edi-checkpoint show latest

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 needs a daemon and
none answers, 5 busy, 6 damage, 7 acknowledged entries lost.""",
    help_format="plaintext",
    version=software,
    version_flags=["--version"],
    result_action="return_value",
)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Raises `EdiCheckpointError`; a wrong argument is a `UsageError`."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, console=_help_console(arguments))
    except CycloptsError as error:
        raise select.CommandLineError(" ".join(str(error).split())) from error
    return code if isinstance(code, int) else Exit.DONE


def open_source() -> Source:
    """Return the source of all answers (daemon or files); its notes for people go to stderr."""
    return Source(locate(), tell)


def chosen(source: Source, text: str) -> str:
    """Return the id of the session that `text` selects. A whole id needs no list of all sessions."""
    return text if source.knows(text) else select.session(text, [info.session_id for info in source.sessions()])


def agreed(question: str) -> bool:
    """Ask a person, and return whether they said yes."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def tell(text: str) -> None:
    """Print a note for people to stderr."""
    print(f"{PROGRAM}: {text}", file=sys.stderr)


def _help_console(arguments: Sequence[str]) -> Console | None:
    """Return the console that help is printed on (our colours, ASCII frames); None if no help was asked for."""
    if arguments and {"--help", "-h"}.isdisjoint(arguments):
        return None
    from cyclopts.help import DefaultFormatter, PanelSpec
    from rich.box import Box
    from rich.console import Console

    app.help_formatter = DefaultFormatter(panel_spec=PanelSpec(box=Box("    \n" * 8, ascii=True), padding=(0, 1)))
    return Console(color_system="auto" if Screen.of_stdout().colours else None, highlight=False)
