"""Load two states of sessions, compare them, and print the differences.

In JSON this is a patch. For people it is one line per change: `+` added, `-` removed, `~` changed, `>` moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec

from edi_checkpoint.diff.changes import Change, Reordered, changes, spelled
from edi_checkpoint.diff.delta import is_reference
from edi_checkpoint.diff.numbers import is_number, number, step
from edi_checkpoint.diff.patch import patch
from edi_checkpoint.diff.summary import summary
from edi_checkpoint.diff.words import Part, parts
from edi_checkpoint.documents.fragments import string
from edi_checkpoint.errors import DocumentDamaged, NotFound
from edi_checkpoint.model import CheckpointInfo
from edi_checkpoint.wire.entries import JsonText
from edi_checkpoint.wire.messages import StateAt
from edi_checkpoint.wire.references import KEY, Reference
from edi_checkpointd.cli import select
from edi_checkpointd.cli.output import masks
from edi_checkpointd.cli.output.masks import Read
from edi_checkpointd.cli.output.phrases import in_words, phrase
from edi_checkpointd.cli.output.screen import NOTHING, Cell, Column, Screen, moment
from edi_checkpointd.cli.source import Source
from edi_checkpointd.system.clock import from_us

_WENT, _CAME = "red", "green"
_CUT = Cell("...", "bold")  # marks a value that is cut
_INDENT = 4
_AROUND_WORDS = 3  # unchanged words shown on each side of a change in a text
_DIGEST_CHARS = 12
_VALUE_MAX_CHARS = 240  # three lines of a terminal


class Side(NamedTuple):
    """One of the two states; `selector` is what the user can type for it: `@2`, or `now`."""

    selector: str
    found: StateAt


def side(source: Source, session_id: str, checkpoint: str | None) -> Side:
    """Return the state of a checkpoint, or the current state if it is None. Raises `NotFound`, `Ambiguous`."""
    if checkpoint is None:
        return Side("now", source.state(session_id))
    infos = source.checkpoints(session_id)
    info = select.checkpoint(checkpoint, infos)
    return Side(f"@{len(infos) - infos.index(info)}", source.state(session_id, checkpoint=info.name))


def summaries(source: Source, found: Iterable[CheckpointInfo]) -> Iterator[str | None]:
    """Yield for each checkpoint (of one session, oldest first) one line about its changes.

    It is None for the first one, and for an unreadable one and its successor. Each is read once; two are in memory.
    """
    before = None
    for info in found:
        after = _read(source, info)
        yield None if before is None or after is None else summary(before, after)
        before = after


def _read(source: Source, info: CheckpointInfo) -> Mapping[str, JsonText] | None:
    try:
        return source.state(info.session_id, checkpoint=info.name).state
    except (DocumentDamaged, NotFound):  # the daemon may have deleted it just now
        return None


def document(before: Side, after: Side) -> dict[str, object]:
    """Return the document of `diff`."""
    sides = {
        name: {"name": found.checkpoint, "sequence": found.sequence, "session_id": found.session_id}
        for name, (_, found) in (("a", before), ("b", after))
    }
    return {**sides, "patch": patch(before.found.state, after.found.state)}


def show(screen: Screen, source: Source, before: Side, after: Side) -> bool:
    """Write what changed; return whether a value was cut. Masks are loaded from `source` to compute their overlap."""
    screen.table(
        [Column("", "bold"), Column("", least=8), Column(""), Column(""), Column("", least=10)],
        [_side("-", _WENT, before), _side("+", _CAME, after)],
        titled=False,
    )
    screen.line()
    found = changes(before.found.state, after.found.state)
    if not found:
        screen.line(Cell("the states are equal", "dim"))
        return False
    most = None if screen.width is None else _VALUE_MAX_CHARS
    reads = (partial(source.attachment, before.found.session_id), partial(source.attachment, after.found.session_id))
    lines = [list(_line(change, most, reads)) for change in found]
    screen.paragraphs(lines, indent=_INDENT)
    return any(word is _CUT for words in lines for word in words)


def _side(sign: str, style: str, side: Side) -> Sequence[str | Cell]:
    found = side.found
    time = moment(from_us(found.time_us)) if found.time_us else NOTHING
    return Cell(f"{sign} {side.selector}", style), found.session_id, time, f"sequence {found.sequence}", found.stage


def _line(change: Change | Reordered, most: int | None, reads: tuple[Read, Read]) -> Iterator[Cell]:
    """Yield the words that describe a change; values are cut to `most` characters."""
    place = spelled(change.path)
    if isinstance(change, Reordered):
        yield from (Cell(f"> {place}:", "bold"), Cell(f"{change.moved} moved", ""))
    elif change.before is None or change.after is None:
        came = change.after is not None
        style = _CAME if came else _WENT
        yield Cell(f"{'+' if came else '-'} {place}:", f"bold {style}")
        yield from _value(change.after or change.before or b"", style, most)
    else:
        yield Cell(f"~ {place}:", "bold")
        yield from _became(change.before, change.after, most, reads)


def _became(before: bytes, after: bytes, most: int | None, reads: tuple[Read, Read]) -> Iterator[Cell]:
    was, now = string(before), string(after)
    if was is not None and now is not None and " " in was and " " in now and (found := parts(was, now)):
        yield from _text(found)
    elif is_number(before) and is_number(after):
        yield from (Cell(number(before), _WENT), Cell("->", ""), Cell(number(after), _CAME))
        if by := step(before, after):
            yield Cell(f"({by})", "")
    elif (one := _reference(before)) and (other := _reference(after)):
        yield from _attached(one, other, reads)
    else:
        yield from (*_value(before, _WENT, most), Cell("->", ""), *_value(after, _CAME, most))


def _attached(before: Reference, after: Reference, reads: tuple[Read, Read]) -> Iterator[Cell]:
    """Yield how a mask changed; for other attachments, their kinds and the beginnings of their digests."""
    if words := masks.change(before, after, reads):
        yield from (Cell(word, "") for word in words.split(" "))
    else:
        yield from (Cell(f"<{phrase(before)}>", _WENT), Cell(before.sha256[:_DIGEST_CHARS], _WENT), Cell("->", ""))
        yield from (Cell(f"<{phrase(after)}>", _CAME), Cell(after.sha256[:_DIGEST_CHARS], _CAME))


def _reference(text: bytes) -> Reference | None:
    if is_reference(text):
        with suppress(msgspec.MsgspecError):  # another program's file may contain something that only looks like one
            return msgspec.json.decode(text, type=dict[str, Reference])[KEY]
    return None


def _text(found: Sequence[Part]) -> Iterator[Cell]:
    """Yield the removed and added words, each with its sign, and a few words around them."""
    for at, part in enumerate(found):
        words = part.text.split()
        if part.sign:
            yield from (Cell(part.sign + word, _CAME if part.sign == "+" else _WENT) for word in words)
            continue
        front = words[:_AROUND_WORDS] if at else []
        back = words[-_AROUND_WORDS:] if at < len(found) - 1 else []
        if len(words) > len(front) + len(back) + 1:
            words = [*front, "...", *back]
        yield from (Cell(word, "dim") for word in words if word == "..." or any(map(str.isalnum, word)))


def _value(text: bytes, style: str, most: int | None) -> Iterator[Cell]:
    """Yield a value's JSON text in words, so that lines break at its spaces."""
    shown = in_words(msgspec.json.format(text, indent=0)).decode()
    yield from (Cell(word, style) for word in shown[:most].split(" "))
    if most is not None and len(shown) > most:
        yield _CUT
