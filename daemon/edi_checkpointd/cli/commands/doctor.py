"""The command `doctor`: check everything that the software needs, and name a remedy for each fault."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

from edi_checkpoint.system.paths import locate
from edi_checkpointd.cli.app import AsJson, app
from edi_checkpointd.cli.exits import Exit
from edi_checkpointd.cli.output.screen import Cell, Screen, visible
from edi_checkpointd.cli.views import documents

if TYPE_CHECKING:
    from edi_checkpointd.cli.checks.finding import CheckResult

_WORDS = {True: Cell("ok", "green"), False: Cell("failed", "bold red"), None: Cell("skipped", "dim")}
_WORD_CELLS, _NAME_CELLS = 9, 17
_REMEDY_INDENT = " " * _WORD_CELLS


@app.command(sort_key=18, usage="Usage: edi-checkpoint doctor [--json]")
def doctor(*, json: AsJson = False) -> int:
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
        documents.write(documents.doctor(found))
    else:
        screen.line()
        passed = sum(finding.ok is True for _, finding in found)
        said = f"{faults} of {len(found)} checks failed" if faults else f"all is well: {passed} checks passed"
        screen.line(Cell(said, "bold red" if faults else "bold green"))
    return Exit.DAMAGE if faults else Exit.DONE


def _show(screen: Screen, name: str, finding: CheckResult) -> None:
    """Print a finding as soon as it is known: some checks wait for a hanging daemon."""
    word = _WORDS[finding.ok]
    first, *more = _wrapped(screen, visible(finding.message), _WORD_CELLS + _NAME_CELLS)
    gaps = " " * (_WORD_CELLS - len(word.text)), " " * (_NAME_CELLS - len(name))
    screen.line(word, gaps[0], name, gaps[1], first)
    for line in more:
        screen.line(" " * (_WORD_CELLS + _NAME_CELLS) + line)
    if finding.remedy and finding.command:  # not wrapped, so that it can be copied
        screen.line(_REMEDY_INDENT, Cell(f"$ {finding.remedy}", "bold"))
    elif finding.remedy:
        for line in _wrapped(screen, visible(finding.remedy), _WORD_CELLS):
            screen.line(_REMEDY_INDENT, line)


def _wrapped(screen: Screen, text: str, indent: int) -> list[str]:
    if screen.width is None:
        return [text]
    room = max(20, screen.width - indent)
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
