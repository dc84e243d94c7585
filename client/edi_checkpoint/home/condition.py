"""A session's condition: the one place that decides it. Pure: facts in, a word out.

live         a writer is attached
interrupted  its last writer died, or left by an unhandled exception
unfinished   it was left cleanly, and EDI's own status is neither completed nor failed
ended        it was left cleanly, completed or failed
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from edi_checkpoint.model import Kind

Condition: TypeAlias = Literal["live", "interrupted", "unfinished", "ended"]
CONDITIONS: Final[tuple[Condition, ...]] = get_args(Condition)
_ENDED = frozenset({"completed", "failed"})


def decide(*, held: bool, left_cleanly: bool | None, newest: str | None, status: str | None) -> Condition:
    """Return the condition of a session.

    `held`: a living process holds the lock of its newest stream. `left_cleanly`: how the last writer left, as its
    outbox's last entry or the journal says; None where neither tells. Only then the files do, by `newest`, the kind of
    the newest checkpoint unless the auto-save has gone further: the one that a death led to is `interrupted`. `status`
    is EDI's own.
    """
    if held:
        return "live"
    if left_cleanly is None:
        left_cleanly = newest != Kind.INTERRUPTED
    if not left_cleanly:
        return "interrupted"
    return "ended" if status in _ENDED else "unfinished"
