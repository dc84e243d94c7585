"""Print answers for people, in lines that fit, the important things first.

On a narrow terminal, ids are cut to a unique prefix; every command takes such a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from edi_checkpoint.model import AUTOMATIC, CheckpointInfo, HistoryEntry, Kind
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.messages import History, StateAt
from edi_checkpointd.cli.output.phrases import in_words, phrase
from edi_checkpointd.cli.output.screen import NOTHING, Cell, Column, Screen, cut, moment, moments, size, visible
from edi_checkpointd.cli.output.tree import Branch
from edi_checkpointd.system.clock import from_us

if TYPE_CHECKING:
    from edi_checkpointd.cli.views.attachments import Named

_PREFIX_LEAST = 13  # an id that a user chose is never cut shorter than this
_UUID_PREFIX_LEAST = 8
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WIDE = 160  # from this width on, ids are not cut
CONDITION_STYLE = {"live": "green", "interrupted": "bold yellow", "unfinished": "cyan", "ended": "dim"}
_STATUS_STYLE = {"completed": "green", "failed": "red"}
_KIND_STYLE: dict[str, str] = {
    **dict.fromkeys(AUTOMATIC, "dim"),
    Kind.INTERRUPTED: "bold yellow",
    Kind.BEFORE_ROLLBACK: "cyan",
    Kind.ROLLBACK: "cyan",
}
_OP_STYLE = {"mark": "dim", "pin": "dim", "rollback": "cyan"}
_SIGN_STYLE = {"+": "green", "-": "red"}
_UNDER = "    "
_CUT_BYTES_PER_CELL = 8  # bytes of JSON text to look at for each cell: indentation is dropped later
_SIZE_SHOWN_BYTES = 1000  # the size of a shorter value is not worth a cell
_BREAK_AT_BRACKET = re.compile(r"(?<=[\[{])\n *|\n *(?=[\]}])")
_FAULTS = {"attachment_missing": "missing", "attachment_damaged": "damaged"}
_BREAK = re.compile(r"\n *")


def sessions(screen: Screen, shown: Sequence[Branch], every_id: Sequence[str]) -> None:
    """Write the sessions `shown`; a cut id stays unique among `every_id`.

    On a narrow terminal the number of checkpoints is dropped first, because `log` shows it. Then go the status (the
    condition says most of it), the score (only the last stage has one), stage and image. A user recognises a session by
    its id, condition, time and prompt, so these stay.
    """
    wide = screen.width is None or screen.width >= _WIDE
    ids = {} if wide else _prefixes(every_id)
    title, updated = moments("UPDATED", [one.info.updated if one.info else None for one in shown], seconds=wide)
    screen.table(
        [
            Column("SESSION", "bold"),
            Column("CONDITION"),
            Column("STAGE", least=10, rank=2),
            Column("STATUS", rank=4),
            Column("SCORE", right=True, rank=3),
            Column(title),
            Column("CP", right=True, rank=5),
            Column("IMAGE", least=8, rank=1),
            Column("PROMPT", least=12),
        ],
        [_session(one, ids, time) for one, time in zip(shown, updated, strict=True)],
    )


def _session(one: Branch, ids: Mapping[str, str], time: str) -> Sequence[str | Cell]:
    name, info = one.lines + ids.get(one.session_id, one.session_id), one.info
    if info is None:
        return Cell(name, "dim"), Cell("missing", "dim"), *[NOTHING] * 7
    return (
        name,
        Cell(info.condition, CONDITION_STYLE.get(info.condition, "")),
        info.stage or NOTHING,
        Cell(info.status or NOTHING, _STATUS_STYLE.get(info.status or "", "")),
        NOTHING if info.score is None else f"{info.score:.3g}",
        time,
        str(info.checkpoints),
        info.image or NOTHING,
        info.prompt or NOTHING,
    )


def log(screen: Screen, session_id: str, found: Sequence[CheckpointInfo], summaries: Sequence[str | None]) -> None:
    """Write a session's checkpoints, oldest first, each with its `@` number and the changes that it contains."""
    screen.line(Cell(f"session {session_id}", "dim"))
    title, times = moments("MADE", [info.timestamp for info in found])
    screen.table(
        [
            Column("", "bold"),
            Column(title),
            Column("KIND"),
            Column("STAGE", least=10),
            Column("SEQ", right=True),
            Column("SIZE", right=True, rank=1),
            Column("WHY", least=18),
        ],
        [
            (
                f"@{len(found) - at}",
                time,
                Cell(info.kind, _KIND_STYLE.get(info.kind, "")),
                info.stage,
                str(info.sequence),
                size(info.size_bytes),
                Cell(_why(info), "bold" if info.pinned else ""),
            )
            for at, (info, time) in enumerate(zip(found, times, strict=True))
        ],
        below=[_brought(screen, summary) if summary else [] for summary in summaries],
    )


def _brought(screen: Screen, summary: str) -> list[Cell]:
    """Return a summary in one line, additions in green and removals in red."""
    text = visible(summary)
    if screen.width is not None:
        text = cut(text, screen.width - len(_UNDER))
    words = [Cell(word, _SIGN_STYLE.get(word[:1], "")) for word in text.split(" ")]
    return [Cell(_UNDER, ""), *(cell for word in words for cell in (word, Cell(" ", "")))][:-1]


def history(screen: Screen, session_id: str, pages: Iterable[History]) -> None:
    """Write a session's entries, oldest first; each page is written when it comes."""
    title, offset = "TIME", ""
    for at, page in enumerate(pages):
        if at == 0:
            extent = f"holds sequences {page.first} to {page.last}" if page.last else "has no entries of it"
            screen.line(Cell(f"session {session_id}; the journal {extent}", "dim"))
            title, _ = moments(title, [entry.timestamp for entry in page.entries[:1]])
            offset = title.removeprefix("TIME ")
        if page.entries:
            columns = [
                Column("SEQ", "bold", right=True, width=len(str(page.last))),
                Column(title, width=19),
                Column("OP", width=len("rollback")),
                Column("SIZE", right=True, width=len("999.9 KiB"), rank=1),
                Column("WHAT", least=36),
            ]
            screen.table(columns, (_entry(entry, offset) for entry in page.entries), titled=at == 0)


def show(screen: Screen, found: StateAt) -> bool:
    """Write a state, one line per key; return whether a value was cut."""
    facts: list[tuple[str, str | Cell | None]] = [
        ("session", found.session_id),
        ("from", found.parent_session),
        ("condition", Cell(found.condition, CONDITION_STYLE.get(found.condition, ""))),
        ("stage", found.stage),
        ("sequence", f"{found.sequence}, {moment(from_us(found.time_us))}" if found.time_us else "0"),
        ("checkpoint", found.checkpoint),
        ("read from", found.source),
    ]
    screen.table(
        [Column("", "dim"), Column("")], [(name, fact) for name, fact in facts if fact is not None], titled=False
    )
    screen.line()
    if not found.state:
        screen.line(Cell("the state is empty", "dim"))
        return False
    return _state(screen, found.state)


def attachments(screen: Screen, session_id: str, found: Sequence[Named]) -> None:
    """Write the attachments of a session's state, and which of them are missing or damaged."""
    screen.line(Cell(f"session {session_id}", "dim"))
    screen.table(
        [Column("PATH", "bold", least=12), Column("WHAT", least=10), Column("SHA256"), Column("")],
        [
            (
                named.path,
                phrase(named.reference),
                named.reference.sha256[:16],
                Cell(_FAULTS.get(named.fault.code, named.fault.code), "bold red") if named.fault else "",
            )
            for named in found
        ],
    )


def _state(screen: Screen, state: Mapping[str, JsonText]) -> bool:
    state = {key: in_words(text) for key, text in state.items()}
    most = max(map(len, state.values())) if screen.width is None else screen.width * _CUT_BYTES_PER_CELL
    sizes = [size(len(text)) if len(text) >= _SIZE_SHOWN_BYTES else "" for text in state.values()]
    values = [_one_line(text[:most]) + ("..." if len(text) > most else "") for text in state.values()]
    columns = [Column("KEY", "bold", least=12), Column("VALUE", least=10), Column("SIZE", "dim", right=True)]
    rows = list(zip(state, values, sizes, strict=True))
    shown = 3 if screen.width is not None and any(sizes) else 2
    was_cut = screen.table(columns[:shown], [row[:shown] for row in rows])
    return was_cut or any(len(text) > most for text in state.values())


def _one_line(text: JsonText) -> str:
    """Return JSON text, or its beginning, on one line. This is safe because a JSON string contains no newline."""
    return _BREAK.sub(" ", _BREAK_AT_BRACKET.sub("", text.decode(errors="ignore")))


def _entry(entry: HistoryEntry, offset: str) -> tuple[str, str, Cell, str, Cell]:
    time = moment(entry.timestamp).removesuffix(offset)  # after a change of summer time, a different offset stays
    keys = [key for key in entry.keys if entry.stage is None or key != "current_stage"]
    what, style = ", ".join(keys), ""
    if entry.stage is not None:
        what, style = f"stage {entry.stage}" + (f": {what}" if keys else ""), "bold"
    op = Cell(entry.op, _OP_STYLE.get(entry.op, ""))
    return str(entry.sequence), time, op, size(entry.bytes), Cell(what, style)


def _why(info: CheckpointInfo) -> str:
    label = None if info.label is None else f"'{info.label}'"
    return " ".join(filter(None, ("pinned" * info.pinned, label, info.reason, info.note))) or NOTHING


def _prefixes(ids: Sequence[str]) -> dict[str, str]:
    """Return for each id its shortest unique prefix of a readable length."""
    ordered = sorted(ids)
    found = {}
    for at, own in enumerate(ordered):
        beside = [*ordered[max(0, at - 1) : at], *ordered[at + 1 : at + 2]]
        least = _UUID_PREFIX_LEAST if _UUID.fullmatch(own) else _PREFIX_LEAST
        found[own] = own[: max([least, *(_common(own, other) + 1 for other in beside)])]
    return found


def _common(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
