"""The commands that change a session: each attaches like any writer, and keeps the session's condition."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from msgspec import structs

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.model import CheckpointInfo, SessionInfo
from edi_checkpoint.wire.messages import StateAt
from edi_checkpointd.cli import select
from edi_checkpointd.cli.app import agreed, app, chosen, open_source, tell
from edi_checkpointd.cli.arguments import (
    AsJson,
    Checkpoint,
    SessionArgument,
    Takeover,
    Target,
    Yes,
    flag,
    require_within,
)
from edi_checkpointd.cli.daemon import daemon_client
from edi_checkpointd.cli.exits import PROGRAM
from edi_checkpointd.cli.output import tables
from edi_checkpointd.cli.output.screen import Screen
from edi_checkpointd.cli.output.tree import flat
from edi_checkpointd.cli.source import Source
from edi_checkpointd.cli.views import documents

if TYPE_CHECKING:
    from edi_checkpoint.session.session import Session

Sequence = Annotated[int | None, Parameter(help="Take the state after this change (see `history`).")]
At = Annotated[
    str | None, Parameter(help="Take the state at this time: ISO 8601, 12:03 (today) or 10m (ago; also s, h, d).")
]


@app.command(sort_key=6, usage="Usage: edi-checkpoint dismiss SESSION [--takeover] [--json]")
def dismiss(session: SessionArgument, /, *, takeover: Takeover = False, json: AsJson = False) -> None:
    """Stop offering an interrupted session. Nothing is deleted.

    The session then counts as closed cleanly. You can still resume it at any
    time. The command needs no daemon.

    Example: edi-checkpoint dismiss latest
    """
    from edi_checkpoint.client import connect

    with open_source() as source:
        before = source.session(chosen(source, session))
    if before.condition in ("interrupted", "live"):
        with connect(app=PROGRAM, autostart=False) as client:
            client.session(before.session_id, takeover=takeover).close()
    else:
        tell(f"session {before.session_id} is {before.condition}: there is nothing to dismiss")
    with open_source() as source:
        after = source.session(before.session_id)
    if after.condition == "interrupted":
        raise EdiCheckpointError(
            f"session {after.session_id} could not be dismissed: the disk did not save the change",
            hint="`edi-checkpoint status` shows what is wrong",
        )
    show_session(after, json=json)


@app.command(
    sort_key=7,
    usage="Usage: edi-checkpoint rollback SESSION [CHECKPOINT | --sequence N | --at T | --last-good] [OPTIONS]",
)
def rollback(
    session: SessionArgument,
    checkpoint: Target = None,
    /,
    *,
    sequence: Sequence = None,
    at: At = None,
    last_good: Annotated[
        bool, flag("Take the newest checkpoint that is intact, not failed, and different from the current state.")
    ] = False,
    keys: Annotated[str | None, Parameter(help="Roll back only these keys of the state: a,b.")] = None,
    yes: Yes = False,
    takeover: Takeover = False,
    json: AsJson = False,
) -> None:
    """Return a session to an earlier state.

    The command shows the changes and asks first. A rollback is saved like any
    other change, so you can undo it with another rollback.

    Example: edi-checkpoint rollback latest --last-good
             edi-checkpoint rollback latest @3
             edi-checkpoint rollback latest --at 12:03 --keys prompts,intent
    """
    from edi_checkpoint.diff.patch import patch
    from edi_checkpoint.session.points import with_keys
    from edi_checkpointd.cli.views import differences

    if sum([checkpoint is not None, sequence is not None, at is not None, last_good]) != 1:
        raise select.CommandLineError("choose the target: one of CHECKPOINT, --sequence, --at and --last-good")
    if not yes and (json or not sys.stdin.isatty()):
        raise select.CommandLineError("cannot ask for confirmation here", hint="--yes rolls back without asking")
    only = None if keys is None else [key.strip() for key in keys.split(",") if key.strip()]
    with open_source() as source:
        session_id = chosen(source, session)
        now = source.state(session_id)
        then = _last_good(source, now) if last_good else _target(source, session_id, checkpoint, sequence, at)
        if not yes:
            result = structs.replace(then, state=with_keys(now.state, then.state, only))
            after = differences.Side(then.checkpoint or "then", result)
            differences.show(Screen.of_stdout(), source, differences.Side("now", now), after)
    if not yes and not agreed("roll back, and save the current state as a checkpoint? [y/N] "):
        tell("nothing was changed")
        return
    with _writer(session_id, takeover=takeover) as writer:
        before, from_sequence = writer.texts(), writer.resumed.sequence
        info = writer.rollback(then.checkpoint, sequence=None if then.checkpoint else then.sequence, keys=only)
        made = patch(before, writer.texts())
        rows = writer.checkpoints()
    saved = [row.name for row in rows if row.kind == "before_rollback" and row.sequence == info.sequence - 1]
    undo = saved[-1] if saved else None
    if json:
        sequences = {"from_sequence": from_sequence, "to_sequence": then.sequence}
        documents.write({"session_id": session_id, **sequences, "before": undo, "after": info.name, "patch": made})
    else:
        print(f"session {session_id} is rolled back to {then.checkpoint or f'sequence {then.sequence}'}")
        if undo:
            tell(f"to undo: {PROGRAM} rollback {session_id} {undo}")


@app.command(sort_key=8, usage="Usage: edi-checkpoint fork SESSION [CHECKPOINT | --sequence N] [--as ID] [--json]")
def fork(
    session: SessionArgument,
    checkpoint: Target = None,
    /,
    *,
    sequence: Sequence = None,
    new: Annotated[str | None, Parameter("--as", help="The new session's id; by default a new unique one.")] = None,
    json: AsJson = False,
) -> None:
    """Start a new session from a state of an existing one.

    By default this is the current state. The original session does not change.
    An app may have it open meanwhile.

    Example: edi-checkpoint fork latest @2 --as roof-in-blue
    """
    if checkpoint is not None and sequence is not None:
        raise select.CommandLineError("CHECKPOINT and --sequence exclude each other: give only one of them")
    from edi_checkpoint.client import connect
    from edi_checkpoint.session.points import Point, compact

    with open_source() as source:
        session_id = chosen(source, session)
        found = _target(source, session_id, checkpoint, sequence, None)
    origin = found.checkpoint or f"sequence {found.sequence}"
    with connect(app=PROGRAM) as client:
        made = client.fork(session_id, Point(compact(found.state), found.sequence, origin), new)
    if json:
        documents.write({"session_id": made, "parent_session": session_id, "sequence": 1})
    else:
        print(made)


@app.command(sort_key=9, usage="Usage: edi-checkpoint pin SESSION CHECKPOINT [--takeover] [--json]")
def pin(
    session: SessionArgument, checkpoint: Checkpoint, /, *, takeover: Takeover = False, json: AsJson = False
) -> None:
    """Protect a checkpoint from the clean-up rules.

    A pinned checkpoint does not count towards keep_per_session. A session can
    have at most 50 pinned checkpoints.

    Example: edi-checkpoint pin latest @1
    """
    _amend(session, checkpoint, takeover=takeover, json=json, pinned=True)


@app.command(sort_key=10, usage="Usage: edi-checkpoint unpin SESSION CHECKPOINT [--takeover] [--json]")
def unpin(
    session: SessionArgument, checkpoint: Checkpoint, /, *, takeover: Takeover = False, json: AsJson = False
) -> None:
    """Let the clean-up rules delete a pinned checkpoint again.

    Example: edi-checkpoint unpin latest "good so far"
    """
    _amend(session, checkpoint, takeover=takeover, json=json, pinned=False)


@app.command(sort_key=11, usage="Usage: edi-checkpoint label SESSION CHECKPOINT [TEXT] [--takeover] [--json]")
def label(
    session: SessionArgument,
    checkpoint: Checkpoint,
    text: Annotated[str, Parameter(help="The label; without it, the checkpoint loses its label.")] = "",
    /,
    *,
    takeover: Takeover = False,
    json: AsJson = False,
) -> None:
    """Give a checkpoint a label, for use in later commands.

    Example: edi-checkpoint label latest @1 "before the roof"
    """
    _amend(session, checkpoint, takeover=takeover, json=json, label=text)


@app.command(
    name="note", sort_key=12, usage="Usage: edi-checkpoint note SESSION CHECKPOINT [TEXT] [--takeover] [--json]"
)
def note_at(
    session: SessionArgument,
    checkpoint: Checkpoint,
    text: Annotated[str, Parameter(help="The note; without it, the checkpoint loses its note.")] = "",
    /,
    *,
    takeover: Takeover = False,
    json: AsJson = False,
) -> None:
    """Add a note to a checkpoint.

    The note is saved in the checkpoint's file.

    Example: edi-checkpoint note latest @1 "the client liked this one"
    """
    _amend(session, checkpoint, takeover=takeover, json=json, note=text)


def show_session(info: SessionInfo, *, json: bool) -> None:
    """Print the row of a session that a command has changed."""
    if json:
        documents.write({"session": documents.row(info)})
    else:
        tables.sessions(Screen.of_stdout(), flat([info]), [info.session_id])


def _amend(session: str, checkpoint: str, *, takeover: bool, json: bool, **changed: bool | str) -> None:
    from edi_checkpointd.cli.views import differences

    with open_source() as source:
        session_id = chosen(source, session)
        name = select.checkpoint(checkpoint, source.checkpoints(session_id)).name
    with _writer(session_id, takeover=takeover) as writer:
        writer.amend(name, **changed)  # type: ignore[arg-type] # each of its own kind
    with open_source() as source:
        rows = source.checkpoints(session_id)
        summaries = list(differences.summaries(source, rows))
    at = [row.name for row in rows].index(name)
    if json:
        documents.write({"checkpoint": documents.log_row(rows[at], summaries[at])})
    else:
        tables.log(Screen.of_stdout(), session_id, rows, summaries)


@contextlib.contextmanager
def _writer(session_id: str, *, takeover: bool) -> Iterator[Session]:
    """Attach to a session as its writer, and keep its condition: an interrupted session stays interrupted.

    Raises `DaemonUnavailable`, and `SessionBusy` unless `takeover`; nothing has changed then.
    """
    with daemon_client() as client:
        writer = client.attach(session_id, seen=False, takeover=takeover)
        try:
            yield writer
        finally:
            writer.leave(cleanly=writer.resumed.left_as != "interrupted")


def _target(source: Source, session_id: str, checkpoint: str | None, sequence: int | None, at: str | None) -> StateAt:
    """Return the state that one of the three selects; without one, the current state."""
    if sequence is not None:
        require_within("--sequence", sequence)
    name = None if checkpoint is None else select.checkpoint(checkpoint, source.checkpoints(session_id)).name
    time = None if at is None else select.time(at, datetime.now(UTC))
    return source.state(session_id, checkpoint=name, sequence=sequence, at=time)


def _last_good(source: Source, now: StateAt) -> StateAt:
    """Return the newest checkpoint that is intact, not failed, and different from `now`. Raises `NotFound`."""
    from edi_checkpoint.session.points import last_good

    def read(info: CheckpointInfo) -> StateAt:
        return source.state(now.session_id, checkpoint=info.name)

    return last_good(now.session_id, source.checkpoints(now.session_id), read, now.state)
