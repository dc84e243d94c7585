"""Decides a session's condition, for the daemon, the command and clients. Pure: facts in, a word out.

live         a writer is attached
interrupted  its last writer died, or ended with an unhandled exception
unfinished   its last writer closed it cleanly, and EDI's own status is neither completed nor failed
ended        its last writer closed it cleanly, and EDI's own status is completed or failed
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from edi_checkpoint.model import Kind

Condition: TypeAlias = Literal["live", "interrupted", "unfinished", "ended"]
CONDITIONS: Final[tuple[Condition, ...]] = get_args(Condition)
_ENDED = frozenset({"completed", "failed"})


def decide(*, live: bool, clean_end: bool | None, newest: str | None, status: str | None) -> Condition:
    """Return the condition of a session.

    `live`: a living process holds the lock of its newest stream. `clean_end`: whether the last writer closed the
    session cleanly, by its outbox's last entry or by the journal; None if neither tells. Then `newest` decides, the
    kind of the newest checkpoint unless the auto-save is newer: after a death it is `interrupted`. `status` is EDI's
    own.
    """
    if live:
        return "live"
    if not (newest != Kind.INTERRUPTED if clean_end is None else clean_end):
        return "interrupted"
    return "ended" if status in _ENDED else "unfinished"
