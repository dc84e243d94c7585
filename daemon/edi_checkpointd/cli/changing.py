"""The commands that change a session: each attaches like any writer, and leaves the session as it was left before."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from msgspec import structs

from edi_checkpoint.errors import DaemonUnavailable, EdiCheckpointError, NotFound
from edi_checkpoint.model import CheckpointInfo, SessionInfo
from edi_checkpoint.protocol import StateAt
from edi_checkpointd.cli import PROGRAM, Exit, documents, render, select
from edi_checkpointd.cli.app import (
    SEQUENCE_MAX,
    AsJson,
    SessionArgument,
    Takeover,
    agreed,
    app,
    chosen,
    open_source,
    require_within,
    tell,
)
from edi_checkpointd.cli.screen import Screen
from edi_checkpointd.cli.source import Source
from edi_checkpointd.cli.tree import flat

if TYPE_CHECKING:
    from edi_checkpoint.session import Session

Wanted = Annotated[
    str, Parameter(help="A file's name, its timestamp or the beginning of that, a label, or @1 (the newest), @2.")
]
Target = Annotated[
    str | None,
    Parameter(help="Where to: a file's name, its timestamp or the beginning of that, a label, or @1 (the newest), @2."),
]
Sequence = Annotated[int | None, Parameter(help="Where to: the state after this change (see `history`).")]
At = Annotated[str | None, Parameter(help="Where to: a time, as ISO 8601, 12:03 (today) or 10m (ago; also s, h, d).")]


@app.command(sort_key=6, usage="Usage: edi-checkpoint dismiss SESSION [--takeover] [--json]")
def dismiss(session: SessionArgument, /, *, takeover: Takeover = False, json: AsJson = False) -> int:
    """Say of an interrupted session: seen, not now. It is offered no more, and loses nothing.

    It counts as left cleanly from then on, and can be gone on with at any time. Needs no daemon.

    Example: edi-checkpoint dismiss latest
    """
    from edi_checkpoint.client import connect

    with open_source() as source:
        before = _row(source, chosen(source, session))
    if before.condition in ("interrupted", "live"):
        with connect(app=PROGRAM, autostart=False) as client:
            client.session(before.session_id, takeover=takeover).close()
    else:
        tell(f"session {before.session_id} is {before.condition}: there is nothing to dismiss")
    with open_source() as source:
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
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Where to: the newest checkpoint that is intact, is not failed, and differs from now.",
        ),
    ] = False,
    keys: Annotated[str | None, Parameter(help="Only these keys of the state go back: a,b.")] = None,
    yes: Annotated[bool, Parameter(negative="", show_default=False, help="Do not ask.")] = False,
    takeover: Takeover = False,
    json: AsJson = False,
) -> int:
    """Go back to an earlier state. It shows what will change, and asks.

    What is there now is kept as a checkpoint and as history: going back can itself be gone back on.

    Example: edi-checkpoint rollback latest --last-good
             edi-checkpoint rollback latest @3
             edi-checkpoint rollback latest --at 12:03 --keys prompts,intent
    """
    from edi_checkpoint.diff.patch import patch
    from edi_checkpoint.points import with_keys
    from edi_checkpointd.cli import differences

    if sum([checkpoint is not None, sequence is not None, at is not None, last_good]) != 1:
        raise select.UsageError("say where to: one of CHECKPOINT, --sequence, --at and --last-good")
    if not yes and (json or not sys.stdin.isatty()):
        raise select.UsageError("nobody can be asked here", hint="--yes goes back without asking")
    wanted = None if keys is None else [key.strip() for key in keys.split(",") if key.strip()]
    with open_source() as source:
        session_id = chosen(source, session)
        now = source.state(session_id)
        then = _last_good(source, now) if last_good else _target(source, session_id, checkpoint, sequence, at)
        if not yes:
            gone = structs.replace(then, state=with_keys(now.state, then.state, wanted))
            going = differences.Side(then.checkpoint or "then", gone)
            differences.show(Screen.of_stdout(), source, differences.Side("now", now), going)
    if not yes and not agreed("go back, and keep what is there now as a checkpoint? [y/N] "):
        tell("nothing was changed")
        return Exit.DONE
    with _writing(session_id, takeover=takeover) as held:
        before, from_sequence = held.texts(), held.resumed.sequence
        info = held.rollback(then.checkpoint, sequence=None if then.checkpoint else then.sequence, keys=wanted)
        made = patch(before, held.texts())
        rows = held.checkpoints()
    kept = [row.name for row in rows if row.kind == "before_rollback" and row.sequence == info.sequence - 1]
    if json:
        documents.write(
            {
                "session_id": session_id,
                "from_sequence": from_sequence,
                "to_sequence": then.sequence,
                "before": kept[-1] if kept else None,
                "after": info.name,
                "patch": made,
            }
        )
    else:
        print(f"session {session_id} is back at {then.checkpoint or f'sequence {then.sequence}'}")
        if kept:
            tell(f"to undo: {PROGRAM} rollback {session_id} {kept[-1]}")
    return Exit.DONE


@app.command(sort_key=8, usage="Usage: edi-checkpoint fork SESSION [CHECKPOINT | --sequence N] [--as ID] [--json]")
def fork(
    session: SessionArgument,
    checkpoint: Target = None,
    /,
    *,
    sequence: Sequence = None,
    new: Annotated[
        str | None, Parameter("--as", help="The new session's id; by default one that no other has.")
    ] = None,
    json: AsJson = False,
) -> int:
    """Begin a session of its own with a state of this one: of now, of a checkpoint, or after a change.

    This one is not touched, and may be written to meanwhile.

    Example: edi-checkpoint fork latest @2 --as roof-in-blue
    """
    if checkpoint is not None and sequence is not None:
        raise select.UsageError("CHECKPOINT and --sequence say the same thing in two ways: give one of them")
    from edi_checkpoint.client import connect
    from edi_checkpoint.points import Point, compact

    with open_source() as source:
        session_id = chosen(source, session)
        if checkpoint is None and sequence is None:
            found = source.state(session_id)
        else:
            found = _target(source, session_id, checkpoint, sequence, None)
    said = found.checkpoint or f"sequence {found.sequence}"
    with connect(app=PROGRAM) as client:
        made = client.fork(session_id, Point(compact(found.state), found.sequence, said), new)
    if json:
        documents.write({"session_id": made, "parent_session": session_id, "sequence": 1})
    else:
        print(made)
    return Exit.DONE


@app.command(sort_key=9, usage="Usage: edi-checkpoint pin SESSION CHECKPOINT [--takeover] [--json]")
def pin(session: SessionArgument, checkpoint: Wanted, /, *, takeover: Takeover = False, json: AsJson = False) -> int:
    """Keep a checkpoint for ever: it is deleted by no rule, and does not count among those kept. At most 50 a session.

    Example: edi-checkpoint pin latest @1
    """
    return _amend(session, checkpoint, takeover=takeover, json=json, pinned=True)


@app.command(sort_key=10, usage="Usage: edi-checkpoint unpin SESSION CHECKPOINT [--takeover] [--json]")
def unpin(session: SessionArgument, checkpoint: Wanted, /, *, takeover: Takeover = False, json: AsJson = False) -> int:
    """Let a pinned checkpoint go the way of the others.

    Example: edi-checkpoint unpin latest "good so far"
    """
    return _amend(session, checkpoint, takeover=takeover, json=json, pinned=False)


@app.command(sort_key=11, usage="Usage: edi-checkpoint label SESSION CHECKPOINT [TEXT] [--takeover] [--json]")
def label(
    session: SessionArgument,
    checkpoint: Wanted,
    text: Annotated[str, Parameter(help="What it is called; without it, it loses its label.")] = "",
    /,
    *,
    takeover: Takeover = False,
    json: AsJson = False,
) -> int:
    """Give a checkpoint a name of your own, by which it can be selected.

    Example: edi-checkpoint label latest @1 "before the roof"
    """
    return _amend(session, checkpoint, takeover=takeover, json=json, label=text)


@app.command(
    name="note", sort_key=12, usage="Usage: edi-checkpoint note SESSION CHECKPOINT [TEXT] [--takeover] [--json]"
)
def note_at(
    session: SessionArgument,
    checkpoint: Wanted,
    text: Annotated[str, Parameter(help="What to remember of it; without it, it loses its note.")] = "",
    /,
    *,
    takeover: Takeover = False,
    json: AsJson = False,
) -> int:
    """Note something at a checkpoint; it is kept in its file.

    Example: edi-checkpoint note latest @1 "the client liked this one"
    """
    return _amend(session, checkpoint, takeover=takeover, json=json, note=text)


def _row(source: Source, session_id: str) -> SessionInfo:
    """Return a session's row. Raises `NotFound`."""
    for info in source.sessions():
        if info.session_id == session_id:
            return info
    raise NotFound(f"no session {session_id}")


def _amend(session: str, checkpoint: str, *, takeover: bool, json: bool, **changed: bool | str) -> int:
    from edi_checkpointd.cli import differences

    with open_source() as source:
        session_id = chosen(source, session)
        name = select.checkpoint(checkpoint, source.checkpoints(session_id)).name
    with _writing(session_id, takeover=takeover) as held:
        held.amend(name, **changed)  # type: ignore[arg-type] # each of its own kind
    with open_source() as source:
        rows = source.checkpoints(session_id)
        told = list(differences.summaries(source, rows))
    at = [row.name for row in rows].index(name)
    if json:
        documents.write(documents.checkpoint(rows[at], told[at]))
    else:
        render.log(Screen.of_stdout(), session_id, rows, told)
    return Exit.DONE


@contextlib.contextmanager
def _writing(session_id: str, *, takeover: bool) -> Iterator[Session]:
    """Attach to a session as its writer, and leave it as it was: who only amends has neither seen nor ended it.

    Raises, before anything is changed, `DaemonUnavailable`, and `SessionBusy` unless `takeover`.
    """
    from edi_checkpoint.client import connect

    with connect(app=PROGRAM) as client:
        if not client.connected:
            raise DaemonUnavailable("no daemon answers, and this needs one")
        held = client.attach(session_id, seen=False, takeover=takeover)
        try:
            yield held
        finally:
            held.leave(cleanly=held.resumed.left_as != "interrupted")


def _target(source: Source, session_id: str, checkpoint: str | None, sequence: int | None, at: str | None) -> StateAt:
    if checkpoint is not None:
        name = select.checkpoint(checkpoint, source.checkpoints(session_id)).name
        return source.state(session_id, checkpoint=name)
    if sequence is not None:
        require_within("--sequence", sequence, 0, SEQUENCE_MAX)
    return source.state(session_id, sequence=sequence, time=None if at is None else select.time(at, datetime.now(UTC)))


def _last_good(source: Source, now: StateAt) -> StateAt:
    """Return the newest checkpoint's state that is intact, not failed, and not that of now. Raises `NotFound`."""
    from edi_checkpoint.points import last_good

    def read(info: CheckpointInfo) -> StateAt:
        return source.state(now.session_id, checkpoint=info.name)

    return last_good(now.session_id, source.checkpoints(now.session_id), read, now.state)
