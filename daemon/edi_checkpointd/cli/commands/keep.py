"""The commands about retention: why a checkpoint exists, what the rules delete, and how to restore it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from edi_checkpoint.errors import NotFound
from edi_checkpoint.wire import messages
from edi_checkpointd.cli import select
from edi_checkpointd.cli.app import app, chosen, open_source
from edi_checkpointd.cli.arguments import AsJson, Checkpoint, SessionArgument, flag
from edi_checkpointd.cli.commands.change import show_session
from edi_checkpointd.cli.daemon import order
from edi_checkpointd.cli.output.progress import Bar
from edi_checkpointd.cli.output.screen import NOTHING, Cell, Column, Screen, moment, size
from edi_checkpointd.cli.views import documents
from edi_checkpointd.retention.explain import Why

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
def why(session: SessionArgument, checkpoint: Checkpoint, /, *, json: AsJson = False) -> None:
    """Show what made a checkpoint, keeps it and will delete it.

    Example: edi-checkpoint why latest @3
    """
    with open_source() as source:
        session_id = chosen(source, session)
        name = select.checkpoint(checkpoint, source.checkpoints(session_id)).name
        found = source.why(session_id, name)
    if json:
        documents.write(found)
        return
    screen = Screen.of_stdout()
    screen.line(Cell(found.name, "bold"))
    kept = [_REASONS.get(reason, reason) for reason in found.kept_by] or ["no rule keeps it"]
    names = ["made by", "kept by", *[""] * (len(kept) - 1), "deleted"]
    facts = zip(names, [_made_by(found), *kept, _deleted(found)], strict=True)
    screen.paragraphs([[Cell(f"{name:<9}", "dim"), *text.split()] for name, text in facts], indent=10)


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
    *, apply: Annotated[bool, flag("Delete now, without waiting for the daemon.")] = False, json: AsJson = False
) -> None:
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
        reply = order(messages.CleanupReply, messages.Prune)
    else:
        with open_source() as source:
            reply = source.pruning()
    found = msgspec.json.decode(reply.body, type=dict[str, Any])
    if json:
        documents.write(found)
        return
    screen = Screen.of_stdout()
    sessions = found["sessions"]
    lists = (
        ("checkpoint", "name", found["drop"]),
        ("into trash", "session_id", sessions["trash"]),
        ("out of trash", "session_id", found["trash"]),
        ("set aside", "name", found["damaged"]),
    )
    rows = [(what, row[key], row["rule"], size(row["bytes"])) for what, key, listed in lists for row in listed]
    if rows:
        screen.table(
            [Column("WHAT"), Column("NAME", "bold", least=24), Column("RULE"), Column("SIZE", right=True)], rows
        )
    kept = f"{_counted(found['keep'], 'checkpoint')} of {_counted(sessions['keep'], 'session')} kept"
    if not rows:
        screen.line(f"nothing to delete: {kept}")
    else:
        screen.line(f"done; {kept}" if apply else f"{kept}; --json shows the reasons, --apply deletes now")


def _counted(found: list[object], one: str) -> str:
    return f"{len(found)} {one}{'s' * (len(found) != 1)}"


@app.command(sort_key=16, usage="Usage: edi-checkpoint restore SESSION [--json]")
def restore(session: SessionArgument, /, *, json: AsJson = False) -> None:
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
        show_session(source.session(session_id), json=json)


@app.command(sort_key=17, usage="Usage: edi-checkpoint du [--json]")
def du(*, json: AsJson = False) -> None:
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
        return
    screen = Screen.of_stdout()
    if found:
        kinds = [
            Column(title, right=True, rank=rank) for title, rank in (("JOURNAL", 2), ("OUTBOX", 3), ("ATTACHED", 1))
        ]
        screen.table(
            [Column("SESSION", "bold", least=13), Column("DOCUMENTS", right=True), *kinds, Column("ALL", right=True)],
            [
                (one.session_id + " (trash)" * one.trashed, *map(size, one.sizes.values()), size(one.total))
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
