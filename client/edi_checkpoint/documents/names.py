"""Session ids and the names of the files in the sessions folder.

A name is taken apart whole, never matched by prefix or glob: files of session `a_checkpoint_b` are none of `a`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import uuid4

from edi_checkpoint.errors import SessionIdError

_ID_MAX = 128
_ID = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{_ID_MAX - 1}}}")
_BRANCH, _BRANCH_DIGITS = "-stranded-", 8
_STAMP = r"[0-9]{8}_[0-9]{6}(?:_[0-9]{6})?"
# `.tmp` too: the reference class left `<id>_checkpoint_<stamp>.tmp.json` behind, which is no auto-save.
_ID_LIKE_CHECKPOINT = re.compile(rf".*_checkpoint_{_STAMP}(?:\.tmp)?(?:\.json)?")
# Greedy, so that the last `_checkpoint_<stamp>` counts.
_CHECKPOINT = re.compile(rf"(.+)_checkpoint_({_STAMP})\.json")
_ATTACHMENT = re.compile(r"([0-9a-f]{64})\.[a-z0-9]{1,8}")
_STAMP_FORMAT = "%Y%m%d_%H%M%S_%f"
_MICROSECOND = timedelta(microseconds=1)


class CheckpointName(NamedTuple):
    """What a checkpoint's file name says: the session's id and the stamp as it is written."""

    session_id: str
    stamp: str


def check_session_id(text: object) -> str:
    """Return `text` if it may name a session and so become part of a file name.

    Raises `SessionIdError`: not 1-128 of `A-Z a-z 0-9 . _ -`, starting with a dot, or ending like a checkpoint's name.
    """
    if isinstance(text, str) and is_session_id(text):
        return text
    raise SessionIdError(f"{repr(text)[:80]} cannot name a session")


def new_session_id() -> str:
    """Return an id that no other session has."""
    return str(uuid4())


def branch_id(session_id: str, stream: str) -> str:
    """Return the id of the session that keeps what a fenced `stream` of `session_id` published: always the same one."""
    return f"{session_id[: _ID_MAX - len(_BRANCH) - _BRANCH_DIGITS]}{_BRANCH}{stream[:_BRANCH_DIGITS]}"


def may_be_branch(session_id: str) -> bool:
    """Return whether `session_id` reads like one that `branch_id` makes."""
    return session_id[-_BRANCH_DIGITS - len(_BRANCH) : -_BRANCH_DIGITS] == _BRANCH


def checkpoint_name(session_id: str, stamp: datetime) -> str:
    """Return the file name of the checkpoint that `session_id` (a checked one) makes at `stamp` (aware)."""
    return f"{session_id}_checkpoint_{stamp.astimezone(UTC).strftime(_STAMP_FORMAT)}.json"


def autosave_name(session_id: str) -> str:
    """Return the file name of the auto-save of `session_id` (a checked one)."""
    return f"{session_id}.json"


def parse_checkpoint_name(name: str) -> CheckpointName | None:
    """Return what `name` says if it is a checkpoint's, also one of EDI's old whole-second names; None if it is not."""
    match = _CHECKPOINT.fullmatch(name)
    if match is None or not is_session_id(match[1]):
        return None
    try:
        stamp_time(match[2]) + _MICROSECOND  # a name that nothing can follow would end its session's checkpoints
    except (ValueError, OverflowError):
        return None
    return CheckpointName(match[1], match[2])


def parse_autosave_name(name: str) -> str | None:
    """Return the session whose auto-save is called `name`, or None if it is no auto-save's name."""
    session_id = name.removesuffix(".json")
    return session_id if session_id != name and is_session_id(session_id) else None


def attachment_name(sha256: str, kind: str) -> str:
    """Return where the file of an attachment lies below the folder of attachments."""
    return f"{sha256[:2]}/{sha256}.{kind}"


def staged_name(session_id: str, pid: int) -> str:
    """Return the name of the folder in which the process `pid` stages a session that it imports."""
    return f".{session_id}.{pid}"


def staged_session(name: str) -> str:
    """Return the session that a folder of imports is of, staged or decided."""
    return name[1:].rpartition(".")[0] if name.startswith(".") else name


def parse_attachment_name(name: str) -> str | None:
    """Return the digest that the file name `name` of an attachment gives, None if it is no such name."""
    match = _ATTACHMENT.fullmatch(name)
    return match and match[1]


def stamp_time(stamp: str) -> datetime:
    """Return the time that a name's `stamp` says, read as UTC. Raises `ValueError` if it is no date."""
    date, clock, fraction = int(stamp[:8]), int(stamp[9:15]), int(stamp[16:] or 0)
    year, month, day = date // 10000, date // 100 % 100, date % 100
    return datetime(year, month, day, clock // 10000, clock // 100 % 100, clock % 100, fraction, UTC)


def next_stamp(now: datetime, previous: str | None) -> datetime:
    """Return the time to name a checkpoint by: `now` (aware), or just after the stamp `previous` if that is later."""
    now = now.astimezone(UTC)
    return now if previous is None else max(now, stamp_time(previous) + _MICROSECOND)


def is_session_id(text: str) -> bool:
    """Return whether `text` may name a session; see `check_session_id`."""
    return _ID.fullmatch(text) is not None and _ID_LIKE_CHECKPOINT.fullmatch(text) is None
