"""The command that reads all that is kept of sessions and says whether it is what was written."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from edi_checkpoint.paths import locate
from edi_checkpointd.cli import documents
from edi_checkpointd.cli.app import AsJson, app, chosen, open_source
from edi_checkpointd.cli.screen import Screen

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SHOWN_AFTER_S = 1.0


@app.command(sort_key=21, usage="Usage: edi-checkpoint verify [SESSION] [--json]")
def verify(
    session: Annotated[
        str | None, Parameter(help="An id, the beginning of one that no other has, or `latest`; by default all.")
    ] = None,
    /,
    *,
    json: AsJson = False,
) -> int:
    """Read every checkpoint and attachment, of one session or of all, and see that each is what was written.

    With and without a daemon; nothing is changed. What is damaged, `edi-checkpointd check --repair` sets aside.

    Exit code 6 when something is damaged, 7 when acknowledged entries are lost.

    Example: edi-checkpoint verify
             edi-checkpoint verify latest
    """
    from edi_checkpointd import inspection
    from edi_checkpointd.inspection import words

    session_id = None
    if session is not None:
        with open_source() as source:
            session_id = chosen(source, session)
    with Bar("verifying") as bar:
        report = inspection.verify(locate(), session_id, bar)
    if json:
        documents.write(words.document(report, report.result))
    else:
        screen = Screen.of_stdout()
        for line in words.lines(report, report.result, screen.width):
            screen.line(line)
    return inspection.EXIT_CODES[report.result]


class Bar:
    """A progress bar on stderr, if that is a terminal: called with bytes done and in all, shown after a second."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begun_s = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is, once it has taken a while."""
        if self._bar is None:
            if time.monotonic() - self._begun_s < _SHOWN_AFTER_S or not sys.stderr.isatty():
                return
            from rich.console import Console
            from rich.progress import Progress

            progress = Progress(console=Console(stderr=True), transient=True)
            self._bar = progress, progress.add_task(self._what)
            progress.start()
        progress, task = self._bar
        progress.update(task, completed=done, total=total)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()
