from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest

from edi_checkpoint.errors import ProtocolError
from edi_checkpoint.wire.states import (
    CONNECTION,
    STREAM,
    ConnectionEvent,
    ConnectionState,
    StreamEvent,
    StreamState,
    advance,
)
from edi_checkpointd.intake.listener import Listener, Peer
from edi_checkpointd.system.pulse import Pulse

PROTOCOL = Path(__file__).parents[3] / "docs" / "protocol.md"
TABLES = [("connection", CONNECTION, ConnectionState, ConnectionEvent), ("stream", STREAM, StreamState, StreamEvent)]
Table = Mapping[Enum, Mapping[Enum, Enum]]


def printed(name: str) -> list[list[str]]:
    """The cells of the table of `name` in the documentation, its head first."""
    found = re.search(rf"^\| state of a {name} \|.*\n\|[-|]+\n(?:\|.*\n)+", PROTOCOL.read_text(), re.MULTILINE)
    assert found, f"no table of a {name} in {PROTOCOL}"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines()]
    return [rows[0], *rows[2:]]


@pytest.mark.parametrize(("name", "table", "states", "events"), TABLES, ids=["connection", "stream"])
def test_the_documentation_prints_the_table_of_the_code(
    name: str, table: Table, states: type[Enum], events: type[Enum]
) -> None:
    head, *rows = printed(name)
    assert head == [f"state of a {name}", *(f"`{event.value}`" for event in events)]
    assert rows == [
        [state.value, *(table[state][event].value if event in table[state] else "" for event in events)]
        for state in states
    ]


@pytest.mark.parametrize(("name", "table", "states", "events"), TABLES, ids=["connection", "stream"])
def test_each_event_leads_to_the_state_of_the_table_or_is_refused_by_name(
    name: str, table: Table, states: type[Enum], events: type[Enum]
) -> None:
    for state in states:
        for event in events:
            if event in table[state]:
                assert advance(table, state, event) is table[state][event]
            else:
                with pytest.raises(ProtocolError, match=f"^`{event.value}` in the state `{state.value}`; allowed: "):
                    advance(table, state, event)


def test_a_connection_is_greeted_before_anything_is_asked() -> None:
    state = ConnectionState.NEW
    with pytest.raises(ProtocolError, match="allowed: hello"):
        advance(CONNECTION, state, ConnectionEvent.REQUEST)
    for event in (ConnectionEvent.HELLO, ConnectionEvent.WELCOME, ConnectionEvent.REQUEST):
        state = advance(CONNECTION, state, event)
    assert state is ConnectionState.OPEN


def test_entries_are_taken_of_an_attached_stream_alone() -> None:
    taking = [state for state in StreamState if StreamEvent.ENTRIES in STREAM[state]]
    assert taking == [StreamState.ATTACHED]


@pytest.mark.parametrize("state", StreamState)
def test_every_stream_survives_the_loss_of_its_connection_and_can_be_closed(state: StreamState) -> None:
    assert advance(STREAM, state, StreamEvent.LOST) is not StreamState.ATTACHED
    assert advance(STREAM, state, StreamEvent.CLOSE) is StreamState.CLOSED


def test_the_daemon_takes_entries_on_the_connection_alone_that_attached_their_stream() -> None:
    listener = Listener(Pulse())
    try:
        listener.routes["one"] = b"connection"
        listener.check_attached("one", b"connection")
        for stream, connection in (("one", b"another"), ("two", b"connection")):
            with pytest.raises(ProtocolError, match=f"stream {stream} is not attached .* `entries` .* `detached`"):
                listener.check_attached(stream, connection)
    finally:
        listener.close()


def test_a_client_whose_greeting_is_refused_has_to_greet_again() -> None:
    peer = Peer(pid=1)
    for event in (ConnectionEvent.HELLO, ConnectionEvent.ERROR):
        peer.advance(event)
    with pytest.raises(ProtocolError, match="`request` in the state `new`"):
        peer.advance(ConnectionEvent.REQUEST)
