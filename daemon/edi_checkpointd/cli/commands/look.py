"""The commands that only read: their arguments, where their answers come from, and how these are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from edi_checkpoint.home.condition import Condition
from edi_checkpoint.wire.messages import SESSIONS_MAX
from edi_checkpointd.cli import select
from edi_checkpointd.cli.app import app, chosen, open_source, tell
from edi_checkpointd.cli.arguments import AsJson, CheckpointOrNow, SessionArgument, flag, require_within
from edi_checkpointd.cli.exits import Exit
from edi_checkpointd.cli.output import tables
from edi_checkpointd.cli.output.screen import Screen
from edi_checkpointd.cli.output.tree import flat, grown, with_parents
from edi_checkpointd.cli.views import documents

_CUT = "some values are cut to fit; --json shows them in full"


@app.command(sort_key=1, usage="Usage: edi-checkpoint sessions [--condition C] [--tree] [--limit N] [--json]")
def sessions(
    *,
    condition: Annotated[
        Condition | Literal["trashed"] | None,
        Parameter(help="Show only sessions of this condition; `trashed` shows those that `restore` can bring back."),
    ] = None,
    tree: Annotated[bool, flag("Show forks and branches below their parent session.")] = False,
    limit: Annotated[int, Parameter(help="Show at most this many.")] = 100,
    json: AsJson = False,
) -> None:
    """List the sessions, newest first.

    live         an app has the session open
    interrupted  the app died: resume the session, or dismiss it
    unfinished   the app closed the session, neither completed nor failed
    ended        the session is completed or failed

    Example: edi-checkpoint sessions --condition interrupted
    """
    require_within("--limit", limit, 1, SESSIONS_MAX)
    with open_source() as source:
        trashed = source.trashed()
        if json:
            rows = trashed[:limit] if condition == "trashed" else source.sessions(condition, limit)
            documents.write({"sessions": [documents.row(info) for info in rows]})
            return
        every = trashed if condition == "trashed" else source.sessions()
    found = [info for info in every if condition in (None, info.condition)]
    if trashed and condition is None:
        tell(f"{len(trashed)} more in the trash; --condition trashed lists them")
    if not found:
        tell("no sessions" if condition is None else f"no session is {condition}")
        return
    shown = grown(with_parents(found[:limit], every)) if tree else flat(found[:limit])
    tables.sessions(Screen.of_stdout(), shown, [info.session_id for info in every])
    if len(found) > limit:
        tell(f"{limit} of {len(found)} sessions; --limit N shows more")


@app.command(sort_key=0, usage="Usage: edi-checkpoint status [--json | --openmetrics]")
def status(
    *, openmetrics: Annotated[bool, flag("Print OpenMetrics text, for monitoring.")] = False, json: AsJson = False
) -> None:
    """Show whether all work is safe, what is wrong and how to fix it.

    Example: edi-checkpoint status
             edi-checkpoint status --openmetrics > edi-checkpoint.prom
    """
    if json and openmetrics:
        raise select.CommandLineError("--json and --openmetrics exclude each other: give only one of them")
    with open_source() as source:
        found = source.status()
    if json:
        documents.write(found)
    elif openmetrics:
        from edi_checkpointd.cli.views import metrics

        metrics.write(found, datetime.now(UTC))
    else:
        from edi_checkpointd.cli.views.status import show_status

        show_status(Screen.of_stdout(), found, datetime.now(UTC))


@app.command(sort_key=2, usage="Usage: edi-checkpoint log SESSION [--json]")
def log(session: SessionArgument, /, *, json: AsJson = False) -> None:
    """List a session's checkpoints, oldest first.

    Each comes with the changes since the previous one.

    Example: edi-checkpoint log latest
    """
    from edi_checkpointd.cli.views import differences

    with open_source() as source:
        session_id = chosen(source, session)
        found = source.checkpoints(session_id)
        summaries = list(differences.summaries(source, found))
    if json:
        rows = [documents.log_row(*pair) for pair in zip(found, summaries, strict=True)]
        documents.write({"session_id": session_id, "checkpoints": rows})
    elif not found:
        tell(f"session {session_id} has no checkpoints")
    else:
        tables.log(Screen.of_stdout(), session_id, found, summaries)


@app.command(sort_key=3, usage="Usage: edi-checkpoint history SESSION [--since N] [--json]")
def history(
    session: SessionArgument,
    /,
    *,
    since: Annotated[int, Parameter(help="Start at this sequence.")] = 1,
    json: AsJson = False,
) -> None:
    """List every change of a session in the journal, oldest first.

    Example: edi-checkpoint history latest --since 800
    """
    require_within("--since", since)
    with open_source() as source:
        session_id = chosen(source, session)
        pages = source.history(session_id, since)
        if json:
            documents.write_history(session_id, pages)
        else:
            tables.history(Screen.of_stdout(), session_id, pages)


@app.command(sort_key=4, usage="Usage: edi-checkpoint show SESSION [CHECKPOINT | --sequence N | --at T] [--json]")
def show(
    session: SessionArgument,
    checkpoint: CheckpointOrNow = None,
    /,
    *,
    sequence: Annotated[int | None, Parameter(help="Show the state after this change (see `history`).")] = None,
    at: Annotated[
        str | None, Parameter(help="Show the state at this time: ISO 8601, 12:03 (today) or 10m (ago; also s, h, d).")
    ] = None,
    json: AsJson = False,
) -> None:
    """Show a session's state: now, in a checkpoint, or at a time.

    Example: edi-checkpoint show latest
             edi-checkpoint show latest @2
             edi-checkpoint show latest --at 10m
    """
    if sum(given is not None for given in (checkpoint, sequence, at)) > 1:
        raise select.CommandLineError("CHECKPOINT, --sequence and --at exclude each other: give only one of them")
    if sequence is not None:
        require_within("--sequence", sequence)
    time = None if at is None else select.time(at, datetime.now(UTC))
    with open_source() as source:
        session_id = chosen(source, session)
        name = None if checkpoint is None else select.checkpoint(checkpoint, source.checkpoints(session_id)).name
        found = source.state(session_id, checkpoint=name, sequence=sequence, at=time)
    if json:
        documents.write(documents.show(found))
    elif tables.show(Screen.of_stdout(), found):
        tell(_CUT)


@app.command(sort_key=5, usage="Usage: edi-checkpoint diff SESSION [A] [B] [--other SESSION] [--json]")
def diff(
    session: SessionArgument,
    a: Annotated[
        str | None, Parameter(help="The earlier checkpoint, selected as for `show`. By default @1, the newest.")
    ] = None,
    b: Annotated[str | None, Parameter(help="The later checkpoint. By default the current state.")] = None,
    /,
    *,
    other: Annotated[
        str | None,
        Parameter(help="Compare with this session; B is one of its checkpoints. A then defaults to the current state."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show what changed between two checkpoints, or since one.

    + added   - removed   ~ changed   > moved; in texts +word and -word

    --json prints a JSON Patch (RFC 6902) that turns state A into state B.

    Example: edi-checkpoint diff latest
             edi-checkpoint diff latest @3 @2
             edi-checkpoint diff lighthouse --other lighthouse-branch
    """
    from edi_checkpointd.cli.views import differences

    with open_source() as source:
        first = chosen(source, session)
        second = first if other is None else chosen(source, other)
        if a is None and other is None:
            a = "@1"
        before, after = differences.side(source, first, a), differences.side(source, second, b)
        if json:
            documents.write(differences.document(before, after))
        elif differences.show(Screen.of_stdout(), source, before, after):
            tell(_CUT)


@app.command(sort_key=13, usage="Usage: edi-checkpoint attachments SESSION [--extract DIR] [--json]")
def attachments(
    session: SessionArgument,
    /,
    *,
    extract: Annotated[
        Path | None, Parameter(help="Write them into this folder as they are stored: pictures, .npy arrays, raw bytes.")
    ] = None,
    json: AsJson = False,
) -> Exit:
    """List or extract the masks, other arrays and bytes of a session.

    They are those of the current state. The exit code is 6 if one of them is
    missing or damaged. All others are still listed and extracted.

    Example: edi-checkpoint attachments latest --extract masks
    """
    from edi_checkpointd.cli.views.attachments import inspect

    with open_source() as source:
        session_id = chosen(source, session)
        found = list(inspect(source, source.state(session_id), extract))
    if json:
        documents.write(documents.attachments(session_id, found))
    elif not found:
        tell(f"session {session_id} has no arrays and no bytes")
    else:
        tables.attachments(Screen.of_stdout(), session_id, found)
    faults = [named.fault for named in found if named.fault is not None]
    for fault in faults:
        tell(f"{fault.message}: {fault.hint}")
    return Exit.DAMAGE if faults else Exit.DONE


@app.command(sort_key=20, usage="Usage: edi-checkpoint demo [--keep] [--json]")
def demo(
    *, keep: Annotated[bool, flag("Keep the demo's folder, so that you can look at it.")] = False, json: AsJson = False
) -> int:
    """Kill a demo session in the middle of its work, and recover it.

    The demo uses a temporary folder. It does not touch your sessions.

    Example: edi-checkpoint demo
    """
    from edi_checkpointd.cli.demo.demo import run_demo

    return run_demo(keep=keep, json_output=json)
