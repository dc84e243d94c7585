"""Sessions as a tree of forks and branches, line by line. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edi_checkpoint.model import SessionInfo

_LINES_MAX = 18  # cells of tree lines before an id; a deeper level is shown as a number


class Branch(NamedTuple):
    """One line of a list: the tree lines before it, the session's id, and its row (None: the session is missing)."""

    lines: str
    session_id: str
    info: SessionInfo | None


def flat(rows: Iterable[SessionInfo]) -> list[Branch]:
    """Return `rows` as a plain list, without tree lines."""
    return [Branch("", info.session_id, info) for info in rows]


def with_parents(rows: Sequence[SessionInfo], every: Sequence[SessionInfo]) -> list[SessionInfo]:
    """Return `rows` and all their ancestors among `every`, in the order of `every`."""
    known = {info.session_id: info for info in every}
    shown: set[str] = set()
    for info in rows:
        above: SessionInfo | None = info
        while above is not None and above.session_id not in shown:
            shown.add(above.session_id)
            above = known.get(above.parent_session or "")
    return [info for info in every if info.session_id in shown]


def grown(rows: Sequence[SessionInfo]) -> list[Branch]:
    """Return `rows` (newest first) as a tree: roots newest first, children below their parent, newest first.

    A parent that is not among `rows` becomes a root without a row. A session that is its own ancestor (a damaged header
    may say so) becomes a root. Each session appears once.
    """
    known = {info.session_id: info for info in rows}
    below: dict[str, list[str]] = {}
    roots: dict[str, None] = {}
    for info in rows:
        parent = info.parent_session
        if parent is None:
            roots[info.session_id] = None
        else:
            below.setdefault(parent, []).append(info.session_id)
            if parent not in known:
                roots[parent] = None
    found: list[Branch] = []
    seen: set[str] = set()
    for root in [*roots, *known]:  # sessions that no root reaches are their own ancestors
        waiting = [(root, "", "")]
        while waiting:
            session_id, lines, indent = waiting.pop()
            if session_id in seen:
                continue
            seen.add(session_id)
            found.append(Branch(_short(lines), session_id, known.get(session_id)))
            children = [child for child in below.get(session_id, ()) if child not in seen]
            for at, child in enumerate(reversed(children)):
                last = at == 0
                waiting.append((child, indent + ("`- " if last else "|- "), indent + ("   " if last else "|  ")))
    return found


def _short(lines: str) -> str:
    return lines if len(lines) <= _LINES_MAX else f"({len(lines) // 3} deep) `- "
