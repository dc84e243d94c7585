"""The command `purge`: show what will be deleted, let the daemon delete it, and check independently what is left."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import Parameter

from edi_checkpoint.errors import DaemonUnavailable, NotFound, VersionMismatch
from edi_checkpoint.system.paths import Paths, locate
from edi_checkpoint.wire import messages
from edi_checkpointd.cli import select
from edi_checkpointd.cli.app import agreed, app, chosen, open_source, tell
from edi_checkpointd.cli.arguments import AsJson, Yes, flag
from edi_checkpointd.cli.daemon import daemon_client, expect
from edi_checkpointd.cli.exits import Exit
from edi_checkpointd.cli.output.screen import Cell, Column, Screen, size
from edi_checkpointd.cli.views import documents

if TYPE_CHECKING:
    from edi_checkpointd.journal import Reader
    from edi_checkpointd.purge.audit import Footprint, Remnant

ANSWER_S = 10.0  # then the client asks again: if the daemon died, the next one resumes the purge
ASKED_TIMES = 60
START_S = 30.0  # a new daemon may have to finish an interrupted purge before it serves
_NAMED = 5  # sessions that the question names

_KINDS = {
    "checkpoints": "checkpoints",
    "autosaves": "auto-saves",
    "outboxes": "outboxes",
    "trash": "in the trash",
    "set_aside": "set aside as damaged",
    "attachments": "attachments",
}
_SINGULARS = {"checkpoints": "checkpoint", "entries": "entry", "attachments": "attachment"}


class Receipt(NamedTuple):
    """What a purge removed (found by looking before and after it), what is left, and what could not be removed."""

    sessions: Sequence[str]
    removed: dict[str, int]
    left: Sequence[Remnant]
    kept: Sequence[str]

    @property
    def complete(self) -> bool:
        """Whether everything that is left belongs to other sessions."""
        return not self.kept and all(one.session_id is not None for one in self.left)


@app.command(sort_key=19, usage="Usage: edi-checkpoint purge SESSION | --all [--yes] [--takeover] [--json]")
def purge(
    session: Annotated[str | None, Parameter(help="An id, a unique beginning of one, or `latest`.")] = None,
    /,
    *,
    everything: Annotated[bool, flag("Delete all sessions and everything saved for them.", "--all")] = False,
    yes: Yes = False,
    takeover: Annotated[
        bool, flag("Purge even while an app has the session open. Whatever that app publishes later is not saved.")
    ] = False,
    json: AsJson = False,
) -> Exit:
    """Delete a session for good.

    The command shows what it will delete and asks first. It deletes the
    session's checkpoints, history, outboxes and attachments. It also deletes
    its files in the trash and in damaged/, and every log line that names it. If
    a damaged journal was set aside, the command deletes that too, because it
    may hold texts of this session. An attachment that another session uses is
    kept.

    Forks are sessions of their own, and so are branches of writers that were
    taken over. They keep their copies of the session's texts, and its name.
    `edi-checkpoint sessions --tree` lists them. Purge them too.

    The command cannot reach copies, backups, exports, the pictures themselves,
    the system's journal, or free blocks of the disk.

    The exit code is 5 while an app has the session open, and 1 if something
    could not be deleted.

    Example: edi-checkpoint purge lighthouse
             edi-checkpoint purge --all --yes
    """
    if (session is None) != everything:
        raise select.CommandLineError("choose what to purge: a SESSION, or --all")
    if not yes and (json or not sys.stdin.isatty()):
        raise select.CommandLineError("cannot ask for confirmation here", hint="--yes purges without asking")
    paths = locate()
    sessions = _chosen(paths, session)
    before = _look(paths, sessions, everything=everything)
    if not yes:
        _show(Screen.of_stdout(), sessions, before, everything=everything)
        if not agreed("delete all of this? It cannot be undone. [y/N] "):
            tell("nothing was deleted")
            return Exit.DONE
    named = () if everything else tuple(sessions)
    kept = _order(partial(messages.Purge, sessions=named, everything=everything, takeover=takeover))
    receipt = _receipt(paths, sessions, before, kept)
    if json:
        documents.write(_document(receipt))
    else:
        _tell(Screen.of_stdout(), receipt)
    return Exit.DONE if receipt.complete else Exit.FAILED


def _chosen(paths: Paths, text: str | None) -> list[str]:
    """Return the sessions to purge: the one that `text` selects, or all that left anything behind."""
    from edi_checkpointd.purge.audit import known

    with _reading(paths) as reader:
        there = known(paths, reader)
    if text is None:
        return sorted(there)
    if text in there:
        return [text]
    with open_source() as source:
        return [chosen(source, text)]


def _look(paths: Paths, sessions: Sequence[str], *, everything: bool) -> Footprint:
    from edi_checkpointd.purge.audit import held

    with _reading(paths) as reader:
        return held(paths, reader, set(sessions), everything=everything)


def _reading(paths: Paths) -> contextlib.AbstractContextManager[Reader | None]:
    """Give a reader of the journal. None: there is no journal, or it is damaged and the daemon sets it aside."""
    from edi_checkpointd.journal import JournalDamaged, Reader

    if paths.journal.exists():
        with contextlib.suppress(JournalDamaged, VersionMismatch):
            return contextlib.closing(Reader.open(paths.journal))
    return contextlib.nullcontext()


def _order(purge: Callable[[int], messages.Purge]) -> Sequence[str]:
    """Let the daemon purge, and return what it could not delete. If the daemon dies, ask the next one.

    Raises `DaemonUnavailable`, `SessionBusy`.
    """
    begun = False
    for turn in range(ASKED_TIMES):
        if turn == 1:
            tell("this takes longer: the daemon reads everything that may use an attachment")
        with daemon_client(START_S) as client:
            try:
                return expect(messages.Purged, client.ask(purge, ANSWER_S)).kept
            except DaemonUnavailable:
                begun = True
            except NotFound:
                if begun:  # the previous daemon finished the purge, but its answer was lost
                    return ()
                raise
    raise DaemonUnavailable("the purge is not finished; the daemon continues it", hint="see `edi-checkpoint status`")


def _receipt(paths: Paths, sessions: Sequence[str], before: Footprint, kept: Sequence[str]) -> Receipt:
    from edi_checkpointd.purge.audit import held, remnants

    gone = [found for path, found in before.files.items() if not os.path.lexists(path)]
    with _reading(paths) as reader:
        found = list(remnants(paths, reader, set(sessions), before.streams))
        after = held(paths, reader, set(sessions))
    removed = Counter({"checkpoints": 0, "entries": before.entries - after.entries, "attachments": 0})
    removed.update(kind for kind, _ in gone)
    removed["bytes"] = sum(count for _, count in gone) + before.bytes - after.bytes
    return Receipt(sessions, removed, found, kept)


def _document(receipt: Receipt) -> dict[str, object]:
    rows = [{"path": str(one.path), "why": one.why, "session_id": one.session_id} for one in receipt.left]
    kept = [{"path": None, "why": sentence, "session_id": None} for sentence in receipt.kept]
    return {"sessions": receipt.sessions, "removed": receipt.removed, "left": [*rows, *kept]}


def _show(screen: Screen, sessions: Sequence[str], before: Footprint, *, everything: bool) -> None:
    """Print what will be deleted, with sizes."""
    more = f" and {len(sessions) - _NAMED} more" if len(sessions) > _NAMED else ""
    what = "everything" if everything else "session"
    screen.line(Cell(f"{what}: {', '.join(sessions[:_NAMED])}{more}", "bold"))
    rows = [("entries in the journal", str(before.entries), size(before.bytes))]
    for kind, name in _KINDS.items():
        if sizes := before.of(kind):
            rows.append((name, str(len(sizes)), size(sum(sizes))))
    screen.table([Column(""), Column("", right=True), Column("", right=True)], rows, titled=False)
    if before.of("attachments") and not everything:
        tell("the attachments counted are those of all sessions; those that another session uses are kept")
    if any(path.name.startswith("journal.sqlite") for path, (kind, _) in before.files.items() if kind == "set_aside"):
        tell("a damaged journal was set aside; it is deleted, with its entries of other sessions")


def _tell(screen: Screen, receipt: Receipt) -> None:
    removed = receipt.removed
    counts = [f"{removed[kind]} {one if removed[kind] == 1 else kind}" for kind, one in _SINGULARS.items()]
    if in_trash := removed.get("trash"):
        counts.append(f"{in_trash} file{'s' * (in_trash != 1)} in the trash")
    screen.line(f"purged: {', '.join(counts)}, {size(removed['bytes'])} in all")
    others = Counter(one.session_id for one in receipt.left if one.session_id is not None)
    for session_id, count in sorted(others.items()):
        screen.line(
            f"session {session_id} is kept: {count} of its files still name{'s' * (count == 1)} what was purged"
        )
    ours = [f"{one.path} {one.why}" for one in receipt.left if one.session_id is None]
    for sentence in (*ours, *receipt.kept):
        screen.line(Cell(f"left: {sentence}", "bold yellow"))
    if not receipt.left and not receipt.kept:
        screen.line("nothing of it is left in any of our folders")
