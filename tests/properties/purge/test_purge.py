"""Whatever a journal went through: of a session that is forgotten no byte is left in it, and of the others all."""

from __future__ import annotations

import tempfile
from hashlib import sha256
from pathlib import Path

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edi_checkpoint.wire.entries import Update, encode_entry
from edi_checkpoint.wire.records import pack
from edi_checkpoint.wire.references import Attachment, Reference, form_of
from edi_checkpointd.journal import Frame, GapRow, Journal, Notes, Transaction
from edi_checkpointd.state import Snapshot

KEPT, FORGOTTEN = SESSIONS = ("keep-this", "forget-me")
STREAMS = {KEPT: "a" * 32, FORGOTTEN: "b" * 32}

sizes = st.sampled_from([1, 300, 5_000, 40_000])
step = st.one_of(
    st.tuples(st.just("update"), st.sampled_from(SESSIONS), sizes),
    st.tuples(st.just("attach"), st.sampled_from(SESSIONS), st.sampled_from(["shared", "own"])),
    st.tuples(st.just("snapshot"), st.sampled_from(SESSIONS), sizes),
    st.tuples(st.just("trim"), st.sampled_from(SESSIONS), st.integers(0, 100)),
    st.tuples(st.just("carry over"), st.just(""), st.just(0)),
)


class Life:
    """A journal of two sessions; every text in it says whose it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path)
        self.keys = {}
        self.numbers = dict.fromkeys(SESSIONS, 0)
        for session_id in SESSIONS:
            self.keys[session_id] = self.journal.begin_session(session_id, None, 0).key
            self.journal.attach(self.keys[session_id], STREAMS[session_id], 1, 0)

    def publish(self, session_id: str, value: bytes, blobs: dict[str, Attachment] | None = None) -> None:
        number = self.numbers[session_id] = self.numbers[session_id] + 1
        key, stream = self.keys[session_id], STREAMS[session_id]
        record = pack(number, encode_entry(Update(number, {"value": value})))
        gaps = [GapRow(key, number, stream, number, number, 0)]
        frame = Frame(key, number, number, stream, number, record)
        self.journal.commit(Transaction([frame], {stream: number}, gaps, {}, blobs or {}))

    def take(self, kind: str, session_id: str, how: object) -> None:
        if kind == "update":
            self.publish(session_id, b'"%s"' % (f"text of {session_id} ".encode() * (int(str(how)) // 16 + 1)))
        elif kind == "attach":
            data = f"content of {session_id if how == 'own' else 'both'}".encode()
            digest = sha256(data).hexdigest()
            reference = Reference(digest, "raw", None, (len(data),), len(data))
            self.publish(session_id, msgspec.json.encode(form_of(reference)), {digest: Attachment("raw", data)})
        elif kind == "snapshot":
            texts = {"value": f"text of {session_id} ".encode() * (int(str(how)) // 16 + 1)}
            number = self.numbers[session_id]
            snapshot = Snapshot(number, number, texts, {STREAMS[session_id]: number})
            self.journal.add_snapshot(self.keys[session_id], number, snapshot, number)
            self.journal.note({self.keys[session_id]: Notes(number, number)})
        elif kind == "trim":
            self.journal.trim(self.keys[session_id], before_us=int(str(how)), limit=10)
        else:
            self.journal.carry_over()

    def held(self) -> object:
        """All that the journal tells of the session that stays."""
        read, key = self.journal.read, self.keys[KEPT]
        return (
            read.session(KEPT), read.streams(key), list(read.frames(key, after=0)), read.gaps(key),
            read.snapshot(key, upto=2**62), read.last_sequence(key),
        )  # fmt: skip

    def bytes(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.path.parent.iterdir()))


@settings(deadline=None, max_examples=40)
@given(st.lists(step, max_size=25))
@example([("attach", KEPT, "shared"), ("update", KEPT, 1), ("snapshot", KEPT, 1), ("trim", KEPT, 2)])
def test_nothing_of_a_forgotten_session_is_left_in_the_journal_and_all_of_the_other(steps: list) -> None:
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder) / "journal.sqlite")
        for one in steps:
            life.take(*one)
        before = life.held()
        shared = sha256(b"content of both").hexdigest().encode()  # a row that was trimmed names it no more
        rows_left = list(life.journal.read.frames(life.keys[KEPT], after=0))
        named = any(shared in frame.records for frame in rows_left)

        while life.journal.delete_slice(FORGOTTEN):
            pass
        life.journal.delete_unnamed_blobs()
        assert life.journal.empty_wal()

        found = life.bytes()
        for text in (FORGOTTEN.encode(), STREAMS[FORGOTTEN].encode()):
            assert found.count(text) == 0
        assert life.held() == before
        assert (b"content of both" in found) == named
        life.publish(KEPT, b'"and on"')
        rows = len(list(life.journal.read.frames(life.keys[KEPT], after=0)))
        life.journal.close()
        again = Journal(life.path)  # the witness agrees
        assert len(list(again.read.frames(life.keys[KEPT], after=0))) == rows
        again.close()
