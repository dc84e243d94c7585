"""The states of a connection and of a stream, and the events that lead from one to the next.

Both sides use these tables, which `docs/protocol.md` prints: a client for its own connection and streams, the daemon
for those of its clients. An event that has no place in a state is a `ProtocolError`.

States and events are `StrEnum`s because Python hashes a str in C: a table is asked for every frame of entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

from edi_checkpoint.errors import ProtocolError


class ConnectionState(StrEnum):
    """How far a connection of a client to a daemon has come."""

    NEW = "new"  # nothing is said, or there is no connection
    GREETED = "greeted"  # the client has said which folder it means, and waits for the answer
    OPEN = "open"  # the daemon serves that folder: anything may be sent


class ConnectionEvent(StrEnum):
    """What happens to a connection: a message of the client or of the daemon, or its loss."""

    HELLO = "hello"
    WELCOME = "welcome"
    ERROR = "error"  # of the connection itself: it names no request and no stream
    REQUEST = "request"  # any other message of the client
    NEWS = "news"  # any other message of the daemon
    LOST = "lost"


class StreamState(StrEnum):
    """Whether the daemon that is connected takes the entries of a stream."""

    DETACHED = "detached"  # it was not asked yet
    ATTACHING = "attaching"  # it was asked, and has not let the stream in
    ATTACHED = "attached"  # it takes entries
    SHUT_OUT = "shut out"  # it takes no more of them: the session was taken over or purged, or is busy
    CLOSED = "closed"  # the client has given up the stream's lock


class StreamEvent(StrEnum):
    """What happens to a stream: a message of the client or of the daemon, or the loss of the connection."""

    ATTACH = "attach"
    ATTACHED = "attached"
    ENTRIES = "entries"  # and `probe`, `save`, `ask_mark`
    NEWS = "news"  # `ack`, `mark_done`, `mark_failed`
    REFUSED = "refused"  # `error` of one message: the client may go on, or ask again
    SHUT_OUT = "shut out"  # `error` for ever: `fenced`, `session_purged`, `session_busy`
    CLOSE = "close"
    LOST = "lost"


_State = TypeVar("_State", bound=Enum)
_Event = TypeVar("_Event", bound=Enum)
Table: TypeAlias = Mapping[_State, Mapping[_Event, _State]]


def _connection_table() -> Table[ConnectionState, ConnectionEvent]:
    state, event = ConnectionState, ConnectionEvent
    return {
        state.NEW: {
            event.HELLO: state.GREETED,
            event.NEWS: state.NEW,  # sent before the connection was lost
            event.LOST: state.NEW,
        },
        state.GREETED: {
            event.HELLO: state.GREETED,
            event.WELCOME: state.OPEN,
            event.ERROR: state.NEW,
            event.NEWS: state.GREETED,
            event.LOST: state.NEW,
        },
        state.OPEN: {
            event.HELLO: state.GREETED,
            event.ERROR: state.OPEN,
            event.REQUEST: state.OPEN,
            event.NEWS: state.OPEN,
            event.LOST: state.NEW,
        },
    }


def _stream_table() -> Table[StreamState, StreamEvent]:
    state, event = StreamState, StreamEvent
    return {
        state.DETACHED: {
            event.ATTACH: state.ATTACHING,
            event.NEWS: state.DETACHED,
            event.REFUSED: state.DETACHED,
            event.SHUT_OUT: state.SHUT_OUT,
            event.CLOSE: state.CLOSED,
            event.LOST: state.DETACHED,
        },
        state.ATTACHING: {
            event.ATTACH: state.ATTACHING,  # asked again: the answer may be lost
            event.ATTACHED: state.ATTACHED,
            event.NEWS: state.ATTACHING,
            event.REFUSED: state.ATTACHING,
            event.SHUT_OUT: state.SHUT_OUT,
            event.CLOSE: state.CLOSED,
            event.LOST: state.DETACHED,
        },
        state.ATTACHED: {
            event.ATTACH: state.ATTACHING,  # asked again while the first answer was on its way
            event.ATTACHED: state.ATTACHED,
            event.ENTRIES: state.ATTACHED,
            event.NEWS: state.ATTACHED,
            event.REFUSED: state.ATTACHED,
            event.SHUT_OUT: state.SHUT_OUT,
            event.CLOSE: state.CLOSED,
            event.LOST: state.DETACHED,
        },
        state.SHUT_OUT: {
            event.ATTACH: state.SHUT_OUT,  # refused again
            event.NEWS: state.SHUT_OUT,
            event.REFUSED: state.SHUT_OUT,
            event.SHUT_OUT: state.SHUT_OUT,
            event.CLOSE: state.CLOSED,
            event.LOST: state.SHUT_OUT,
        },
        state.CLOSED: {
            event.CLOSE: state.CLOSED,
            event.LOST: state.CLOSED,
        },
    }


CONNECTION: Final = MappingProxyType(_connection_table())
STREAM: Final = MappingProxyType(_stream_table())


def advance(table: Table[_State, _Event], state: _State, event: _Event) -> _State:
    """Return the state that follows `state` by `event`. Raises `ProtocolError`, naming both, when none does."""
    try:
        return table[state][event]
    except KeyError:
        allowed = ", ".join(other.value for other in table[state])
        raise ProtocolError(f"`{event.value}` in the state `{state.value}`; allowed: {allowed}") from None
