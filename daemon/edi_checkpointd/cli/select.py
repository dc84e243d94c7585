"""Find the session, checkpoint or time that a user's text selects. Pure: no disk, no clock.

An exact match wins. A text that fits two raises `Ambiguous`, which names them. A text that fits none raises `NotFound`.
Nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from datetime import time as time_of_day

from edi_checkpoint import errors
from edi_checkpoint.documents.names import parse_checkpoint_name
from edi_checkpoint.errors import NotFound
from edi_checkpoint.model import CheckpointInfo

LATEST = "latest"
_POSITION = re.compile(r"@([0-9]{1,9})")
_OFFSET = re.compile(r"(.*[0-9]) ?(?:([Zz])|([+-])([0-9]{2}):?([0-9]{2}))")
_AGO = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?")
_DATE = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}(?:[Tt ].*)?")


class CommandLineError(errors.UsageError):
    """The command line has a wrong argument; nothing was done."""

    default_hint = "`edi-checkpoint COMMAND --help` shows the usage and an example"


class Ambiguous(CommandLineError):
    """A selector fits more than one; the message names them."""

    code = "ambiguous"
    default_hint = "type more of it"


def session(text: str, ids: Sequence[str], *, hint: str = "`edi-checkpoint sessions` lists all sessions") -> str:
    """Return the one of `ids` (newest first) that `text` selects: an id, a unique prefix of one, or `latest`.

    `hint` names the command that lists `ids`.
    """
    _require_text(text, "session")
    if text in ids:
        return text
    if not ids:
        raise NotFound(
            f"no session {text}: there are no sessions yet", hint="a session appears when EDI saves a change"
        )
    if text == LATEST:
        return ids[0]
    found = [session_id for session_id in ids if session_id.startswith(text)]
    if not found:
        raise NotFound(f"no session {text}", hint=hint)
    return _only(found, text, "sessions")


def checkpoint(text: str, infos: Sequence[CheckpointInfo], zone: tzinfo | None = None) -> CheckpointInfo:
    """Return the one of `infos` (oldest first) that `text` selects.

    `text` is a file name, a label, a timestamp or a prefix of one, or `@1` for the newest, `@2` for the one before. A
    timestamp has the file name's form or ISO 8601. Without an offset it fits in UTC and in `zone` (default: local).
    """
    _require_text(text, "checkpoint")
    if match := _POSITION.fullmatch(text):
        if not 1 <= int(match[1]) <= len(infos):
            raise NotFound(f"no checkpoint {text}: the session has {len(infos)}", hint="@1 is the newest")
        return infos[-int(match[1])]
    for fits in (_is_name, _is_exact, _is_prefix):
        if found := [info for info in infos if fits(text, info, zone)]:
            return {info.name: info for info in infos}[_only([info.name for info in found], text, "checkpoints")]
    raise NotFound(f"no checkpoint {text}", hint="`edi-checkpoint log SESSION` lists its checkpoints")


def time(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """Return the time that `text` means at `now`; both are aware.

    `text` is ISO 8601 (without an offset: in `zone`, by default local), `12:03` or `12:03:04` (today, in `zone`), or a
    time ago: `30s`, `10m`, `2h`, `1d`.
    """
    text = text.strip()
    try:
        if match := _AGO.fullmatch(text):
            return now - timedelta(seconds=float(match[1]) * _UNITS_S[match[2]])
        if match := _CLOCK.fullmatch(text):
            clock = time_of_day(int(match[1]), int(match[2]), int(match[3] or 0))
            return _placed(datetime.combine(now.astimezone(zone).date(), clock), zone)
        if _DATE.fullmatch(text):
            moment = datetime.fromisoformat(_OFFSET.sub(r"\1\2\3\4\5", text) if " " in text[11:] else text)
            return (moment if moment.tzinfo else _placed(moment, zone)).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise CommandLineError(f"{text!r} is no time: {error}", hint=_TIME_HINT) from error
    raise CommandLineError(f"{text!r} is no time", hint=_TIME_HINT)


_TIME_HINT = "write it as 2026-11-23T12:03, as 12:03 (today) or as 10m (ago)"


def _is_name(text: str, info: CheckpointInfo, _zone: tzinfo | None) -> bool:
    return info.name == text


def _is_exact(text: str, info: CheckpointInfo, zone: tzinfo | None) -> bool:
    return text in (info.label, _stamp(info)) or any(
        start in (written, written.removesuffix(".000000")) for start, written in _as_iso(text, info, zone)
    )


def _is_prefix(text: str, info: CheckpointInfo, zone: tzinfo | None) -> bool:
    return _stamp(info).startswith(text) or any(
        written.startswith(start) for start, written in _as_iso(text, info, zone)
    )


def _stamp(info: CheckpointInfo) -> str:
    named = parse_checkpoint_name(info.name)
    return named.stamp if named else ""


def _as_iso(text: str, info: CheckpointInfo, zone: tzinfo | None) -> list[tuple[str, str]]:
    """Return `text` without its offset, paired with the checkpoint's time written in that offset.

    Without an offset, `text` may be in UTC, as in JSON and file names, or local, as tables show it: one pair for each.
    """
    start, zones = text, [UTC, zone]
    if match := _OFFSET.fullmatch(text):
        shift = timedelta(hours=int(match[4] or 0), minutes=int(match[5] or 0))
        if len(text) > len("2026-11-23") and shift < timedelta(days=1):
            start, zones = match[1], [timezone(-shift if match[3] == "-" else shift)]
    try:
        written = [info.timestamp.astimezone(zone).replace(tzinfo=None) for zone in zones]
    except (OverflowError, ValueError, OSError):  # close to the years 1 or 9999
        return []
    return [(start.replace(" ", "T", 1), moment.isoformat(timespec="microseconds")) for moment in written]


def _placed(naive: datetime, zone: tzinfo | None) -> datetime:
    return naive.astimezone() if zone is None else naive.replace(tzinfo=zone)


def _require_text(text: str, what: str) -> None:
    if not text:
        raise CommandLineError(f"the {what} is empty", hint="check whether a shell variable in the command is not set")


def _only(found: Sequence[str], text: str, what: str) -> str:
    if len(found) == 1:
        return found[0]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    raise Ambiguous(f"{text} fits {len(found)} {what}: {', '.join(found[:5])}{more}")
