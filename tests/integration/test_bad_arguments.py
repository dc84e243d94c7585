"""An argument that cannot be meant is refused by name, at once, and nothing else suffers from it."""

from __future__ import annotations

import pytest
from harness import Home, Refused

BAD = [
    ("session.at(sequence=2**70)", "NotFound"),
    ("session.at(sequence=-1)", "NotFound"),
    ("session.at(sequence='1')", "UsageError"),
    ("session.at(time='10m')", "UsageError"),
    ("session.at()", "UsageError"),
    ("session.rollback(sequence=1, time=time)", "UsageError"),
    ("session.rollback(7)", "UsageError"),
    ("session.fork(sequence=True)", "UsageError"),
    ("session.flush('sometime')", "UsageError"),
    ("client.sessions(limit=0)", "UsageError"),
    ("client.sessions(condition='bogus')", "UsageError"),
    ("client.ask(lambda n: edi_checkpoint.wire.messages.ListSessions(2**70))", "UsageError"),
    ("client.ask(lambda n: edi_checkpoint.wire.messages.ListSessions(n, None, 0))", "ProtocolError"),
    ("manager.set_state('alone')", "UsageError"),
    ("manager.set_state(value=3)", "UsageError"),
]


def test_each_is_refused_by_name_and_the_connection_goes_on(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("import edi_checkpoint.wire.messages")
    publisher.do("manager = StateManager('s2')")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush()")
    for code, error in BAD:
        with pytest.raises(Refused) as refused:
            publisher.do(code, timeout_s=3)
        assert refused.value.type == error, code
        assert refused.value.code
        publisher.do("session.update(n=2)")
        publisher.do("session.flush(timeout_s=2)", timeout_s=3)
    assert len(publisher.do("client.sessions(limit=2**70)")) == 1


def test_a_link_that_fails_lets_go_of_its_sockets_and_says_that_it_is_not_connected(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("import gc")
    publisher.do("exec('def fail(): raise ZeroDivisionError', globals())")
    publisher.do("session._link._turn = fail")
    publisher.do("session._link.wake()")
    assert publisher.sees("not client.connected")
    publisher.do("session.update(n=1)")
    publisher.do("client.close()", timeout_s=10)
    publisher.do("gc.collect()", timeout_s=10)


def test_whatever_is_no_coroutine_has_the_same_name_for_asyncio(home: Home) -> None:
    process = home.python(
        "import edi_checkpoint\n"
        "from edi_checkpoint import aio\n"
        "print(all(getattr(aio, name) for name in edi_checkpoint.__all__), aio.Fenced is edi_checkpoint.Fenced)"
    )
    assert process.wait_line("True ") == "True True"
