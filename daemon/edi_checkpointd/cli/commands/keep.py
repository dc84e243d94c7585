"""The commands about retention: why a checkpoint exists, what the rules delete, and how to restore it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from cyclopts import Parameter

from edi_checkpoint.errors import DaemonUnavailable, NotFound, ProtocolError
from edi_checkpoint.wire import messages
from edi_checkpointd.cli import select
from edi_checkpointd.cli.app import AsJson, SessionArgument, app, chosen, open_source
from edi_checkpointd.cli.exits import PROGRAM, Exit
from edi_checkpointd.cli.output import tables
from edi_checkpointd.cli.output.progress import Bar
from edi_checkpointd.cli.output.screen import NOTHING, Cell, Column, Screen, moment, size
from edi_checkpointd.cli.output.tree import flat
from edi_checkpointd.cli.source import decode_plan
from edi_checkpointd.cli.views import documents
from edi_checkpointd.retention.explain import Why

ORDER_TIMEOUT_S = 120.0  # a first clean-up may move hundreds of sessions

Answered = TypeVar("Answered", bound=messages.Answer)

_REASONS = {
    "newest_valid": "it is the newest, which no rule deletes",
    "pinned": "it is pinned",
    "reference": "EDI's own class wrote it",
    "foreign": "another program wrote it",
    "exempt": "it is in use",
    "unseen": "no app has opened the interrupted session yet",
    "keep_automatic": "it is among the newest made by timers and exits (keep_automatic)",
    "keep_per_session": "it is among the newest of its session (keep_per_session)",
    "keep_best": "it has one of the best scores (keep_best)",
    "keep_stages": "it is the last of its stage (keep_stages)",
}


@app.command(sort_key=14, usage="Usage: edi-checkpoint why SESSION CHECKPOINT [--json]")
def why(
    session: SessionArgument,
    checkpoint: Annotated[
        str, Parameter(help="A file name, a timestamp or the beginning of one, a label, or @1 (the newest), @2.")
    ],
    /,
    *,
    json: AsJson = False,
) -> int:
    """Show what made a checkpoint, keeps it and will delete it.

    Example: edi-checkpoint why latest @3
    """
    with open_source() as source:
        session_id = chosen(source, session)
        name = select.checkpoint(checkpoint, source.checkpoints(session_id)).name
        found = source.why(session_id, name)
    if json:
        documents.write(documents.why(found))
        return Exit.DONE
    screen = Screen.of_stdout()
    screen.line(Cell(found.name, "bold"))
    kept = [_REASONS.get(reason, reason) for reason in found.kept_by] or ["no rule keeps it"]
    facts = [("made by", _made_by(found)), *zip(["kept by", *[""] * len(kept)], kept, strict=False)]
    screen.paragraphs([[Cell(f"{name:<9}", "dim"), *text.split()] for name, text in facts], indent=10)
    screen.paragraphs([[Cell(f"{'deleted':<9}", "dim"), *_deleted(found).split()]], indent=10)
    return Exit.DONE


def _made_by(found: Why) -> str:
    made = found.made_by
    rule = f" ({made.rule})" if made.rule else ""
    return f"{made.kind}{rule}: {made.reason}" if made.reason else f"{made.kind}{rule}"


def _deleted(found: Why) -> str:
    when = found.deleted_when
    if when is None:
        return "by no rule"
    if when.at is not None:
        return f"by {when.rule}, which moves its whole session into the trash on {moment(when.at)}"
    more = f"{when.after_checkpoints} more are" if when.after_checkpoints != 1 else "one more is"
    return f"by {when.rule}, when {more} made"


@app.command(sort_key=15, usage="Usage: edi-checkpoint prune [--apply] [--json]")
def prune(
    *,
    apply: Annotated[
        bool, Parameter(negative="", show_default=False, help="Delete now, without waiting for the daemon.")
    ] = False,
    json: AsJson = False,
) -> int:
    """Show what the rules keep and delete. Only --apply deletes.

    keep_per_session and keep_automatic limit the checkpoints of a session.
    keep_sessions and keep_closed_days move closed sessions into the trash.
    trash_days deletes them from there for good. If the documents exceed
    sessions_max_bytes, more are deleted.

    The rules never delete pinned checkpoints, the newest checkpoint of a
    session, or files of other programs. `config` shows the settings. `restore`
    brings a session back from the trash.

    Example: edi-checkpoint prune
             edi-checkpoint prune --apply
    """
    if apply:
        found = decode_plan(order(messages.CleanupReply, messages.Prune))
    else:
        with open_source() as source:
            found = source.pruning()
    if json:
        documents.write(found)
        return Exit.DONE
    screen = Screen.of_stdout()
    rows = [
        *(("checkpoint", one["name"], one["rule"], one["bytes"]) for one in found["drop"]),
        *(("into trash", one["session_id"], one["rule"], one["bytes"]) for one in found["sessions"]["trash"]),
        *(("out of trash", one["session_id"], one["rule"], one["bytes"]) for one in found["trash"]),
        *(("set aside", one["name"], one["rule"], one["bytes"]) for one in found["damaged"]),
    ]
    if rows:
        screen.table(
            [
                Column("WHAT"),
                Column("NAME", "bold", least=24),
                Column("RULE"),
                Column("SIZE", right=True),
            ],
            [(what, name, rule, size(count)) for what, name, rule, count in rows],
        )
    checkpoints, sessions = len(found["keep"]), len(found["sessions"]["keep"])
    kept = f"{checkpoints} checkpoint{'s' * (checkpoints != 1)} of {sessions} session{'s' * (sessions != 1)} kept"
    if not rows:
        screen.line(f"nothing to delete: {kept}")
    elif apply:
        screen.line(f"done; {kept}")
    else:
        screen.line(f"{kept}; --json shows the reasons, --apply deletes now")
    return Exit.DONE


@app.command(sort_key=16, usage="Usage: edi-checkpoint restore SESSION [--json]")
def restore(session: SessionArgument, /, *, json: AsJson = False) -> int:
    """Restore a session from the trash. Its age starts again at zero.

    Opening a session (EDI's load_state, Client.session) restores it too.

    Example: edi-checkpoint sessions --condition trashed
             edi-checkpoint restore lighthouse
    """
    with open_source() as source:
        trashed = [row.session_id for row in source.trashed()]
        if session not in trashed and source.knows(session):
            raise NotFound(f"session {session} is not in the trash", hint=f"`edi-checkpoint show {session}` shows it")
    if not trashed:
        raise NotFound("the trash is empty", hint="`edi-checkpoint sessions` lists all sessions")
    session_id = select.session(session, trashed, hint="`edi-checkpoint sessions --condition trashed` lists the trash")
    order(messages.Restored, lambda request: messages.Restore(request, session_id))
    with open_source() as source:
        (row,) = (info for info in source.sessions() if info.session_id == session_id)
    if json:
        documents.write(documents.session(row))
    else:
        tables.sessions(Screen.of_stdout(), flat([row]), [row.session_id])
    return Exit.DONE


@app.command(sort_key=17, usage="Usage: edi-checkpoint du [--json]")
def du(*, json: AsJson = False) -> int:
    """Show the disk space of each session and each kind of file.

    An attachment counts for every session that uses it, but only once in the
    totals.

    Example: edi-checkpoint du
    """
    from edi_checkpointd.cli.views.usage import usage

    with open_source() as source:
        sizes = source.status().sizes
        with Bar("reading documents") as bar:
            found = usage(source.paths, source.row_bytes(), bar)
    if json:
        documents.write({"sessions": [one.document() for one in found], "sizes": sizes})
        return Exit.DONE
    screen = Screen.of_stdout()
    if found:
        kinds = (
            Column(title, right=True, rank=rank) for title, rank in (("JOURNAL", 2), ("OUTBOX", 3), ("ATTACHED", 1))
        )
        screen.table(
            [Column("SESSION", "bold", least=13), Column("DOCUMENTS", right=True), *kinds, Column("ALL", right=True)],
            [
                (
                    one.session_id + (" (trash)" if one.trashed else ""),
                    size(one.documents),
                    size(one.journal),
                    size(one.outbox),
                    size(one.attachments),
                    size(one.total),
                )
                for one in found
            ],
        )
        screen.line()
    screen.table(
        [Column("IN ALL", "bold"), Column("SIZE", right=True), Column("AT MOST", right=True)],
        [
            (kind, size(one.bytes), NOTHING if one.cap_bytes is None else size(one.cap_bytes))
            for kind, one in sizes.items()
        ],
    )
    return Exit.DONE


def order(kind: type[Answered], question: Callable[[int], messages.Order]) -> Answered:
    """Send an order to the daemon and return its answer; start a daemon if none runs.

    Raises `DaemonUnavailable`, and the error that the daemon answers with.
    """
    from edi_checkpoint.client import connect

    with connect(app=PROGRAM) as client:
        if not client.connected:
            raise DaemonUnavailable("this command needs a daemon, and none answers")
        answer = client.ask(question, ORDER_TIMEOUT_S)
    if not isinstance(answer, kind):
        raise ProtocolError(f"answered by {type(answer).__name__}, not by {kind.__name__}")
    return answer
