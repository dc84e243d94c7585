"""The daemon's log: its destination, its format, and the limit for repeated lines.

A line is one event. `name=%s` in its message is a field. Fields may be session ids, but never values that people typed,
or paths of their pictures. Under systemd, lines go to journald as datagrams with their fields, and the daemon never
waits for it. Writing to stderr would block the loop while journald hangs.
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

LOG_BYTES = 1 << 20  # the limit of daemon.log; the log before it has the same
SAME_MAX, SAME_S = 10, 60.0  # at most 10 equal warnings in 60 s are logged; the others are counted
_KINDS_MAX = 256  # different warnings; all others count as one kind
_MESSAGE_MAX = 16 << 10  # characters; a datagram must fit into a socket's buffer
_JOURNAL = "/run/systemd/journal/socket"
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_PACKAGES = ("edi_checkpointd.", "edi_checkpoint.")
_PLACEHOLDER = re.compile(r"(?:(\w+)=)?%[-#0 +]*\d*(?:\.\d+)?([a-zA-Z%])")


def begin(form: Form, environ: Mapping[str, str], file: Path | None = None) -> None:
    """Send this process's log to `file` (of limited size); without one, to journald if it reads stderr, else to stderr.

    `form` is text or JSON, a line for each event; "auto" uses journald's own protocol if journald reads stderr.
    """
    handler: logging.Handler
    if file is not None:
        handler = logging.handlers.RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=1)
    elif form == "auto" and _journald_reads_stderr(environ):
        handler = JournaldHandler()
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text("%(asctime)s"))
    logging.basicConfig(level=logging.INFO, handlers=[Limited(handler)])
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


def fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields of a line: the values that its message introduces by `name=`."""
    if not isinstance(record.args, tuple):
        return {}
    names = (name for name, kind in _PLACEHOLDER.findall(str(record.msg)) if kind != "%")
    return {name: value for name, value in zip(names, record.args, strict=False) if name}


def module_of(record: logging.LogRecord) -> str:
    """Return the module that logged `record`, without the package's name: `journal.writer`."""
    for package in _PACKAGES:
        if record.name.startswith(package):
            return record.name.removeprefix(package)
    return record.name


def strike(file: Path, struck: Callable[[bytes], bool]) -> None:
    """Remove the lines for which `struck` is true from the log `file` and from older logs beside it.

    Threads that log meanwhile wait. Raises OSError.
    """
    with contextlib.ExitStack() as stack:
        for handler in logging.getLogger().handlers:
            inner = handler.handler if isinstance(handler, Limited) else handler
            if isinstance(inner, logging.FileHandler) and Path(inner.baseFilename) == file:
                inner.acquire()
                stack.callback(inner.release)
                inner.close()  # the next line opens the file again
        for path in [file, *sorted(file.parent.glob(f"{file.name}.*"))]:
            with contextlib.suppress(FileNotFoundError):
                lines = read_regular(path).splitlines(keepends=True)
                kept = [line for line in lines if not struck(line)]
                if len(kept) < len(lines):
                    write_atomic(path, kept)


def _journald_reads_stderr(environ: Mapping[str, str]) -> bool:
    status = os.fstat(sys.stderr.fileno())
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Text(logging.Formatter):
    """The form for people: local time with its offset, level, module, message."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return f"{record.asctime} {record.levelname} {module_of(record)}: {record.message}"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the local time with its offset."""
        return datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(" ", "milliseconds")


class _Json(logging.Formatter):
    """The form for programs: a JSON object on each line, with the time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "module": module_of(record),
            "message": record.getMessage(),
            "fields": fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class JournaldHandler(logging.Handler):
    """Sends each line to journald as one datagram of fields, in its native protocol.

    A line that journald does not accept at once is dropped; the next line says how many were dropped.
    """

    def __init__(self, address: str = _JOURNAL) -> None:
        """Send lines to the socket at `address`."""
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
        sent = {
            "MESSAGE": message[:_MESSAGE_MAX],
            "PRIORITY": _PRIORITIES.get(record.levelno, 6),
            "SYSLOG_IDENTIFIER": "edi-checkpointd",
            "EDI_CHECKPOINT_MODULE": module_of(record),
            **{f"EDI_CHECKPOINT_{name.upper()}": value for name, value in fields(record).items()},
        }
        try:
            data = b"".join(_field(name, str(value)[:_MESSAGE_MAX]) for name, value in sent.items())
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
    if b"\n" in data:  # such a value needs its length
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


@dataclass(slots=True)
class _Window:
    begun_s: float
    first: logging.LogRecord
    count: int = 0


class Limited(logging.Handler):
    """Logs the same warning or error at most `SAME_MAX` times in `SAME_S` seconds, then the number of the others.

    Two lines are the same if they have the same message apart from its values. So neither a full disk nor a client that
    sends nonsense can fill the disk with lines. The number is logged before the next line after that time, or at the
    end. Lines below a warning are never limited, since each deletion must be logged.
    """

    def __init__(self, handler: logging.Handler) -> None:
        """Pass the lines to `handler`."""
        super().__init__()
        self.handler = handler
        self._windows: dict[object, _Window] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Log `record`, unless the same line was logged too often."""
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
        """Delete the windows that began before `before_s`, and log how many lines each has suppressed."""
        for kind, window in [(kind, window) for kind, window in self._windows.items() if window.begun_s <= before_s]:
            del self._windows[kind]
            if (more := window.count - SAME_MAX) > 0:
                first, text = window.first, "… more=%d like: %s"
                origin = (first.name, first.levelno, first.pathname, first.lineno)
                self.handler.handle(logging.LogRecord(*origin, text, (more, first.msg), None))

    def close(self) -> None:
        """Log the numbers of suppressed lines, and close."""
        self._end_windows(float("inf"))
        self.handler.close()
        super().close()
