"""Print to stdout for people: width, colours, and tables whose columns fit.

Tables are laid out here and not by rich. Ours stream, cut cells with ASCII dots, and cut only on a terminal. Piped
output does not load rich at all, which we use only for colours.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import NamedTuple

NOTHING = "-"  # the cell of an unknown value
_GAP = "  "
_DOTS = "..."


class Column(NamedTuple):
    """A column of a table.

    `least` is the width that the column may be cut down to when the line is too long (None: never cut). `width` is its
    minimum width, so that all pages of a list look alike. The column of the highest `rank` is cut first; among equals,
    the last one. A column with a rank is dropped if cutting does not help, or if all its cells are empty.
    """

    title: str
    style: str = ""
    least: int | None = None
    right: bool = False
    width: int = 0
    rank: int = 0


class Cell(NamedTuple):
    """A cell in another style than its column's."""

    text: str
    style: str


class Screen:
    """Stdout; if `width` is None, it is no terminal and nothing is cut. See `of_stdout`."""

    def __init__(self, width: int | None, *, colours: bool) -> None:
        self.width = width
        self.colours = colours

    @classmethod
    def of_stdout(cls) -> Screen:
        """Return the process's stdout. It has colours on a terminal without NO_COLOR, and the width of the terminal.

        COLUMNS overrides the width.
        """
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a prompt may hold what the terminal cannot show
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal or os.environ.get("COLUMNS") else None
        plain = not terminal or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return cls(width, colours=not plain)

    def line(self, *cells: str | Cell) -> None:
        """Write one line, without cutting it."""
        self._write([[_cell(cell, "") for cell in cells]])

    def paragraphs(self, paragraphs: Iterable[Iterable[str | Cell]], *, indent: int) -> None:
        """Write paragraphs of words, wrapped to the width; all lines but the first of each are indented.

        A word longer than a line is left to the terminal to wrap.
        """
        self._write(line for words in paragraphs for line in self._filled(words, indent))

    def _filled(self, words: Iterable[str | Cell], indent: int) -> Iterator[list[Cell]]:
        line: list[Cell] = []
        used = 0
        for word in (_cell(word, "") for word in words):
            if self.width is not None and used > indent and used + _cells(word.text) > self.width:
                yield line[:-1]
                line, used = [Cell(" " * indent, "")], indent
            line += [word, Cell(" ", "")]
            used += _cells(word.text) + 1
        yield line[:-1]

    def table(
        self,
        columns: Sequence[Column],
        rows: Iterable[Sequence[str | Cell]],
        *,
        titled: bool = True,
        below: Sequence[Sequence[Cell]] = (),
    ) -> bool:
        """Write the rows under their titles, cut to the width; return whether anything was cut.

        `below` gives for each row the line to write under it, uncut; an empty one writes no line.
        """
        body = [[_cell(cell, column.style) for cell, column in zip(row, columns, strict=True)] for row in rows]
        if titled:
            body.insert(0, [Cell(column.title, "bold") for column in columns])
        widths = [max([column.width, *(_cells(row[at].text) for row in body)]) for at, column in enumerate(columns)]
        if self.width is not None:
            kept = _kept(columns, widths, body, self.width)
            columns, widths = [columns[at] for at in kept], [widths[at] for at in kept]
            body = [[row[at] for at in kept] for row in body]
        natural = list(widths)
        if self.width is not None:
            _narrow(widths, columns, self.width - len(_GAP) * (len(columns) - 1))
        lines = (_laid_out(row, widths, columns) for row in body)
        nothing: list[Cell] = []
        under = [nothing, *below] if titled else below
        self._write(line for pair in zip_longest(lines, under, fillvalue=nothing) for line in pair if line)
        return widths != natural

    def _write(self, lines: Iterable[Sequence[Cell]]) -> None:
        if not self.colours:
            sys.stdout.writelines("".join(cell.text for cell in line) + "\n" for line in lines)
            return
        from rich.console import Console
        from rich.text import Text

        text = Text("\n").join(Text.assemble(*((cell.text, cell.style) for cell in line)) for line in lines)
        Console(file=sys.stdout).print(text, soft_wrap=True, highlight=False)


def visible(text: str) -> str:
    """Return `text` on one line, with terminal control characters as escapes."""
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _HIDDEN else char for char in text
    )


_HIDDEN = ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")


def cut(text: str, width: int) -> str:
    """Return `text` cut to at most `width` cells of a terminal, with dots where it was cut."""
    if _cells(text) <= width:
        return text
    if text.isascii():
        return text[: max(0, width - len(_DOTS))] + _DOTS[:width]
    from rich.cells import set_cell_size

    return set_cell_size(text, max(0, width - len(_DOTS))) + _DOTS[:width]


def moment(time: datetime) -> str:
    """Return a time for people: local, to the second, with its offset from UTC."""
    with contextlib.suppress(OverflowError, ValueError, OSError):  # close to the years 1 or 9999
        time = time.astimezone()
    return time.isoformat(" ", "seconds")


def moments(title: str, times: Sequence[datetime | None], *, seconds: bool = True) -> tuple[str, list[str]]:
    """Return the title and the cells of a column of times. An offset that all share is shown in the title only.

    If `seconds` is false and the offset is shared, the cells leave out the seconds.
    """
    texts = [NOTHING if time is None else moment(time) for time in times]
    offsets = {text[19:] for text in texts if text != NOTHING}
    if len(offsets) != 1:
        return title, texts
    return f"{title} {offsets.pop()}", [text[: 19 if seconds else 16] for text in texts]


def size(count: int) -> str:
    """Return a number of bytes for people, in a fitting unit."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1000:
            break
        amount, unit = amount / 1024, larger
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def _cell(cell: str | Cell, style: str) -> Cell:
    return Cell(visible(cell.text), cell.style) if isinstance(cell, Cell) else Cell(visible(cell), style)


def _cells(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _kept(columns: Sequence[Column], widths: Sequence[int], body: Sequence[Sequence[Cell]], width: int) -> list[int]:
    """Return the indices of the columns that fit into lines of `width` cells, without empty ones."""
    ranked = sorted((column.rank, at) for at, column in enumerate(columns) if column.rank)
    silent = [at for _, at in ranked if all(row[at].text in ("", NOTHING, columns[at].title) for row in body)]
    kept = [at for at in range(len(columns)) if at not in silent]
    for _, at in reversed(ranked):
        least = sum(_least(columns[other], widths[other]) for other in kept) + len(_GAP) * (len(kept) - 1)
        if least > width and at in kept:
            kept.remove(at)
    return kept


def _least(column: Column, width: int) -> int:
    return width if column.least is None else min(width, max(column.least, len(column.title)))


def _narrow(widths: list[int], columns: Sequence[Column], room: int) -> None:
    """Reduce `widths` in place until their sum fits into `room`, or none can be reduced further."""
    for at in sorted(range(len(columns)), key=lambda at: (columns[at].rank, at), reverse=True):
        spare = widths[at] - _least(columns[at], widths[at])
        widths[at] -= max(0, min(spare, sum(widths) - room))


def _laid_out(row: Sequence[Cell], widths: Sequence[int], columns: Sequence[Column]) -> list[Cell]:
    """Return the cells of a line, cut and padded to their widths, with gaps between them, without trailing spaces."""
    last = max((at for at, cell in enumerate(row) if cell.text), default=-1)
    line: list[Cell] = []
    for at in range(last + 1):
        text = cut(row[at].text, widths[at])
        fill = " " * (widths[at] - _cells(text))
        before, after = (fill, "") if columns[at].right else ("", fill)
        line += [Cell(before, ""), Cell(text, row[at].style), Cell("" if at == last else after + _GAP, "")]
    return line
