"""Makes journals of any length in seconds, with the daemon's own `Journal` and large transactions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from worker import value_of

from edi_checkpoint.documents.fragments import fragment
from edi_checkpoint.wire.entries import Update, encode_entry
from edi_checkpoint.wire.records import pack
from edi_checkpointd.journal import Frame, Journal, Transaction
from edi_checkpointd.sessions.ledger import SNAPSHOT_MIN_BYTES
from edi_checkpointd.state import State, snapshot_of

FRAME_UPDATES = 64  # as from a client with this many unacknowledged updates
COMMIT_BYTES = 8 << 20
KEYS = [f"progress_{number:02d}" for number in range(20)]
SESSION, STREAM = "long", "0" * 32
BEGUN_US = 1_767_225_600_000_000


def make(path: Path, updates: int, *, snapshots: bool) -> None:
    """Make a journal at `path` with one session: `updates` updates of 100 B, a dead writer, no documents.

    With `snapshots` it has a snapshot for each MiB of rows, as the daemon adds them.
    """
    path.parent.mkdir(mode=0o700, parents=True)
    journal = Journal(path)
    key = journal.begin_session(SESSION, None, BEGUN_US).key
    journal.attach(key, STREAM, 1, 0)
    transaction, uncommitted, unsnapshot = Transaction(), 0, 0
    for frame in _frames(key, updates):
        transaction.frames.append(frame)
        transaction.numbers[STREAM] = frame.last
        uncommitted += len(frame.records)
        unsnapshot += len(frame.records)
        due = snapshots and unsnapshot > SNAPSHOT_MIN_BYTES
        if due or uncommitted > COMMIT_BYTES:
            journal.commit(transaction)
            transaction, uncommitted = Transaction(), 0
        if due:
            journal.add_snapshot(key, frame.last, snapshot_of(_state(frame.last), settled=True), frame.received_us)
            unsnapshot = 0
    journal.commit(transaction)
    journal.leave(key, "interrupted")
    journal.close()


def _frames(key: int, updates: int) -> Iterator[Frame]:
    for first in range(1, updates + 1, FRAME_UPDATES):
        last = min(updates, first + FRAME_UPDATES - 1)
        entries = (Update(BEGUN_US + n, {KEYS[n % len(KEYS)]: _text(n)}) for n in range(first, last + 1))
        records = b"".join(pack(n, encode_entry(entry)) for n, entry in enumerate(entries, start=first))
        yield Frame(key, first, last, STREAM, BEGUN_US + last, records)


def _state(sequence: int) -> State:
    newest = range(max(1, sequence - len(KEYS) + 1), sequence + 1)
    fragments = {KEYS[n % len(KEYS)]: fragment(_text(n)) for n in newest}
    return State(sequence, sequence, BEGUN_US + sequence, fragments, {STREAM: sequence})


def _text(number: int) -> bytes:
    return b'"%b"' % value_of(number).encode()
