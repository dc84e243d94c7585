"""The commands: what each takes, whom it asks, how the answer is shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter

from edi_checkpoint.condition import Condition
from edi_checkpoint.errors import EdiCheckpointError, NotFound
from edi_checkpoint.model import SessionInfo
from edi_checkpoint.paths import locate
from edi_checkpointd.cli import PROGRAM, Exit, differences, documents, render, select
from edi_checkpointd.cli.screen import Screen
from edi_checkpointd.cli.source import SESSIONS_MAX, Source
from edi_checkpointd.cli.tree import flat, grown, with_parents

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

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 needs a daemon and none answers, 5 busy, 6 damage.""",
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


@app.command(sort_key=1, usage="Usage: edi-checkpoint sessions [--condition C] [--tree] [--limit N] [--json]")
def sessions(
    *,
    condition: Annotated[
        Condition | None,
        Parameter(help="Only sessions of this condition."),
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
    _within("--limit", limit, 1, SESSIONS_MAX)
    with _source() as source:
        if json:
            documents.write(documents.sessions(source.sessions(condition, limit)))
            return Exit.DONE
        every = source.sessions()
    found = [info for info in every if condition in (None, info.condition)]
    if not found:
        _note("no sessions" if condition is None else f"no session is {condition}")
        return Exit.DONE
    shown = grown(with_parents(found[:limit], every)) if tree else flat(found[:limit])
    render.sessions(Screen.of_stdout(), shown, [info.session_id for info in every])
    if len(found) > limit:
        _note(f"{limit} of {len(found)} sessions; --limit N shows more")
    return Exit.DONE


@app.command(sort_key=0, usage="Usage: edi-checkpoint status [--json]")
def status(*, json: AsJson = False) -> int:
    """Say whether all work is safe and since when, what is wrong and what to do about it.

    Example: edi-checkpoint status
    """
    with _source() as source:
        found = source.status()
    if json:
        documents.write(documents.status(found))
    else:
        from edi_checkpointd.cli import report

        report.status(Screen.of_stdout(), found, datetime.now(UTC))
    return Exit.DONE


@app.command(sort_key=2, usage="Usage: edi-checkpoint log SESSION [--json]")
def log(session: SessionArgument, /, *, json: AsJson = False) -> int:
    """List the checkpoints of a session, oldest first, each with what changed since the one before.

    Example: edi-checkpoint log latest
    """
    with _source() as source:
        session_id = _session(source, session)
        found = source.checkpoints(session_id)
        summaries = list(differences.summaries(source, found))
    if json:
        documents.write(documents.log(session_id, found, summaries))
    elif not found:
        _note(f"session {session_id} has no checkpoints")
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
    _within("--since", since, 0, SEQUENCE_MAX)
    with _source() as source:
        session_id = _session(source, session)
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
        _within("--sequence", sequence, 0, SEQUENCE_MAX)
    time = None if at is None else select.time(at, datetime.now(UTC))
    with _source() as source:
        session_id = _session(source, session)
        name = None if checkpoint is None else select.checkpoint(checkpoint, source.checkpoints(session_id)).name
        found = source.state(session_id, checkpoint=name, sequence=sequence, time=time)
    if json:
        documents.write(documents.show(found))
    else:
        if render.show(Screen.of_stdout(), found):
            _note("some values are cut to fit; --json shows them whole")
    return Exit.DONE


@app.command(sort_key=5, usage="Usage: edi-checkpoint diff SESSION [A] [B] [--other SESSION] [--json]")
def diff(
    session: SessionArgument,
    a: Annotated[str | None, Parameter(help="The checkpoint before: as for `show`. By default @1, the newest.")] = None,
    b: Annotated[str | None, Parameter(help="The checkpoint after. By default the current state.")] = None,
    /,
    *,
    other: Annotated[
        str | None,
        Parameter(
            help="Compare with this session: B is one of its checkpoints. By default the current states of both."
        ),
    ] = None,
    json: AsJson = False,
) -> int:
    """Show what changed: since the newest checkpoint, or from a checkpoint A to a checkpoint B.

    + came    - went    ~ became another; in texts, +word and -word.

    With --json it is a JSON Patch (RFC 6902) that turns the state of A into that of B.

    Example: edi-checkpoint diff latest
             edi-checkpoint diff latest @3 @2
             edi-checkpoint diff lighthouse --other lighthouse-branch
    """
    with _source() as source:
        first = _session(source, session)
        second = first if other is None else _session(source, other)
        if a is None and other is None:
            a = "@1"
        before, after = differences.side(source, first, a), differences.side(source, second, b)
    if json:
        documents.write(differences.document(before, after))
    elif differences.show(Screen.of_stdout(), before, after):
        _note("some values are cut to fit; --json shows them whole")
    return Exit.DONE


@app.command(sort_key=6, usage="Usage: edi-checkpoint dismiss SESSION [--takeover] [--json]")
def dismiss(session: SessionArgument, /, *, takeover: Takeover = False, json: AsJson = False) -> int:
    """Say of an interrupted session: seen, not now. It is offered no more, and loses nothing.

    It counts as left cleanly from then on, and can be gone on with at any time. Needs no daemon.

    Example: edi-checkpoint dismiss latest
    """
    from edi_checkpoint.client import connect

    with _source() as source:
        before = _row(source, _session(source, session))
    if before.condition in ("interrupted", "live"):
        with connect(app=PROGRAM, autostart=False) as client:
            client.session(before.session_id, takeover=takeover).close()
    else:
        _note(f"session {before.session_id} is {before.condition}: there is nothing to dismiss")
    with _source() as source:
        after = _row(source, before.session_id)
    if after.condition == "interrupted":
        raise EdiCheckpointError(
            f"session {after.session_id} could not be dismissed: the disk took no entry that says so",
            hint="`edi-checkpoint status` says what is wrong",
        )
    if json:
        documents.write(documents.session(after))
    else:
        render.sessions(Screen.of_stdout(), flat([after]), [after.session_id])
    return Exit.DONE


@app.command(sort_key=7, usage="Usage: edi-checkpoint demo [--keep] [--json]")
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


def _source() -> Source:
    return Source(locate(), _note)


def _session(source: Source, text: str) -> str:
    """Return the id of the session that `text` selects; a whole id is recognised without a list of all."""
    return text if source.knows(text) else select.session(text, [info.session_id for info in source.sessions()])


def _row(source: Source, session_id: str) -> SessionInfo:
    """Return a session's row. Raises `NotFound`."""
    for info in source.sessions():
        if info.session_id == session_id:
            return info
    raise NotFound(f"no session {session_id}")


def _within(option: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise select.UsageError(f"{option} {number}: it must be {least} to {most}")


def _note(text: str) -> None:
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
