"""The command that forgets: it shows what will go, has the daemon remove it, and looks for itself what is left."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import Parameter

from edi_checkpoint import protocol
from edi_checkpoint.errors import DaemonUnavailable, NotFound, VersionMismatch
from edi_checkpoint.paths import Paths, locate
from edi_checkpointd.cli import PROGRAM, Exit, documents, select
from edi_checkpointd.cli.app import AsJson, agreed, app, chosen, open_source, tell
from edi_checkpointd.cli.screen import Cell, Column, Screen, size

if TYPE_CHECKING:
    from edi_checkpointd.journal import Reader
    from edi_checkpointd.traces import Held, Left

ANSWER_S = 10.0  # asked again after it: a daemon that died is followed by another, which goes on with it
ASKED_TIMES = 60
START_S = 30.0  # of a daemon that is started, and may have to end a purge that was cut short before it serves
_NAMED = 5  # sessions that a question names

_KINDS = {
    "checkpoints": "checkpoints",
    "autosaves": "auto-saves",
    "outboxes": "outboxes",
    "trash": "in the trash",
    "set_aside": "set aside as damaged",
    "attachments": "attachments",
}


_COUNTED = {"checkpoints": "checkpoint", "entries": "entry", "attachments": "attachment"}


class Receipt(NamedTuple):
    """What a purge has removed, as a look before it and one behind it tell; what is left, and what could not go."""

    sessions: Sequence[str]
    removed: dict[str, int]
    left: Sequence[Left]
    kept: Sequence[str]

    @property
    def complete(self) -> bool:
        """Whether all that is left is of other sessions."""
        return not self.kept and all(one.session_id is not None for one in self.left)


@app.command(sort_key=19, usage="Usage: edi-checkpoint purge SESSION | --all [--yes] [--takeover] [--json]")
def purge(
    session: Annotated[
        str | None, Parameter(help="An id, the beginning of one that no other has, or `latest`.")
    ] = None,
    /,
    *,
    everything: Annotated[
        bool, Parameter("--all", negative="", show_default=False, help="All sessions, and all that was kept of any.")
    ] = False,
    yes: Annotated[bool, Parameter(negative="", show_default=False, help="Do not ask.")] = False,
    takeover: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Even while somebody writes to it: that one is shut out, and what it publishes is kept nowhere.",
        ),
    ] = False,
    json: AsJson = False,
) -> int:
    """Forget a session for good. It shows what will go, and asks.

    Its checkpoints, history, outboxes and attachments go, with what is in the
    trash, what was set aside as damaged, and the lines of the log that name it.
    A damaged journal was set aside whole: it goes with any session, since it
    may hold texts of this one. An attachment that another session names stays.

    Forks, and branches of writers that were shut out, are sessions of their
    own: they stay, with the texts that they took over and the name of where
    they came from. `edi-checkpoint sessions --tree` shows them; purge them too.

    Out of reach: copies, backups and exports, the pictures themselves, the
    system's journal, what the disk keeps in blocks that are free.

    Exit code 5 while somebody writes to it, 1 if something could not be removed.

    Example: edi-checkpoint purge lighthouse
             edi-checkpoint purge --all --yes
    """
    if (session is None) != everything:
        raise select.UsageError("say what to purge: a SESSION, or --all")
    if not yes and (json or not sys.stdin.isatty()):
        raise select.UsageError("nobody can be asked here", hint="--yes purges without asking")
    paths = locate()
    sessions = _chosen(paths, session)
    before = _look(paths, sessions, everything=everything)
    if not yes:
        _show(Screen.of_stdout(), sessions, before, everything=everything)
        if not agreed("purge all of it? It cannot be undone. [y/N] "):
            tell("nothing was removed")
            return Exit.DONE
    order = protocol.Purge(0, () if everything else tuple(sessions), everything, takeover)
    receipt = _receipt(paths, sessions, before, _ordered(order))
    if json:
        documents.write(_document(receipt))
    else:
        _tell(Screen.of_stdout(), receipt)
    return Exit.DONE if receipt.complete else Exit.FAILED


def _chosen(paths: Paths, text: str | None) -> list[str]:
    """Return the sessions to purge: the one that `text` selects, or all of which anything is there."""
    from edi_checkpointd.traces import known

    with _reading(paths) as reader:
        there = known(paths, reader)
    if text is None:
        return sorted(there)
    if text in there:
        return [text]
    with open_source() as source:
        return [chosen(source, text)]


def _look(paths: Paths, sessions: Sequence[str], *, everything: bool) -> Held:
    from edi_checkpointd.traces import held

    with _reading(paths) as reader:
        return held(paths, reader, set(sessions), everything=everything)


@contextlib.contextmanager
def _reading(paths: Paths) -> Iterator[Reader | None]:
    """Give a reader of the journal, None when there is none or it cannot be read: then the daemon sets it aside."""
    from edi_checkpointd.journal import JournalDamaged, Reader

    reader = None
    if paths.journal.exists():
        with contextlib.suppress(JournalDamaged, VersionMismatch):
            reader = Reader.open(paths.journal)
    try:
        yield reader
    finally:
        if reader is not None:
            reader.close()


def _ordered(order: protocol.Purge) -> Sequence[str]:
    """Have the daemon purge, whichever one is there, and return what it could not remove.

    Raises `DaemonUnavailable`, `SessionBusy`.
    """
    from edi_checkpoint.client import connect

    begun = False
    for turn in range(ASKED_TIMES):
        if turn == 1:
            tell("this takes longer: all that may name an attachment is read")
        with connect(app=PROGRAM, timeout_s=START_S) as client:
            if not client.connected:
                raise DaemonUnavailable("no daemon answers, and this needs one")
            try:
                answer = client.ask(
                    lambda n: protocol.Purge(n, order.sessions, order.everything, order.takeover), ANSWER_S
                )
            except DaemonUnavailable:
                begun = True
            except NotFound:
                if begun:  # the one that was asked before has ended it
                    return ()
                raise
            else:
                return answer.kept if isinstance(answer, protocol.Purged) else ()
    raise DaemonUnavailable("the purge has not ended; the daemon goes on with it", hint="see `edi-checkpoint status`")


def _receipt(paths: Paths, sessions: Sequence[str], before: Held, kept: Sequence[str]) -> Receipt:
    from edi_checkpointd.traces import held, left

    gone = [found for path, found in before.files.items() if not os.path.lexists(path)]
    with _reading(paths) as reader:
        found = list(left(paths, reader, set(sessions), before.streams))
        after = held(paths, reader, set(sessions))
    removed = Counter({"checkpoints": 0, "entries": before.entries - after.entries, "attachments": 0})
    removed.update(kind for kind, _ in gone)
    removed["bytes"] = sum(count for _, count in gone) + before.bytes - after.bytes
    return Receipt(sessions, removed, found, kept)


def _document(receipt: Receipt) -> dict[str, object]:
    rows = [{"path": str(one.path), "why": one.why, "session_id": one.session_id} for one in receipt.left]
    kept = [{"path": None, "why": sentence, "session_id": None} for sentence in receipt.kept]
    return {"sessions": receipt.sessions, "removed": receipt.removed, "left": [*rows, *kept]}


def _show(screen: Screen, sessions: Sequence[str], before: Held, *, everything: bool) -> None:
    """Write what will go, with sizes."""
    more = f" and {len(sessions) - _NAMED} more" if len(sessions) > _NAMED else ""
    what = "everything" if everything else "session"
    screen.line(Cell(f"{what}: {', '.join(sessions[:_NAMED])}{more}", "bold"))
    rows = [("entries in the journal", str(before.entries), size(before.bytes))]
    for kind, name in _KINDS.items():
        if sizes := before.of(kind):
            rows.append((name, str(len(sizes)), size(sum(sizes))))
    screen.table([Column(""), Column("", right=True), Column("", right=True)], rows, titled=False)
    if before.of("attachments") and not everything:
        tell("the attachments are those of all sessions: what another one names stays")
    if any(path.name.startswith("journal.sqlite") for path, (kind, _) in before.files.items() if kind == "set_aside"):
        tell("a damaged journal was set aside whole: it goes, with what it holds of other sessions")


def _counted(count: int, one: str) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {one.removesuffix('y') + 'ie' if one[-1] == 'y' else one}s"


def _tell(screen: Screen, receipt: Receipt) -> None:
    removed = receipt.removed
    counts = [_counted(removed[what], one) for what, one in _COUNTED.items()]
    if in_trash := removed.get("trash"):
        counts.append(f"{_counted(in_trash, 'file')} in the trash")
    screen.line(f"purged: {', '.join(counts)}, {size(removed['bytes'])} in all")
    others = Counter(one.session_id for one in receipt.left if one.session_id is not None)
    for session_id, count in sorted(others.items()):
        screen.line(f"session {session_id} stays: {count} file{'s' * (count != 1)} of it name what was purged")
    for one in receipt.left:
        if one.session_id is None:
            screen.line(Cell(f"left: {one.path} {one.why}", "bold yellow"))
    for sentence in receipt.kept:
        screen.line(Cell(f"left: {sentence}", "bold yellow"))
    if not receipt.left and not receipt.kept:
        screen.line("nothing of it is left in any place that is written to")
