"""The list of a full home: the same from everybody who makes it, and soon enough for a start screen."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

from harness import Home

from edi_checkpoint.documents.fragments import fragment, summarise
from edi_checkpoint.documents.layout import AUTOSAVE, Header, autosave_document, checkpoint_document
from edi_checkpoint.documents.names import autosave_name, checkpoint_name
from edi_checkpoint.model import Kind
from edi_checkpointd.system.fs import write_atomic

FULL = os.environ.get("EDI_TEST_FULL") == "1"
SESSIONS, CHECKPOINTS, STATE_BYTES = (100, 10, 250_000) if FULL else (12, 4, 20_000)
AT_MOST_S = 0.5
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def fill(home: Home) -> None:
    """Write sessions of every kind: some with an auto-save, some interrupted, ended, forked, or EDI's own."""
    home.sessions.mkdir(parents=True, mode=0o700)
    for at in range(SESSIONS):
        session_id = f"session_{at:03d}"
        status = ("in_progress", "completed", "failed", None)[at % 4]
        state = {
            "status": fragment(f'"{status}"'.encode()) if status else fragment(b"null"),
            "image_path": fragment(b'"/pictures/lighthouse.jpg"'),
            "naive_prompt": fragment('"make the sky stormier, 灯台はそのまま"'.encode()),
            "validation": fragment(b'{"score": 0.625}'),
            "scene": fragment(b'"' + b"x" * STATE_BYTES + b'"'),
        }
        for number in range(CHECKPOINTS):
            last = number == CHECKPOINTS - 1
            stamp = NOON + timedelta(minutes=at * 37 % SESSIONS, seconds=number)
            header = Header(
                session_id=session_id, timestamp=stamp, sequence=10 * number + 1, stage="refinement",
                kind=Kind.INTERRUPTED if last and at % 5 == 0 else Kind.TRANSITION,
                parent_session=f"session_{at - 1:03d}" if at % 7 == 6 else None, summary=summarise(state),
            )  # fmt: skip
            write_atomic(home.sessions / checkpoint_name(session_id, stamp), checkpoint_document(header, state))
        if at % 2:
            header = Header(
                session_id=session_id, timestamp=stamp + timedelta(seconds=2), sequence=10 * number + 1 + at % 3,
                kind=AUTOSAVE, stage="validation", summary=summarise(state),
            )  # fmt: skip
            write_atomic(home.sessions / autosave_name(session_id), autosave_document(header, state))


def rows(found: object) -> list[dict]:
    """What was told, with times as times: JSON and a publisher write them differently."""
    assert isinstance(found, list)
    times = ("started", "updated")
    return [{**row, **{key: datetime.fromisoformat(row[key]) for key in times}} for row in found]


def quickest_s(home: Home, *arguments: str) -> float:
    took_s = []
    for _ in range(5 if FULL else 1):
        begun_s = time.monotonic()
        home.command(*arguments)
        took_s.append(time.monotonic() - begun_s)
    return min(took_s)


def test_daemon_files_and_client_make_the_same_list_of_a_full_home_in_time(home: Home) -> None:
    fill(home)
    told = {
        "the command, from files alone": rows(home.json("sessions")["sessions"]),
        "a client, from files alone": rows(home.publisher().do("client.sessions()")),
    }
    took_s = {"from files alone": quickest_s(home, "sessions")}
    home.daemon()
    told["the daemon, to a client"] = rows(home.publisher().do("client.sessions()"))
    told["the daemon, to the command"] = rows(home.json("sessions")["sessions"])
    took_s["with a daemon"] = quickest_s(home, "sessions")
    print({who: f"{one * 1000:.0f} ms" for who, one in took_s.items()})
    (expected, *others) = told.values()
    assert len(expected) == SESSIONS
    assert {row["condition"] for row in expected} == {"interrupted", "unfinished", "ended"}
    assert [row["updated"] for row in expected] == sorted((row["updated"] for row in expected), reverse=True)
    for one in others:
        assert one == expected
    if FULL:  # a short form on a busy machine measures the start of Python
        assert max(took_s.values()) <= AT_MOST_S
