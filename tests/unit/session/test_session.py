from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edi_checkpoint import state_manager
from edi_checkpoint.client import Client, connect
from edi_checkpoint.documents.fragments import fragment
from edi_checkpoint.documents.layout import AUTOSAVE, Header, autosave_document, checkpoint_document
from edi_checkpoint.documents.names import autosave_name, checkpoint_name
from edi_checkpoint.errors import (
    DaemonUnavailable,
    Fenced,
    FlushTimeout,
    OutboxFull,
    SessionBusy,
    SessionClosed,
    SessionIdError,
    StateValueError,
)
from edi_checkpoint.home import offline
from edi_checkpoint.model import Kind
from edi_checkpoint.outbox import outbox as outbox_module
from edi_checkpoint.outbox.segments import list_streams, read_records
from edi_checkpoint.session import publication
from edi_checkpoint.session.session import Session
from edi_checkpoint.state_manager import StateManager
from edi_checkpoint.wire.entries import Base, Entry, Mark, Update, decode_entry
from edi_checkpoint.wire.messages import Attached, GetStatus
from edi_checkpoint.wire.records import scan
from edi_checkpoint.wire.states import ConnectionState, StreamEvent, StreamState

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["current_stage", "a", "b", "ä", "a key"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("h")
        patch.setenv("EDI_CHECKPOINT_HOME", str(folder))
        patch.setenv("EDI_CHECKPOINT_AUTOSTART", "0")
        yield folder


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with connect(autostart=False, timeout_s=0) as made:
        yield made


@pytest.fixture
def session(client: Client) -> Iterator[Session]:
    with client.session() as made:
        yield made


def entries(session: Session) -> list[Entry]:
    """What the session has published, read from its outbox as the daemon will."""
    (files,) = [
        files
        for files in list_streams(session._stream.outbox.folder)
        if files.owner.stream == session._stream.outbox.stream
    ]
    return [decode_entry(record.entry) for data in read_records(files) for record in scan(data)]


def loaded(client: Client, session_id: str) -> dict[str, object]:
    state = offline.load_state(client.paths, session_id).state
    return {key: json.loads(text) for key, text in state.items()}


# -- the mapping -------------------------------------------------------------------------------------------------------


def apply(name: str, key: str, other: str, value: object) -> Callable[[Any], object]:
    """One operation on a mapping, the same for a dict and a session."""
    operations: dict[str, Callable[[Any], object]] = {
        "set": lambda m: m.__setitem__(key, value),
        "delete": lambda m: m.__delitem__(key),
        "pop": lambda m: m.pop(key),
        "pop or default": lambda m: m.pop(key, "default"),
        "popitem": lambda m: m.popitem(),
        "clear": lambda m: m.clear(),
        "update": lambda m: m.update({key: value, other: [value]}),
        "update by pairs": lambda m: m.update([(key, 1), (key, value)]),
        "update by name": lambda m: m.update(a=value, b=None),
        "update with nothing": lambda m: m.update(),
        "setdefault": lambda m: m.setdefault(key, value),
        "get": lambda m: (m.get(key), m.get(key, 7), key in m, len(m), sorted(m), m == dict(m)),
    }
    return operations[name]


OPERATIONS = st.tuples(
    st.sampled_from(
        ["set", "set", "delete", "pop", "pop or default", "clear", "update", "update by pairs", "update by name",
         "update with nothing", "setdefault", "get"]
    ), KEYS, KEYS, JSON,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(OPERATIONS, max_size=10))
def test_a_session_is_a_dict_whose_changes_are_each_one_entry(
    client: Client, operations: list[tuple[str, str, str, object]]
) -> None:
    model: dict[str, object] = {}
    with client.session() as session:
        for name, key, other, value in operations:
            act = apply(name, key, other, value)
            before, published = dict(model), session.durable.published
            outcomes = []
            for mapping in (model, session):
                try:
                    outcomes.append(act(mapping))
                except KeyError as error:
                    outcomes.append(("KeyError", error.args))
            assert outcomes[0] == outcomes[1]
            assert dict(session) == model
            changed = before != model or name in ("set", "update", "update by pairs", "update by name")
            assert session.durable.published - published == changed
        assert session._published._bytes == publication._size(session.texts())
        session_id = session.session_id
        assert loaded(client, session_id) == model
    with client.session(session_id) as again:
        assert dict(again) == model
        assert again.durable.published == 0


def test_popitem_takes_one_key_as_one_entry(session: Session) -> None:
    session.update(a=1, b=2)
    key, value = session.popitem()
    assert {key: value} | dict(session) == {"a": 1, "b": 2}
    assert session.durable.published == 2
    session.clear()
    with pytest.raises(KeyError):
        session.popitem()
    with pytest.raises(KeyError):
        del session["a"]
    assert session.durable.published == 3


def test_an_update_is_one_entry_however_many_keys_it_has(session: Session) -> None:
    session.update({f"k{n}": n for n in range(100)}, more=1)
    session.transition("refinement", reason="because", iteration=3, prompts=["a"])
    session.clear()
    (update, transition, clear) = entries(session)
    assert isinstance(update, Update)
    assert len(update.changed) == 101
    assert isinstance(transition, Update)
    assert transition.changed == {"iteration": b"3", "prompts": b'["a"]', "current_stage": b'"refinement"'}
    assert transition.reason == "because"
    assert isinstance(clear, Update)
    assert len(clear.removed) == 104
    assert session.durable.published == session.durable.spooled == 3


def test_what_is_read_is_a_copy_in_the_form_of_a_restore(session: Session) -> None:
    given = {"bbox": (1, 2), "names": ["a"], 5 * "x": Path("/x")}
    session["scene"] = given
    read = session["scene"]
    assert read == {"bbox": [1, 2], "names": ["a"], "xxxxx": "/x"}
    read["names"].append("b")  # type: ignore[index]
    given["names"].append("c")  # type: ignore[union-attr]
    assert session["scene"] == {"bbox": [1, 2], "names": ["a"], "xxxxx": "/x"}
    assert session.durable.published == 1


def test_iterating_is_over_the_keys_as_they_were(session: Session) -> None:
    session.update(a=1, b=2)
    for key in session:
        del session[key]
    assert dict(session) == {}


def test_a_key_of_a_class_of_its_own_is_a_plain_key(client: Client, session: Session) -> None:
    class Key(StrEnum):
        STAGE = "current_stage"

    class Text(str):
        __slots__ = ()

    for _ in range(2):  # new, and there already
        session[Key.STAGE] = "upload"
        session[Text("a")] = 1
        session.update({Key.STAGE: "analysis", Text("b"): 2})
        with session.edit(Key.STAGE) as stage:
            assert stage == "analysis"
    assert {type(key) for key in session} == {str}
    assert loaded(client, session.session_id) == {"current_stage": "analysis", "a": 1, "b": 2}
    del session[Key.STAGE]
    assert session.pop(Text("a")) == 1
    assert loaded(client, session.session_id) == {"b": 2}


def test_its_text_shows_no_content(session: Session) -> None:
    session["prompt"] = "a secret"
    assert "secret" not in repr(session)
    assert session.session_id in repr(session)


# -- edit --------------------------------------------------------------------------------------------------------------


def test_an_edit_is_published_once_on_exit(session: Session) -> None:
    session["scene"] = {"entities": []}
    with session.edit("scene") as scene:
        scene["entities"].append("sky")  # type: ignore[index]
        scene["entities"].append("roof")  # type: ignore[index]
        assert session["scene"] == {"entities": []}
    assert session["scene"] == {"entities": ["sky", "roof"]}
    assert session.durable.published == 2


def test_an_edit_that_fails_or_changes_nothing_is_not_published(session: Session) -> None:
    session["scene"] = {"entities": []}
    with pytest.raises(ZeroDivisionError), session.edit("scene") as scene:
        scene["entities"].append("sky")  # type: ignore[index]
        raise ZeroDivisionError
    with session.edit("scene"):
        pass
    with pytest.raises(StateValueError, match=r"^scene.entities\[0\]: "), session.edit("scene") as scene:
        scene["entities"].append(float("nan"))  # type: ignore[index]
    with pytest.raises(KeyError), session.edit("nothing"):
        pass
    assert session["scene"] == {"entities": []}
    assert session.durable.published == 1


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: dict[str, Callable[[Session], object]] = {
    "NaN": lambda s: s.__setitem__("a", float("nan")),
    "an object": lambda s: s.__setitem__("a", object()),
    "a key that is no text": lambda s: s.__setitem__(1, 1),  # type: ignore[index]
    "an empty key": lambda s: s.__setitem__("", 1),
    "a key too long": lambda s: s.__setitem__("k" * 1025, 1),
    "a key with half a character": lambda s: s.__setitem__("\ud800", 1),
    "our own key": lambda s: s.__setitem__("_edi_checkpoint", {}),
    "one bad value of many": lambda s: s.update({"a": 2, "b": float("inf"), "c": 3}),
    "one bad key of many": lambda s: s.update({"a": 2, 7: 1}),
    "in a transition": lambda s: s.transition("next", a=2, bad=[object()]),
    "a stage that is none": lambda s: s.transition(float("nan")),  # type: ignore[arg-type]
    "a reason that is no text": lambda s: s.transition("next", reason=7),  # type: ignore[arg-type]
    "another session's id": lambda s: s.__setitem__("session_id", "another"),
    "another session's id among others": lambda s: s.update(a=2, session_id="another"),
    "a label that is no text": lambda s: s.checkpoint(label=7),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("act", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_the_state_and_publishes_nothing(
    client: Client, session: Session, act: Callable[[Session], object]
) -> None:
    session.update(a=1, current_stage="upload")
    with pytest.raises(StateValueError):
        act(session)
    assert dict(session) == {"a": 1, "current_stage": "upload"}
    assert session.durable.published == 1
    assert loaded(client, session.session_id) == dict(session)
    session["a"] = 2  # and it goes on


def test_a_session_may_hold_its_own_id(session: Session) -> None:
    session["session_id"] = session.session_id
    assert session["session_id"] == session.session_id


def test_a_state_that_no_entry_could_hold_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "STATE_MAX_BYTES", 1000)
    session["a"] = "x" * 600
    with pytest.raises(StateValueError, match="^b: .*larger than 1000 bytes"):
        session["b"] = "x" * 600
    assert list(session) == ["a"]
    session["a"] = "x" * 900  # in the place of the other
    session.pop("a")
    session["b"] = "x" * 900
    assert session.durable.published == 4


def test_keys_count_towards_the_largest_state(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "STATE_MAX_BYTES", 10_000)
    with pytest.raises(StateValueError):
        session.update({f"{n:01000}": n for n in range(20)})
    assert session.durable.published == 0


@pytest.mark.parametrize("session_id", ["", ".hidden", "../x", "a/b", "s_checkpoint_20261123_061232", "x" * 129, "ä"])
def test_an_id_that_may_not_be_a_file_name_is_refused(client: Client, session_id: str) -> None:
    outboxes = sorted(client.paths.outbox.glob("*"))
    for refused in ({"session_id": session_id}, {"session_id": "fine", "parent": session_id}):
        with pytest.raises(SessionIdError):
            client.session(**refused)
    with pytest.raises(SessionIdError):
        StateManager(session_id)
    assert sorted(client.paths.outbox.glob("*")) == outboxes


# -- without a daemon --------------------------------------------------------------------------------------------------


def test_what_needs_the_daemon_says_so(client: Client) -> None:
    assert not client.connected
    with pytest.raises(DaemonUnavailable, match=r"no daemon is connected"):
        client.ask(GetStatus, 0.01)


def test_a_checkpoint_without_a_daemon_waits_in_the_outbox(session: Session) -> None:
    session["a"] = 1
    with pytest.raises(FlushTimeout, match=r"within 0.01 s"):
        session.checkpoint("my reason", label="good", pin=True, timeout_s=0.01)
    mark = entries(session)[-1]
    assert isinstance(mark, Mark)
    assert (mark.kind, mark.reason, mark.label, mark.pinned) == ("manual", "my reason", "good", True)
    assert session._stream.marks == {}
    with pytest.raises(FlushTimeout):
        session.checkpoint("", timeout_s=0)
    assert entries(session)[-1].reason == "manual"  # type: ignore[union-attr]


def test_a_reason_too_long_is_cut_and_half_characters_are_replaced(session: Session) -> None:
    for reason, kept in (("ü" * 5000, "ü" * 1024), ("a\ud800b", "a?b")):
        with pytest.raises(FlushTimeout):
            session.checkpoint(reason, timeout_s=0)
        assert entries(session)[-1].reason == kept  # type: ignore[union-attr]


@pytest.mark.parametrize("level", ["journaled", "checkpointed"])
def test_a_flush_without_a_daemon_ends_in_time(session: Session, level: Any) -> None:
    session.flush(level, timeout_s=0)  # there is nothing to wait for
    session["a"] = 1
    with pytest.raises(FlushTimeout, match=f"0 of 1 entries {level}"):
        session.flush(level, timeout_s=0.01)
    assert (session.durable.journaled, session.durable.checkpointed) == (0, 0)


def test_several_writers_one_after_the_other_leave_one_state(client: Client) -> None:
    for number in range(4):
        with client.session("relay") as session:
            assert dict(session) == ({"n": number - 1, "trail": list(range(number))} if number else {})
            session.update(n=number, trail=[*session.get("trail", []), number])  # type: ignore[misc]
    assert [files.owner.order for files in list_streams(client.paths.outbox / "relay")] == [1, 2, 3, 4]


def test_a_second_writer_is_told_the_first(client: Client, session: Session) -> None:
    session["a"] = 1
    with pytest.raises(SessionBusy) as busy:
        client.session(session.session_id)
    assert busy.value.pid == os.getpid()
    session["a"] = 2
    session.close()
    with client.session(session.session_id) as again:
        assert dict(again) == {"a": 2}


def test_threads_publish_into_one_session(client: Client, session: Session) -> None:
    def publishes(name: str) -> None:
        for number in range(50):
            session[name] = number
            session.update({f"{name}.more": number})

    threads = [threading.Thread(target=publishes, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert session.durable.published == len(entries(session)) == 400
    assert loaded(client, session.session_id) == dict(session)
    assert session._published._bytes == publication._size(session.texts())


def test_sessions_come_and_go_while_others_publish(client: Client, session: Session) -> None:
    """The link looks through all outboxes whenever one of them has news."""
    stop = threading.Event()

    def publishes() -> None:
        while not stop.is_set():
            session["n"] = 1

    publisher = threading.Thread(target=publishes)
    publisher.start()
    try:
        for _ in range(60):
            client.session().close()
    finally:
        stop.set()
        publisher.join()
    assert client._link._thread.is_alive()


# -- from files ------------------------------------------------------------------------------------------------------


def write_autosave(client: Client, session_id: str, sequence: int, streams: dict[str, int], **state: int) -> Path:
    header = Header(
        session_id=session_id, timestamp=datetime(2026, 11, 23, tzinfo=UTC), kind=AUTOSAVE, sequence=sequence,
        streams=streams,
    )  # fmt: skip
    path = client.paths.sessions / autosave_name(session_id)
    client.paths.sessions.mkdir(exist_ok=True)
    fragments = {key: fragment(b"%d" % value) for key, value in state.items()}
    path.write_bytes(b"".join(autosave_document(header, fragments)))
    return path


def write_checkpoint(client: Client, session_id: str, sequence: int, **state: int) -> Path:
    at = datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=sequence)
    header = Header(session_id=session_id, timestamp=at, kind=Kind.MANUAL, sequence=sequence)
    path = client.paths.sessions / checkpoint_name(session_id, at)
    fragments = {key: fragment(b"%d" % value) for key, value in state.items()}
    path.write_bytes(b"".join(checkpoint_document(header, fragments)))
    return path


def test_a_file_counts_and_only_what_it_lacks_is_added(client: Client, session: Session) -> None:
    for number in range(1, 7):
        session["n"] = number
    stream, session_id = session._stream.id, session.session_id
    write_autosave(client, session_id, 40, {stream: 4}, of_file=1)
    found = offline.load_state(client.paths, session_id)
    assert (found.sequence, found.source, found.name) == (42, "outbox", f"{session_id}.json")
    assert loaded(client, session_id) == {"of_file": 1, "n": 6}
    write_autosave(client, session_id, 42, {stream: 6}, of_file=2)
    found = offline.load_state(client.paths, session_id)
    assert (found.sequence, found.source) == (42, "file")
    assert loaded(client, session_id) == {"of_file": 2}


def test_the_newest_valid_file_counts(client: Client) -> None:
    session_id = "from-files"
    autosave = write_autosave(client, session_id, 7, {}, n=7)
    write_checkpoint(client, session_id, 3, n=3)
    newest = write_checkpoint(client, session_id, 9, n=9)
    assert loaded(client, session_id) == {"n": 9}
    damaged = bytearray(newest.read_bytes())
    damaged[damaged.index(b'"n": 9') + 5] ^= 1
    newest.write_bytes(damaged)
    assert loaded(client, session_id) == {"n": 7}
    autosave.write_bytes(b"{")
    assert loaded(client, session_id) == {"n": 3}
    with client.session(session_id) as session:
        assert dict(session) == {"n": 3}
    assert not offline.load_state(client.paths, "from-no-files").found


# -- the disk refuses --------------------------------------------------------------------------------------------------


class FullDisk:
    """`os` as the outbox sees it, on a disk that takes no byte."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def writev(self, fd: int, parts: object) -> int:
        raise OSError(28, "No space left on device")


def test_what_the_disk_refuses_shows_in_durable_and_in_the_end_raises(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = client.session()
    session["a"] = 0
    with monkeypatch.context() as patch:
        patch.setattr(outbox_module, "os", FullDisk())
        patch.setattr(outbox_module, "BACKLOG_BYTES", 500)
        session["a"] = 1
        assert (session.durable.published, session.durable.spooled) == (2, 1)
        with pytest.raises(OutboxFull):
            session["a"] = "x" * 1000
        assert session["a"] == 1
        assert session.durable.published == 2
    session["a"] = 2
    assert session._stream.outbox.spool()
    assert (session.durable.published, session.durable.spooled) == (3, 3)
    session.close()
    assert loaded(client, session.session_id) == {"a": 2}


def test_a_session_is_closed_though_the_disk_is_full(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    session = client.session()
    session["a"] = 1
    with monkeypatch.context() as patch:
        patch.setattr(outbox_module, "os", FullDisk())
        patch.setattr(outbox_module, "BACKLOG_BYTES", 0)
        session.close()
    assert session.closed
    with client.session(session.session_id) as again:  # its lock is given up
        assert dict(again) == {"a": 1}


def test_what_waits_in_memory_is_written_on_closing_when_the_disk_takes_it_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = client.session()
    with monkeypatch.context() as patch:
        patch.setattr(session._link, "_send_entries", lambda _: None)  # the link does not try meanwhile
        with monkeypatch.context() as full:
            full.setattr(outbox_module, "os", FullDisk())
            session["a"] = 1
        assert session.durable.spooled == 0
        session.close()
    assert loaded(client, session.session_id) == {"a": 1}


def test_a_base_that_the_disk_refuses_does_not_end_the_link(client: Client, session: Session) -> None:
    """Another journal asks for the whole state when the outbox is full: it is asked for again."""
    session["a"] = 1
    stream, told = session._stream, threading.Event()
    attached = Attached(1, stream.id, epoch=1, number=0, checkpointed=0, sequence=0, base_wanted=True)

    def refused() -> int:
        raise OutboxFull("no room")

    def hear() -> None:
        client._link._receive(attached)
        told.set()

    client._link.serve(stream, refused)
    stream.advance(StreamEvent.ATTACH)
    client._link._call(hear)
    assert told.wait(10)
    assert stream.state is StreamState.ATTACHING
    client._link.serve(stream, session._published.base)
    told.clear()
    client._link._call(hear)
    assert told.wait(10)
    assert stream.state is StreamState.ATTACHED
    assert isinstance(entries(session)[-1], Base)
    stream.lose()


def test_what_another_journal_acknowledged_counts_no_more(
    client: Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        session["a"] = number
    stream, link, told = session._stream, client._link, threading.Event()
    stream.acknowledge(3, 2, 2)
    session.flush(timeout_s=0)
    stream.journal = "lost"

    def hear() -> None:
        monkeypatch.setattr(link, "_journal", "restored")
        stream.advance(StreamEvent.ATTACH)
        link._receive(Attached(1, stream.id, epoch=1, number=1, checkpointed=0, sequence=1, base_wanted=False))
        monkeypatch.undo()
        told.set()

    link._call(hear)
    assert told.wait(10)
    assert (session.durable.journaled, session.durable.checkpointed) == (1, 0)
    stream.state = StreamState.DETACHED
    assert stream.window.sent == 1  # the others go out again, and the whole state behind them
    assert [type(entry) for entry in entries(session)] == [Update, Update, Update, Base]
    with pytest.raises(FlushTimeout):
        session.flush(timeout_s=0)


def test_an_outbox_that_cannot_be_read_does_not_end_the_link(
    client: Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = threading.Event()

    def broken() -> None:
        pushed.set()
        raise OSError(5, "Input/output error")

    link, asked = client._link, threading.Event()
    link._call(asked.set)
    assert asked.wait(10)  # the link has done what was asked of it before: it asks for no attachment any more
    monkeypatch.setattr(session._stream.outbox, "frame", lambda *_: broken())
    monkeypatch.setattr(link._connection, "send", lambda _: True)
    monkeypatch.setattr(link._connection, "blocked", False)
    monkeypatch.setattr(link, "_state", ConnectionState.OPEN)
    monkeypatch.setattr(session._stream, "state", StreamState.ATTACHED)
    session["a"] = 1
    assert pushed.wait(10)
    monkeypatch.undo()
    called = threading.Event()
    link._call(called.set)
    assert called.wait(10)
    assert link._thread.is_alive()


# -- leaving -----------------------------------------------------------------------------------------------------------

PUBLISHING: dict[str, Callable[[Session], object]] = {
    "set": lambda s: s.__setitem__("a", 2),
    "delete": lambda s: s.__delitem__("a"),
    "update": lambda s: s.update(a=2),
    "pop": lambda s: s.pop("a"),
    "clear": lambda s: s.clear(),
    "transition": lambda s: s.transition("next"),
    "checkpoint": lambda s: s.checkpoint(timeout_s=0),
    "flush": lambda s: s.flush(timeout_s=0),
    "begin anew": lambda s: s._published.start_empty(),
}


@pytest.mark.parametrize("act", PUBLISHING.values(), ids=PUBLISHING)
def test_a_closed_session_takes_nothing_and_can_still_be_read(client: Client, act: Callable[[Session], object]) -> None:
    session = client.session()
    session["a"] = 1
    session.close()
    with pytest.raises(SessionClosed):
        act(session)
    assert dict(session) == {"a": 1}
    assert session.durable.published == 2
    session.close()  # again: nothing


@pytest.mark.parametrize("act", PUBLISHING.values(), ids=PUBLISHING)
def test_a_fenced_session_takes_nothing_for_ever(client: Client, act: Callable[[Session], object]) -> None:
    session = client.session()
    session["a"] = 1
    session._stream.refuse(Fenced("another writer followed"), for_ever=True)
    for _ in range(2):
        with pytest.raises(Fenced):
            act(session)
    assert dict(session) == {"a": 1}
    session.close()
    assert session.durable.published == 1  # nor a last mark


def test_what_the_daemon_refused_is_raised_once(session: Session) -> None:
    session._stream.refuse(StateValueError("refused"), for_ever=False)
    with pytest.raises(StateValueError, match="refused"):
        session["a"] = 1
    session["a"] = 2
    assert session.durable.published == 1


def test_leaving_cleanly_ends_with_a_mark(client: Client) -> None:
    with client.session() as session:
        session["a"] = 1
    last = entries(session)[-1]
    assert isinstance(last, Mark)
    assert last.kind == "shutdown"


def test_leaving_by_an_exception_leaves_no_mark(client: Client) -> None:
    with pytest.raises(ZeroDivisionError), client.session() as session:
        session["a"] = 1
        raise ZeroDivisionError
    assert session.closed
    assert [type(entry) for entry in entries(session)] == [Update]


def test_closing_the_client_closes_its_sessions(home: Path) -> None:
    other = connect(autostart=False, timeout_s=0)
    sessions = [other.session(), other.session()]
    sessions[0].close()
    other.close()
    assert all(session.closed for session in sessions)
    assert not other.usable
    assert not other._link._thread.is_alive()
    for act in (other.session, other.sessions, other.status, other.interrupted):
        with pytest.raises(SessionClosed):
            act()
    other.close()


def test_beginning_anew_replaces_all_by_one_entry(client: Client, session: Session) -> None:
    session.update(a=1, b=2)
    session._published.replace({"c": b'{ "x" : [1, 2] }'})
    assert dict(session) == {"c": {"x": [1, 2]}}
    base = entries(session)[-1]
    assert isinstance(base, Base)
    assert base.state == {"c": b'{"x":[1,2]}'}
    assert loaded(client, session.session_id) == dict(session)
    session["d"] = 1
    assert session._published._bytes == publication._size(session.texts())


# -- other processes ---------------------------------------------------------------------------------------------------


def run(script: str, home: Path) -> str:
    environment = {**os.environ, "EDI_CHECKPOINT_HOME": str(home), "EDI_CHECKPOINT_AUTOSTART": "0"}
    child = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in child.stderr or "ZeroDivisionError" in child.stderr, child.stderr
    return child.stdout


def test_a_forked_child_may_not_write_and_can_open_its_own(tmp_path: Path) -> None:
    told = run(
        """
import json, os
from edi_checkpoint import connect, EdiCheckpointError

client = connect(autostart=False, timeout_s=0)
session = client.session("s")
session["a"] = 1
if (child := os.fork()) == 0:
    told = []
    acts = (lambda: session.update(a=2), lambda: session.checkpoint(timeout_s=0), lambda: client.session("t"),
            lambda: session.flush(timeout_s=0), lambda: session.clear())
    for act in acts:
        try:
            act()
        except EdiCheckpointError as error:
            told.append(error.code)
    session.close(); client.close()
    told.append(dict(session))
    with connect(autostart=False, timeout_s=0) as own:
        try:
            own.session("s")
        except EdiCheckpointError as error:
            told.append([error.code, error.pid == os.getppid()])
        with own.session("t") as other:
            other["b"] = 1
            told.append(dict(other))
    print(json.dumps(told), flush=True)
    raise SystemExit
os.waitpid(child, 0)
session["a"] = 3
print(session.durable.published, flush=True)
client.close()
""",
        tmp_path,
    ).splitlines()
    forked = "session_forked"
    assert json.loads(told[0]) == [*[forked] * 5, {"a": 1}, ["session_busy", True], {"b": 1}]
    assert told[1] == "2"


@pytest.mark.parametrize(
    ("ending", "marks"), [("", 1), ("1 / 0", 0), ("os._exit(1)", 0), ("os.kill(os.getpid(), 9)", 0)]
)
def test_the_end_of_a_process_is_clean_only_when_it_is(tmp_path: Path, ending: str, marks: int) -> None:
    run(
        f"""
import os
from edi_checkpoint import connect
session = connect(autostart=False, timeout_s=0).session("s")
session["a"] = 1
{ending}
""",
        tmp_path,
    )
    (files,) = list_streams(tmp_path / "state" / "outbox" / "s")
    found = [decode_entry(record.entry) for data in read_records(files) for record in scan(data)]
    assert sum(isinstance(entry, Mark) for entry in found) == marks
    assert isinstance(found[0], Update)


def test_a_socket_path_too_long_is_no_reason_to_forget(tmp_path: Path) -> None:
    told = run(
        """
import logging
logging.basicConfig()
from edi_checkpoint import connect
with connect(autostart=False, timeout_s=0) as client:
    with client.session("s") as session:
        session["a"] = 1
    with client.session("s") as session:
        print(dict(session))
""",
        tmp_path / ("long" * 30),
    )
    assert told == "{'a': 1}\n"


# -- StateManager ------------------------------------------------------------------------------------------------------


@pytest.fixture
def managed(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(state_manager, "_client", None)
    yield
    if state_manager._client is not None:
        state_manager._client.close()


def leave() -> None:
    """The process's client leaves, as at its end; the next manager gets another."""
    assert state_manager._client is not None
    state_manager._client.close()


@pytest.mark.usefixtures("managed")
class TestStateManager:
    def test_it_starts_empty_and_touches_nothing(self, home: Path) -> None:
        manager = StateManager()
        assert manager.state_data == {}
        assert len(manager.session_id) == 36
        assert manager.checkpoint_dir == home / "sessions"
        assert manager.session_file_path == home / "sessions" / f"{manager.session_id}.json"
        assert not (home / "state" / "outbox" / manager.session_id).exists()

    def test_both_documented_forms_of_set_state(self, client: Client) -> None:
        manager = StateManager()
        manager.set_state("current_stage", "upload")
        manager.set_state("image_path", None)
        manager.set_state(current_stage=None, prompts=["a"], naive_prompt=None)
        manager.set_state()
        assert manager.state_data == {"current_stage": "upload", "image_path": None, "prompts": ["a"]}
        assert loaded(client, manager.session_id) == manager.state_data

    def test_writing_begins_the_session_anew(self, client: Client) -> None:
        first = StateManager("anew")
        first.set_state(a=1, b=2)
        leave()
        second = StateManager("anew")
        assert loaded(client, "anew") == {"a": 1, "b": 2}
        second.set_state(c=3)
        assert loaded(client, "anew") == second.state_data == {"c": 3}

    def test_loading_continues_it(self, client: Client) -> None:
        first = StateManager("continued")
        first.set_state(a=1, b=[2])
        leave()
        second = StateManager()
        assert second.load_state("continued")
        assert second.session_id == "continued"
        assert second.state_data == {"a": 1, "b": [2]}
        second.set_state(c=3)
        assert loaded(client, "continued") == {"a": 1, "b": [2], "c": 3}
        assert second.load_state()
        assert second.state_data == {"a": 1, "b": [2], "c": 3}

    @pytest.mark.parametrize("times", [1, 2])
    def test_there_is_nothing_to_load_however_often_it_is_tried(self, home: Path, times: int) -> None:
        for _ in range(times + 1):
            manager = StateManager()
            assert not manager.load_state(f"nobody{times}")
            assert manager.state_data == {}
            assert manager.session_id != f"nobody{times}"
        assert not (home / "state" / "outbox" / f"nobody{times}").exists()  # to look leaves no trace

    def test_a_failed_load_keeps_what_there_was(self, client: Client) -> None:
        manager = StateManager()
        manager.set_state(a=1)
        mine = manager.session_id
        assert not manager.load_state("nobody_at_all")
        assert manager.session_id == mine
        manager.set_state(b=2)
        assert loaded(client, mine) == {"a": 1, "b": 2}

    def test_changes_in_place_are_found(self, client: Client, caplog: pytest.LogCaptureFixture) -> None:
        manager = StateManager()
        manager.set_state(scene={"entities": []}, gone=1)
        manager.state_data["scene"]["entities"].append("sky")  # type: ignore[index]
        del manager.state_data["gone"]
        manager.state_data["new"] = (1, 2)
        assert loaded(client, manager.session_id) == {"scene": {"entities": []}, "gone": 1}
        manager.checkpoint("because")
        assert loaded(client, manager.session_id) == {"scene": {"entities": ["sky"]}, "new": [1, 2]}
        session = manager._session
        assert session is not None
        assert session.durable.published == 3
        manager.save_state()
        assert session.durable.published == 3  # unchanged since
        manager.checkpoint()
        assert session.durable.published == 4

    def test_without_a_daemon_it_warns_and_never_prints(
        self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        manager = StateManager()
        manager.set_state(a=1)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            manager.checkpoint()
        assert len(caplog.records) == 1
        caplog.clear()
        manager.save_state()
        assert len(caplog.records) == 1
        assert capfd.readouterr() == ("", "")

    def test_what_is_refused_leaves_both_states(self, client: Client) -> None:
        manager = StateManager()
        manager.set_state(a=1)
        with pytest.raises(StateValueError, match=r"^b\[1\]: "):
            manager.set_state(a=2, b=[0, float("nan")])
        assert manager.state_data == {"a": 1}
        manager.state_data["bad"] = object()
        for act in (manager.checkpoint, manager.save_state):
            with pytest.raises(StateValueError, match="^bad: "):
                act()
        assert loaded(client, manager.session_id) == {"a": 1}

    def test_managers_of_one_process_share_a_connection(self) -> None:
        one, other = StateManager(), StateManager()
        one.set_state(a=1)
        other.set_state(a=2)
        assert one._session is not None
        assert other._session is not None
        assert one._session._link is other._session._link

    def test_a_second_manager_of_a_session_continues_what_the_first_published(self, client: Client) -> None:
        one, other = StateManager("shared"), StateManager("shared")
        one.set_state(a=1)
        assert other.load_state()
        assert other.state_data == {"a": 1}
        other.set_state(b=2)
        assert loaded(client, "shared") == {"a": 1, "b": 2}

    def test_each_of_two_managers_of_a_session_saves_what_it_holds(self, client: Client) -> None:
        one, other = StateManager("apart"), StateManager("apart")
        one.set_state(a=1, b=1)
        other.set_state(c=2)
        assert loaded(client, "apart") == {"c": 2}
        one.save_state()
        assert loaded(client, "apart") == {"a": 1, "b": 1}
        other.save_state()
        assert loaded(client, "apart") == {"c": 2}

    def test_a_session_is_free_when_the_last_manager_turns_away_from_it(self) -> None:
        one, other = StateManager("left"), StateManager("left")
        one.set_state(a=1)
        assert other.load_state()
        StateManager("elsewhere").set_state(a=2)
        assert one.load_state("elsewhere")
        other.set_state(b=2)
        session = other._session
        assert session is not None
        assert other.load_state("elsewhere")
        assert session.closed
        assert one._session is other._session

    def test_documented_fields_are_attributes_and_none_while_they_are_not_set(self, client: Client) -> None:
        manager = StateManager()
        assert (manager.current_stage, manager.prompts, manager.validation_results) == (None, None, None)
        manager.current_stage = "analysis"
        manager.set_state("own_field", [1])
        assert (manager.current_stage, manager.own_field) == ("analysis", [1])
        assert loaded(client, manager.session_id) == {"current_stage": "analysis", "own_field": [1]}
        with pytest.raises(AttributeError, match="no attribute 'stage'"):
            _ = manager.stage
        with pytest.raises(StateValueError, match=r"intent\.confidence: NaN"):
            manager.intent = {"confidence": float("nan")}
        assert manager.intent is None

    @pytest.mark.parametrize("limit", [0, 1001, 2.5, True, "10"])
    def test_a_checkpoint_limit_that_cannot_be_is_refused(self, limit: object) -> None:
        manager = StateManager()
        with pytest.raises(ValueError, match="checkpoint_limit"):
            manager.checkpoint_limit = limit
        assert manager.checkpoint_limit == 10
