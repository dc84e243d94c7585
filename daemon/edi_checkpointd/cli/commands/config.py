"""The command `config`: show the value of each setting and where it was set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edi_checkpoint.system.paths import locate
from edi_checkpointd.cli.app import app, open_source, tell
from edi_checkpointd.cli.arguments import AsJson
from edi_checkpointd.cli.output.screen import Cell, Column, Screen, size
from edi_checkpointd.cli.views import documents


@app.command(sort_key=20, usage="Usage: edi-checkpoint config [--json]")
def config(*, json: AsJson = False) -> None:
    """Show every setting with its value and its source.

    The source is a flag, the environment, the configuration file or a default.
    A running daemon answers with the values in use. Without a daemon, the
    command shows the values that a new daemon would use.

    The daemon reloads a changed file at once, and on SIGHUP. If the file has an
    error, the daemon keeps its settings, and `status` names the error. EDI reads
    the settings marked * itself when it connects, from file and environment.

    Example: edi-checkpoint config
             EDI_CHECKPOINT_TRASH_DAYS=1 edi-checkpoint config
    """
    with open_source() as source:
        rows = source.settings()
    if json:
        documents.write({"values": rows})
        return
    screen = Screen.of_stdout()
    screen.line(Cell(f"file {locate().config}", "dim"))
    cut = screen.table(
        [Column("KEY", "bold"), Column("VALUE", least=12), Column("UNIT", "dim"), Column("SOURCE")],
        [_row(row) for row in rows],
    )
    if cut:
        tell("some values are cut to fit; --json shows them in full, with ranges and descriptions")


def _row(row: Mapping[str, Any]) -> tuple[str | Cell, ...]:
    value, source = row["value"], row["source"]
    unit = f"bytes, {size(value)}" if row["unit"] == "bytes" else row["unit"]
    if isinstance(value, list | tuple):
        text = ", ".join(value)
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    place = f"file, line {row['where'].rpartition(' line ')[2]}" if source == "file" else source
    return (
        row["key"] + "*" * (row["read_by"] == "client"),
        text,
        unit,
        Cell(place, "dim" if source == "default" else ""),
    )
