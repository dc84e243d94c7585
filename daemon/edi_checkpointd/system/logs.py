"""The daemon's log: where its lines go, in which form, and how often the same one.

A line is one event; what its message calls `name=%s` are its fields. Session ids are among them, what people type and
where their pictures lie never is. Under systemd lines go to the journal as datagrams, with their fields, and never wait
for it; a stream, as stderr is there, would hold up the intake while journald hangs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from edi_checkpoint.system.safe_open import read_regular
from edi_checkpointd.system.fs import write_atomic

Form = Literal["auto", "text", "json"]

LOG_BYTES = 1 << 20  # of daemon.log, and as much again of the one before
SAME_MAX, SAME_S = 10, 60.0  # the same warning so often in so long; the others are counted
_KINDS_MAX = 256  # of warnings told apart; all beyond count as the same
_MESSAGE_MAX = 16 << 10  # characters; a datagram has to fit into a socket's buffer
_JOURNAL = "/run/systemd/journal/socket"
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_PACKAGES = ("edi_checkpointd.", "edi_checkpoint.")
_PLACEHOLDER = re.compile(r"(?:(\w+)=)?%[-#0 +]*\d*(?:\.\d+)?([a-zA-Z%])")


def begin(form: Form, environ: Mapping[str, str], file: Path | None = None) -> None:
    """Send the log of this process to `file` (bounded), else to the journal where systemd reads our stderr, else there.

    `form` is text or JSON, one line an event; "auto" is the journal's own form there and text elsewhere.
    """
    handler: logging.Handler
    if file is not None:
        handler = logging.handlers.RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=1)
    elif form == "auto" and _is_read_by_the_journal(environ):
        handler = JournaldHandler()
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=logging.INFO, handlers=[Limited(handler)])
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


def fields(record: logging.LogRecord) -> dict[str, object]:
    """Return what the message calls `name=%s`, by name."""
    if not isinstance(record.args, tuple):
        return {}
    kinds = (name for name, kind in _PLACEHOLDER.findall(str(record.msg)) if kind != "%")
    return {name: value for name, value in zip(kinds, record.args, strict=False) if name}


def module_of(record: logging.LogRecord) -> str:
    """Return the dotted name of the module that logged `record`, without our package: `journal.writer`."""
    for package in _PACKAGES:
        if record.name.startswith(package):
            return record.name.removeprefix(package)
    return record.name


def strike(file: Path, struck: Callable[[bytes], bool]) -> None:
    """Remove the lines that `struck` is true of from the log `file` and from those before it, whoever wrote them.

    Whoever logs meanwhile waits. Raises OSError.
    """
    with contextlib.ExitStack() as stack:
        for handler in logging.getLogger().handlers:
            ours = handler.handler if isinstance(handler, Limited) else handler
            if isinstance(ours, logging.FileHandler) and Path(ours.baseFilename) == file:
                ours.acquire()
                stack.callback(ours.release)
                ours.close()  # it opens the file again when there is something to write
        for path in [file, *sorted(file.parent.glob(f"{file.name}.*"))]:
            with contextlib.suppress(FileNotFoundError):
                lines = read_regular(path).splitlines(keepends=True)
                kept = [line for line in lines if not struck(line)]
                if len(kept) < len(lines):
                    write_atomic(path, kept)


def _is_read_by_the_journal(environ: Mapping[str, str]) -> bool:
    status = os.fstat(sys.stderr.fileno())
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Text(logging.Formatter):
    """Local time with its offset, level, module, message: for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, with the module's name in its short form."""
        return f"{record.asctime} {record.levelname} {module_of(record)}: {record.message}"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the time as people read it."""
        return datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(" ", "milliseconds")


class _Json(logging.Formatter):
    """One object a line, time in UTC: for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "module": module_of(record),
            "message": record.getMessage(),
            "fields": fields(record),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str, ensure_ascii=False)


class JournaldHandler(logging.Handler):
    """The journal's native protocol: a datagram of fields. What cannot be sent at once is dropped, and counted."""

    def __init__(self, address: str = _JOURNAL) -> None:
        """Lines go to the socket at `address`."""
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send `record`."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        if self._dropped:
            message += f" (the journal did not take {self._dropped} lines before this one)"
        told = {
            "MESSAGE": message[:_MESSAGE_MAX],
            "PRIORITY": _PRIORITIES.get(record.levelno, 6),
            "SYSLOG_IDENTIFIER": "edi-checkpointd",
            "EDI_CHECKPOINT_MODULE": module_of(record),
            **{f"EDI_CHECKPOINT_{name.upper()}": value for name, value in fields(record).items()},
        }
        try:
            data = b"".join(_field(name, str(value)[:_MESSAGE_MAX]) for name, value in told.items())
            self._socket.sendto(data, socket.MSG_DONTWAIT, self._address)
        except OSError:
            self._dropped += 1
        else:
            self._dropped = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="replace")
    if b"\n" in data:  # a length tells where it ends
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


@dataclass(slots=True)
class _Window:
    begun_s: float
    first: logging.LogRecord
    count: int = 0


class Limited(logging.Handler):
    """Passes each warning and error on at most `SAME_MAX` times in `SAME_S`, then says how many more there were.

    The same is what has the same message but for its values: neither a full disk nor a peer that sends nonsense can
    fill a disk with lines. How many more is said with the next line after that time, or at the end. Lines that are no
    warnings all pass: each deletion is told.
    """

    def __init__(self, handler: logging.Handler) -> None:
        """Lines go to `handler`."""
        super().__init__()
        self.handler = handler
        self._windows: dict[object, _Window] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Pass `record` on, unless it has been told often enough."""
        now_s = time.monotonic()
        self._end_windows(now_s - SAME_S)
        if record.levelno >= logging.WARNING:
            kind: object = (record.name, record.msg)
            if kind not in self._windows and len(self._windows) >= _KINDS_MAX:
                kind = None
            window = self._windows.setdefault(kind, _Window(now_s, record))
            window.count += 1
            if window.count > SAME_MAX:
                return
        self.handler.handle(record)

    def _end_windows(self, before_s: float) -> None:
        """Forget the windows that began before, and tell what they held back."""
        for kind, window in [(kind, window) for kind, window in self._windows.items() if window.begun_s <= before_s]:
            del self._windows[kind]
            if (more := window.count - SAME_MAX) > 0:
                first = window.first
                told = logging.LogRecord(
                    first.name,
                    first.levelno,
                    first.pathname,
                    first.lineno,
                    "… more=%d like: %s",
                    (more, first.msg),
                    None,
                )
                self.handler.handle(told)

    def close(self) -> None:
        """Tell what was held back, and close."""
        self._end_windows(float("inf"))
        self.handler.close()
        super().close()
