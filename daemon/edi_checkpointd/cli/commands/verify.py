"""The command `verify`: read everything that is saved, and report what is damaged or missing."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from edi_checkpoint.system.paths import locate
from edi_checkpointd.cli.app import app, chosen, open_source
from edi_checkpointd.cli.arguments import AsJson
from edi_checkpointd.cli.output.progress import Bar
from edi_checkpointd.cli.output.screen import Screen
from edi_checkpointd.cli.views import documents


@app.command(sort_key=21, usage="Usage: edi-checkpoint verify [SESSION] [--json]")
def verify(
    session: Annotated[
        str | None, Parameter(help="An id, a unique beginning of one, or `latest`; by default all sessions.")
    ] = None,
    /,
    *,
    json: AsJson = False,
) -> int:
    """Read all saved data, and report damage.

    The command reads every checkpoint, attachment and journaled change, of one
    session or of all. It changes nothing, and works with and without a daemon.
    To set damaged files aside, run `edi-checkpointd check --repair`.

    The exit code is 6 if something is damaged, and 7 if acknowledged entries
    are lost.

    Example: edi-checkpoint verify
             edi-checkpoint verify latest
    """
    from edi_checkpointd.inspection import check, findings
    from edi_checkpointd.inspection import report as inspection_report

    session_id = None
    if session is not None:
        with open_source() as source:
            session_id = chosen(source, session)
    with Bar("verifying") as bar:
        report = check.verify(locate(), session_id, bar)
    if json:
        documents.write(inspection_report.document(report, report.result))
    else:
        screen = Screen.of_stdout()
        for line in inspection_report.lines(report, report.result, screen.width):
            screen.line(line)
    return findings.EXIT_CODES[report.result]
