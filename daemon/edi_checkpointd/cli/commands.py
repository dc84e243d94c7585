"""The commands that look: what each takes, whom it asks, how the answer is shown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from edi_checkpoint.condition import Condition
from edi_checkpointd.cli import Exit, documents, render, select
from edi_checkpointd.cli.app import (
    SEQUENCE_MAX,
    AsJson,
    CheckpointArgument,
    SessionArgument,
    app,
    chosen,
    open_source,
    require_within,
    tell,
)
from edi_checkpointd.cli.screen import Screen
from edi_checkpointd.cli.source import SESSIONS_MAX
from edi_checkpointd.cli.tree import flat, grown, with_parents


@app.command(sort_key=1, usage="Usage: edi-checkpoint sessions [--condition C] [--tree] [--limit N] [--json]")
def sessions(
    *,
    condition: Annotated[
        Condition | Literal["trashed"] | None,
        Parameter(help="Only sessions of this condition; `trashed`: those that `restore` brings back."),
    ] = None,
    tree: Annotated[
        bool, Parameter(negative="", show_default=False, help="Show below each session what was made from it.")
    ] = False,
    limit: Annotated[int, Parameter(help="How many at most.")] = 100,
    json: AsJson = False,
) -> int:
    """List the sessions, newest first.

    live         a writer is attached
    interrupted  its writer died: it can be gone on with, or dismissed
    unfinished   it was left, and is neither completed nor failed
    ended        it is completed or failed

    Example: edi-checkpoint sessions --condition interrupted
    """
    require_within("--limit", limit, 1, SESSIONS_MAX)
    with open_source() as source:
        trashed = source.trashed()
        if json:
            rows = trashed[:limit] if condition == "trashed" else source.sessions(condition, limit)
            documents.write(documents.sessions(rows))
            return Exit.DONE
        every = trashed if condition == "trashed" else source.sessions()
    found = [info for info in every if condition in (None, info.condition)]
    if trashed and condition is None:
        tell(f"{len(trashed)} more in the trash: --condition trashed")
    if not found:
        tell("no sessions" if condition is None else f"no session is {condition}")
        return Exit.DONE
    shown = grown(with_parents(found[:limit], every)) if tree else flat(found[:limit])
    render.sessions(Screen.of_stdout(), shown, [info.session_id for info in every])
    if len(found) > limit:
        tell(f"{limit} of {len(found)} sessions; --limit N shows more")
    return Exit.DONE


@app.command(sort_key=0, usage="Usage: edi-checkpoint status [--json | --openmetrics]")
def status(
    *,
    openmetrics: Annotated[
        bool, Parameter(negative="", show_default=False, help="Print it for monitoring, as OpenMetrics text.")
    ] = False,
    json: AsJson = False,
) -> int:
    """Say whether all work is safe and since when, what is wrong and what to do about it.

    Example: edi-checkpoint status
             edi-checkpoint status --openmetrics > edi-checkpoint.prom
    """
    if json and openmetrics:
        raise select.UsageError("--json and --openmetrics say the same thing in two ways: give one of them")
    with open_source() as source:
        found = source.status()
    if json:
        documents.write(documents.status(found))
    elif openmetrics:
        from edi_checkpointd.cli import metrics

        metrics.write(found, datetime.now(UTC))
    else:
        from edi_checkpointd.cli import report

        report.status(Screen.of_stdout(), found, datetime.now(UTC))
    return Exit.DONE


@app.command(sort_key=2, usage="Usage: edi-checkpoint log SESSION [--json]")
def log(session: SessionArgument, /, *, json: AsJson = False) -> int:
    """List the checkpoints of a session, oldest first, each with what changed since the one before.

    Example: edi-checkpoint log latest
    """
    from edi_checkpointd.cli import differences

    with open_source() as source:
        session_id = chosen(source, session)
        found = source.checkpoints(session_id)
        summaries = list(differences.summaries(source, found))
    if json:
        documents.write(documents.log(session_id, found, summaries))
    elif not found:
        tell(f"session {session_id} has no checkpoints")
    else:
        render.log(Screen.of_stdout(), session_id, found, summaries)
    return Exit.DONE


@app.command(sort_key=3, usage="Usage: edi-checkpoint history SESSION [--since N] [--json]")
def history(
    session: SessionArgument,
    /,
    *,
    since: Annotated[int, Parameter(help="The sequence to begin with.")] = 1,
    json: AsJson = False,
) -> int:
    """List every change of a session that the journal holds, oldest first.

    Example: edi-checkpoint history latest --since 800
    """
    require_within("--since", since, 0, SEQUENCE_MAX)
    with open_source() as source:
        session_id = chosen(source, session)
        pages = source.history(session_id, since)
        if json:
            documents.write_history(session_id, pages)
        else:
            render.history(Screen.of_stdout(), session_id, pages)
    return Exit.DONE


@app.command(sort_key=4, usage="Usage: edi-checkpoint show SESSION [CHECKPOINT | --sequence N | --at T] [--json]")
def show(
    session: SessionArgument,
    checkpoint: CheckpointArgument = None,
    /,
    *,
    sequence: Annotated[int | None, Parameter(help="The state after this change (see `history`).")] = None,
    at: Annotated[
        str | None, Parameter(help="The state at a time: ISO 8601, 12:03 (today) or 10m (ago; also s, h, d).")
    ] = None,
    json: AsJson = False,
) -> int:
    """Show the state of a session: now, in a checkpoint, after a change or at a time.

    Example: edi-checkpoint show latest
             edi-checkpoint show latest @2
             edi-checkpoint show latest --at 10m
    """
    if sum(given is not None for given in (checkpoint, sequence, at)) > 1:
        raise select.UsageError("CHECKPOINT, --sequence and --at say the same thing in three ways: give one of them")
    if sequence is not None:
        require_within("--sequence", sequence, 0, SEQUENCE_MAX)
    time = None if at is None else select.time(at, datetime.now(UTC))
    with open_source() as source:
        session_id = chosen(source, session)
        name = None if checkpoint is None else select.checkpoint(checkpoint, source.checkpoints(session_id)).name
        found = source.state(session_id, checkpoint=name, sequence=sequence, time=time)
    if json:
        documents.write(documents.show(found))
    else:
        if render.show(Screen.of_stdout(), found):
            tell("some values are cut to fit; --json shows them whole")
    return Exit.DONE


@app.command(sort_key=5, usage="Usage: edi-checkpoint diff SESSION [A] [B] [--other SESSION] [--json]")
def diff(
    session: SessionArgument,
    a: Annotated[
        str | None, Parameter(help="The checkpoint before, said as for `show`. By default @1, the newest.")
    ] = None,
    b: Annotated[str | None, Parameter(help="The checkpoint after. By default the current state.")] = None,
    /,
    *,
    other: Annotated[
        str | None,
        Parameter(help="Compare with this session: B is a checkpoint of it. By default both are as they stand now."),
    ] = None,
    json: AsJson = False,
) -> int:
    """Show what changed since the newest checkpoint, since a checkpoint A, or from A to a checkpoint B.

    + came   - went   ~ became another   > stands elsewhere; in texts +word and -word

    With --json it is a JSON Patch (RFC 6902) that turns the state of A into that of B.

    Example: edi-checkpoint diff latest
             edi-checkpoint diff latest @3 @2
             edi-checkpoint diff lighthouse --other lighthouse-branch
    """
    from edi_checkpointd.cli import differences

    with open_source() as source:
        first = chosen(source, session)
        second = first if other is None else chosen(source, other)
        if a is None and other is None:
            a = "@1"
        before, after = differences.side(source, first, a), differences.side(source, second, b)
        if json:
            documents.write(differences.document(before, after))
        elif differences.show(Screen.of_stdout(), source, before, after):
            tell("some values are cut to fit; --json shows them whole")
    return Exit.DONE


@app.command(sort_key=13, usage="Usage: edi-checkpoint attachments SESSION [--extract DIR] [--json]")
def attachments(
    session: SessionArgument,
    /,
    *,
    extract: Annotated[
        Path | None,
        Parameter(help="Write them into this folder, as they are stored: pictures, .npy arrays, raw bytes."),
    ] = None,
    json: AsJson = False,
) -> int:
    """List the masks, other arrays and bytes of a session's current state; with --extract, get them as files.

    Exit code 6 when one of them is missing or damaged; the others are listed and extracted all the same.

    Example: edi-checkpoint attachments latest --extract masks
    """
    from edi_checkpointd.cli.attachments import look

    with open_source() as source:
        session_id = chosen(source, session)
        found = list(look(source, source.state(session_id), extract))
    if json:
        documents.write(documents.attachments(session_id, found))
    elif not found:
        tell(f"session {session_id} holds no arrays and no bytes")
    else:
        render.attachments(Screen.of_stdout(), session_id, found)
    faults = [named.fault for named in found if named.fault is not None]
    for fault in faults:
        tell(f"{fault.message}: {fault.hint}")
    return Exit.DAMAGE if faults else Exit.DONE


@app.command(sort_key=20, usage="Usage: edi-checkpoint demo [--keep] [--json]")
def demo(
    *,
    keep: Annotated[
        bool, Parameter(negative="", show_default=False, help="Leave the demo's folder in place, to look around.")
    ] = False,
    json: AsJson = False,
) -> int:
    """See it at work: a session is killed in the middle, and comes back whole. Your own sessions are not touched.

    Example: edi-checkpoint demo
    """
    from edi_checkpointd.cli.demo import run_demo

    return run_demo(keep=keep, json_output=json)
