"""Session ids and the names of the files in the sessions folder.

A name is parsed as a whole, never matched by prefix or glob: files of session `a_checkpoint_b` do not belong to `a`.
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
# With `.tmp`: EDI's own class left `<id>_checkpoint_<stamp>.tmp.json` behind, which must not count as an auto-save.
_ID_LIKE_CHECKPOINT = re.compile(rf".*_checkpoint_{_STAMP}(?:\.tmp)?(?:\.json)?")
# Greedy: the last `_checkpoint_<stamp>` counts.
_CHECKPOINT = re.compile(rf"(.+)_checkpoint_({_STAMP})\.json")
_ATTACHMENT = re.compile(r"([0-9a-f]{64})\.[a-z0-9]{1,8}")
_STAMP_FORMAT = "%Y%m%d_%H%M%S_%f"
_MICROSECOND = timedelta(microseconds=1)


class CheckpointName(NamedTuple):
    """The parts of a checkpoint's file name: the session's id, and the stamp as text."""

    session_id: str
    stamp: str


def check_session_id(text: object) -> str:
    """Return `text` if it is a valid session id, which may become part of a file name.

    An id has 1-128 of the characters `A-Z a-z 0-9 . _ -`, does not start with a dot, and does not end like the name of
    a checkpoint. Raises `SessionIdError` for others.
    """
    if isinstance(text, str) and is_session_id(text):
        return text
    raise SessionIdError(f"{repr(text)[:80]} is not a valid session id")


def new_session_id() -> str:
    """Return a random id that no other session has."""
    return str(uuid4())


def branch_id(session_id: str, stream: str) -> str:
    """Return the id of the branch for what a fenced `stream` of `session_id` published; one stream has one branch."""
    return f"{session_id[: _ID_MAX - len(_BRANCH) - _BRANCH_DIGITS]}{_BRANCH}{stream[:_BRANCH_DIGITS]}"


def may_be_branch(session_id: str) -> bool:
    """Return whether `session_id` has the form that `branch_id` returns."""
    return session_id[-_BRANCH_DIGITS - len(_BRANCH) : -_BRANCH_DIGITS] == _BRANCH


def checkpoint_name(session_id: str, stamp: datetime) -> str:
    """Return the file name of a checkpoint; `session_id` is valid, `stamp` is aware."""
    return f"{session_id}_checkpoint_{stamp.astimezone(UTC).strftime(_STAMP_FORMAT)}.json"


def autosave_name(session_id: str) -> str:
    """Return the file name of a session's auto-save; `session_id` is valid."""
    return f"{session_id}.json"


def parse_checkpoint_name(name: str) -> CheckpointName | None:
    """Return the parts of a checkpoint's file name, None for another name. EDI's old names have no microseconds."""
    match = _CHECKPOINT.fullmatch(name)
    if match is None or not is_session_id(match[1]):
        return None
    try:
        stamp_time(match[2]) + _MICROSECOND  # no later name could follow the last stamp that a datetime holds
    except (ValueError, OverflowError):
        return None
    return CheckpointName(match[1], match[2])


def parse_autosave_name(name: str) -> str | None:
    """Return the session id in the file name of an auto-save, None for another name."""
    session_id = name.removesuffix(".json")
    return session_id if session_id != name and is_session_id(session_id) else None


def session_of(name: str) -> str | None:
    """Return the session whose document, a checkpoint or an auto-save, is called `name`; None for any other name."""
    checkpoint = parse_checkpoint_name(name)
    return checkpoint.session_id if checkpoint else parse_autosave_name(name)


def attachment_name(sha256: str, kind: str) -> str:
    """Return the path of an attachment's file below the folder of attachments."""
    return f"{sha256[:2]}/{sha256}.{kind}"


def staged_name(session_id: str, pid: int) -> str:
    """Return the name of the folder in which the process `pid` stages a session that it imports."""
    return f".{session_id}.{pid}"


def staged_session(name: str) -> str:
    """Return the session id in the name of a folder in the folder of imports, staged or decided."""
    return name[1:].rpartition(".")[0] if name.startswith(".") else name


def parse_attachment_name(name: str) -> str | None:
    """Return the digest in the file name of an attachment, None for another name."""
    match = _ATTACHMENT.fullmatch(name)
    return match and match[1]


def stamp_time(stamp: str) -> datetime:
    """Return the time of a `stamp`, read as UTC. Raises `ValueError` for an impossible date or time."""
    date, clock, fraction = int(stamp[:8]), int(stamp[9:15]), int(stamp[16:] or 0)
    year, month, day = date // 10000, date // 100 % 100, date % 100
    return datetime(year, month, day, clock // 10000, clock // 100 % 100, clock % 100, fraction, UTC)


def next_stamp(now: datetime, previous: str | None) -> datetime:
    """Return the time for the next checkpoint's name: `now` (aware), but at least a microsecond after `previous`."""
    now = now.astimezone(UTC)
    return now if previous is None else max(now, stamp_time(previous) + _MICROSECOND)


def is_session_id(text: str) -> bool:
    """Return whether `text` is a valid session id; see `check_session_id`."""
    return _ID.fullmatch(text) is not None and _ID_LIKE_CHECKPOINT.fullmatch(text) is None
