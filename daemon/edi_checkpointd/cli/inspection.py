"""The command that reads all that is kept of sessions and says whether it is what was written."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from edi_checkpoint.paths import locate
from edi_checkpointd.cli import documents
from edi_checkpointd.cli.app import AsJson, app, chosen, open_source
from edi_checkpointd.cli.progress import Bar
from edi_checkpointd.cli.screen import Screen


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
