"""The command `doctor`: check everything that the software needs, and name a remedy for each fault."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edi_checkpoint.system.paths import locate
from edi_checkpointd.cli.app import app
from edi_checkpointd.cli.arguments import AsJson
from edi_checkpointd.cli.exits import Exit
from edi_checkpointd.cli.output.screen import Cell, Screen
from edi_checkpointd.cli.views import documents

if TYPE_CHECKING:
    from edi_checkpointd.cli.checks.finding import CheckResult

_WORDS = {True: ("ok", "green"), False: ("failed", "bold red"), None: ("skipped", "dim")}
_WORD_CELLS, _NAME_CELLS = 8, 16


@app.command(sort_key=18, usage="Usage: edi-checkpoint doctor [--json]")
def doctor(*, json: AsJson = False) -> Exit:
    """Check the installation, and name a remedy for each fault.

    The command checks configuration, folders, disks, service, socket, daemon
    and clock. It also saves and removes a test session. A line that begins
    with $ is a command that you can run. The exit code is 6 if a check fails.

    Example: edi-checkpoint doctor
    """
    from edi_checkpoint.system.version import installed_version
    from edi_checkpointd.cli.checks import examine
    from edi_checkpointd.cli.checks.setup import Setup

    screen = Screen.of_stdout()
    found = []
    for name, finding in examine(Setup(locate(), os.environ, installed_version())):
        found.append((name, finding))
        if not json:
            _show(screen, name, finding)
    faults = sum(finding.ok is False for _, finding in found)
    if json:
        checks = [{"name": name, **finding._asdict()} for name, finding in found]
        documents.write({"ok": not faults, "checks": checks})
    else:
        screen.line()
        passed = sum(finding.ok is True for _, finding in found)
        said = f"{faults} of {len(found)} checks failed" if faults else f"all is well: {passed} checks passed"
        screen.line(Cell(said, "bold red" if faults else "bold green"))
    return Exit.DAMAGE if faults else Exit.DONE


def _show(screen: Screen, name: str, finding: CheckResult) -> None:
    """Print a finding as soon as it is known: some checks wait for a hanging daemon."""
    word, style = _WORDS[finding.ok]
    head = Cell(word.ljust(_WORD_CELLS), style), name.ljust(_NAME_CELLS)
    screen.paragraphs([[*head, *finding.message.split(" ")]], indent=_WORD_CELLS + _NAME_CELLS + 2)
    if finding.remedy and finding.command:  # not wrapped, so that it can be copied
        screen.line(" " * (_WORD_CELLS + 1), Cell(f"$ {finding.remedy}", "bold"))
    elif finding.remedy:
        screen.paragraphs([[" " * _WORD_CELLS, *finding.remedy.split(" ")]], indent=_WORD_CELLS + 1)
