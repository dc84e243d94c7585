"""The states of a connection and of a stream, and the events that lead from one state to the next.

Client and daemon use the same tables, which `docs/protocol.md` prints. Where a table has None for an event in a state,
the event raises `ProtocolError`.

States and events are `StrEnum`s because Python hashes a str in C: both sides look into a table for every frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

from edi_checkpoint.errors import ProtocolError


class ConnectionState(StrEnum):
    """How far the greeting between a client and a daemon has come."""

    NEW = "new"  # the client is not connected, or has not sent `hello`
    GREETED = "greeted"  # the client has sent `hello` and waits for the answer
    OPEN = "open"  # the daemon serves the client's folder: both may send any message


class ConnectionEvent(StrEnum):
    """A message of the client or the daemon, or the loss of the connection."""

    HELLO = "hello"
    WELCOME = "welcome"
    ERROR = "error"  # about the connection itself: it names no request and no stream
    REQUEST = "request"  # any other message of the client
    NEWS = "news"  # any other message of the daemon
    LOST = "lost"


class StreamState(StrEnum):
    """Whether the connected daemon accepts the entries of a stream."""

    DETACHED = "detached"  # the client has not asked yet
    ATTACHING = "attaching"  # the client has asked, and the daemon has not accepted yet
    ATTACHED = "attached"  # the daemon accepts entries
    SHUT_OUT = "shut out"  # the daemon accepts no more: the session is fenced, purged or busy
    CLOSED = "closed"  # the client has released the stream's lock


class StreamEvent(StrEnum):
    """A message about a stream, or the loss of the connection."""

    ATTACH = "attach"
    ATTACHED = "attached"
    ENTRIES = "entries"  # and `probe`, `save`, `ask_mark`
    NEWS = "news"  # `ack`, `mark_done`, `mark_failed`
    REFUSED = "refused"  # `error` about one message: the client may continue or ask again
    SHUT_OUT = "shut out"  # `error` for ever: `fenced`, `session_purged`, `session_busy`
    CLOSE = "close"
    LOST = "lost"


_State = TypeVar("_State", bound=Enum)
_Event = TypeVar("_Event", bound=Enum)
Table: TypeAlias = Mapping[_State, Mapping[_Event, _State]]


def _table(events: type[_Event], rows: Mapping[_State, tuple[_State | None, ...]]) -> Table[_State, _Event]:
    """Return the next state by state and event; a row has one column for each event, in the enum's order."""
    return MappingProxyType({
        state: {event: following for event, following in zip(events, row, strict=True) if following is not None}
        for state, row in rows.items()
    })  # fmt: skip


_NEW, _GREETED, _OPEN = ConnectionState
CONNECTION: Final = _table(ConnectionEvent, {
    #          hello     welcome  error  request  news      lost
    _NEW:     (_GREETED, None,    None,  None,    _NEW,     _NEW),  # news from before the loss may still arrive
    _GREETED: (_GREETED, _OPEN,   _NEW,  None,    _GREETED, _NEW),
    _OPEN:    (_GREETED, None,    _OPEN, _OPEN,   _OPEN,    _NEW),
})  # fmt: skip

_DETACHED, _ATTACHING, _ATTACHED, _SHUT_OUT, _CLOSED = StreamState
# The client repeats `attach` when an answer may be lost.
STREAM: Final = _table(StreamEvent, {
    #            attach      attached   entries    news        refused     shut out   close    lost
    _DETACHED:  (_ATTACHING, None,      None,      _DETACHED,  _DETACHED,  _SHUT_OUT, _CLOSED, _DETACHED),
    _ATTACHING: (_ATTACHING, _ATTACHED, None,      _ATTACHING, _ATTACHING, _SHUT_OUT, _CLOSED, _DETACHED),
    _ATTACHED:  (_ATTACHING, _ATTACHED, _ATTACHED, _ATTACHED,  _ATTACHED,  _SHUT_OUT, _CLOSED, _DETACHED),
    _SHUT_OUT:  (_SHUT_OUT,  None,      None,      _SHUT_OUT,  _SHUT_OUT,  _SHUT_OUT, _CLOSED, _SHUT_OUT),
    _CLOSED:    (None,       None,      None,      None,       None,       None,      _CLOSED, _CLOSED),
})  # fmt: skip


def advance(table: Table[_State, _Event], state: _State, event: _Event) -> _State:
    """Return the state that follows `state` after `event`. Raises `ProtocolError`, naming both, without one."""
    try:
        return table[state][event]
    except KeyError:
        allowed = ", ".join(other.value for other in table[state])
        raise ProtocolError(f"`{event.value}` in the state `{state.value}`; allowed: {allowed}") from None
