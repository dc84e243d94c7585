from __future__ import annotations

import json
import logging
import logging.handlers
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edi_checkpointd.system import logs

TEXT = st.text(st.characters(codec="utf-8"), max_size=50)


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def record(message: str, *values: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("edi_checkpointd.intake", level, "intake.py", 1, message, values, None)


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.settimeout(10)
        yield listening


def received(data: bytes) -> dict[str, str]:
    """What journald makes of a datagram: `NAME=text` up to the line's end, or `NAME`, a length, and so many bytes."""
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode()] = value.decode()
        data = rest
    return found


@given(TEXT, st.integers(), TEXT)
def test_the_fields_of_a_line_are_what_its_message_names(session: str, count: int, why: str) -> None:
    line = record("entries refused session=%s upto=%d: %s (100%%) last=%.1f", session, count, why, 2.5)
    assert logs.fields(line) == {"session": session, "upto": count, "last": 2.5}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("edi_checkpointd.intake.pipeline", "intake.pipeline"),
        ("edi_checkpointd.journal.writer", "journal.writer"),
        ("edi_checkpoint.documents.catalog", "documents.catalog"),
        ("apscheduler.scheduler", "apscheduler.scheduler"),
        ("__main__", "__main__"),
    ],
)
def test_a_line_names_its_module_without_the_package(name: str, shown: str) -> None:
    line = record("refused")
    line.name = name
    assert f" WARNING {shown}: refused" in logs._Text("%(asctime)s").format(line)
    assert json.loads(logs._Json().format(line))["module"] == shown


@given(TEXT, TEXT)
def test_a_line_of_json_is_one_line_and_holds_the_same(session: str, why: str) -> None:
    line = logs._Json().format(record("refused session=%s: %s", session, why))
    assert "\n" not in line
    told = json.loads(line)
    assert (told["message"], told["fields"], told["level"]) == (
        f"refused session={session}: {why}",
        {"session": session},
        "warning",
    )


@pytest.mark.parametrize("why", ["one line", "two\nlines", "a = b\n\nMESSAGE=forged", "\x00 \udc80 ö"])
def test_the_journal_is_told_fields_and_no_value_can_forge_another(
    journald: socket.socket, tmp_path: Path, why: str
) -> None:
    handler = logs.JournaldHandler(str(tmp_path / "socket"))
    try:
        handler.handle(record("refused session=%s code=%s", "s1", why))
    finally:
        handler.close()
    told = received(journald.recv(1 << 16))
    shown = why.replace("\udc80", "?")
    assert told == {
        "MESSAGE": f"refused session=s1 code={shown}", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "edi-checkpointd",
        "EDI_CHECKPOINT_MODULE": "intake", "EDI_CHECKPOINT_SESSION": "s1", "EDI_CHECKPOINT_CODE": shown,
    }  # fmt: skip


def test_a_journal_that_does_not_read_is_never_waited_for_and_told_how_much_it_missed(
    journald: socket.socket, tmp_path: Path
) -> None:
    handler = logs.JournaldHandler(str(tmp_path / "socket"))
    try:
        for number in range(2000):
            handler.handle(record("line number=%d", number))
        journald.setblocking(False)
        taken = 0
        while True:
            try:
                journald.recv(1 << 16)
            except BlockingIOError:
                break
            taken += 1
        handler.handle(record("the last line"))
        assert f"did not take {2000 - taken} lines" in received(journald.recv(1 << 16))["MESSAGE"]
    finally:
        handler.close()


def test_the_same_warning_is_told_ten_times_a_minute_and_the_others_are_counted() -> None:
    kept = Kept()
    limited = logs.Limited(kept)
    for number in range(1000):
        limited.handle(record("refused code=%s", number))
        limited.handle(record("another"))
    limited.close()
    assert kept.said.count("another") == logs.SAME_MAX
    assert sum(line.startswith("refused code=") for line in kept.said) == logs.SAME_MAX
    assert kept.said[-2:] == ["… more=990 like: refused code=%s", "… more=990 like: another"]


def test_a_warning_is_told_again_when_its_minute_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, now_s = Kept(), [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now_s[0])
    limited = logs.Limited(kept)
    for _ in range(logs.SAME_MAX + 5):
        limited.handle(record("refused"))
    now_s[0] = logs.SAME_S
    limited.handle(record("refused"))
    assert kept.said == ["refused"] * logs.SAME_MAX + ["… more=5 like: refused", "refused"]


def test_every_line_that_is_no_warning_is_told() -> None:
    kept = Kept()
    limited = logs.Limited(kept)
    for number in range(100):
        limited.handle(record("checkpoint deleted name=%s", number, level=logging.INFO))
    assert len(kept.said) == 100


def test_warnings_of_ever_new_wordings_stay_within_bounds() -> None:
    kept = Kept()
    limited = logs.Limited(kept)
    for number in range(10_000):
        limited.handle(record(f"wording {number}"))
    assert len(limited._windows) <= logs._KINDS_MAX + 1
    assert len(kept.said) <= logs._KINDS_MAX + logs.SAME_MAX


def test_stderr_is_the_journals_only_if_it_is_what_systemd_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stream").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        status = (tmp_path / "stream").stat()
        assert logs._journald_reads_stderr({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not logs._journald_reads_stderr({"JOURNAL_STREAM": f"{status.st_dev}:1"})
        assert not logs._journald_reads_stderr({})


def test_lines_are_struck_from_the_log_and_those_before_it_while_others_are_written(tmp_path: Path) -> None:
    file, older = tmp_path / "daemon.log", tmp_path / "daemon.log.1"
    older.write_text("of one\nof another\n")
    file.write_text("of another\nof one\n")
    root = logging.getLogger()
    before = root.handlers
    handler = logs.Limited(logging.handlers.RotatingFileHandler(file))
    root.handlers = [handler]
    try:
        logging.getLogger("struck").warning("of one, too")
        logs.strike(file, lambda line: b"of one" in line)
        logging.getLogger("struck").warning("what comes after")
    finally:
        root.handlers = before
        handler.close()
    assert older.read_text() == "of another\n"
    assert file.read_text() == "of another\nwhat comes after\n"
    assert file.stat().st_mode & 0o777 == 0o600
