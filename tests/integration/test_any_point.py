"""Against a simple model: whatever is published, gone back to, forked or restarted, every earlier point stays."""

from __future__ import annotations

import os
import signal
from itertools import count
from pathlib import Path

import pytest
from harness import Home, Publisher, eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = 60 if os.environ.get("EDI_TEST_FULL") == "1" else 3
FIELDS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), min_size=1, max_size=2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("update"), FIELDS),
        st.tuples(st.just("update"), FIELDS),
        st.tuples(st.just("remove"), st.sampled_from("abc")),
        st.tuples(st.just("checkpoint"), st.none()),
        st.tuples(st.just("rollback"), st.floats(0, 1)),
        st.tuples(st.just("rollback of a key"), st.tuples(st.floats(0, 1), st.sampled_from("abc"))),
        st.tuples(st.just("fork"), st.floats(0, 1)),
        st.tuples(st.just("restart"), st.sampled_from([signal.SIGKILL, signal.SIGTERM])),
        st.tuples(st.just("new writer"), st.none()),
    ),
    min_size=4,
    max_size=14,
)  # fmt: skip
ids = count(1)


class Model:
    """What the past has to be: by session, the state after each sequence."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.daemon = home.daemon()
        self.session_id = f"s{next(ids)}"
        self.writer = self.open()
        self.past: list[dict] = [{}]
        self.forks: dict[str, dict] = {}

    def open(self) -> Publisher:
        return self.home.publisher(self.session_id)

    def point(self, where: float) -> int:
        """One of the sequences there are, none of them 0."""
        return 1 + round(where * (len(self.past) - 2))

    def do(self, step: str, what: object) -> None:
        now = self.past[-1]
        if step == "update":
            self.writer.do(f"session.update({what!r})")
            self.past.append({**now, **what})
        elif step == "remove" and what in now:
            self.writer.do(f"session.pop({what!r})")
            self.past.append({key: value for key, value in now.items() if key != what})
        elif step == "checkpoint":
            self.writer.do("session.checkpoint(timeout_s=20)")
            self.past.append(now)
        elif len(self.past) > 1 and step == "rollback":
            self.writer.do(f"session.rollback(sequence={self.point(what)})")
            self.past.append(self.past[self.point(what)])
        elif len(self.past) > 1 and step == "rollback of a key":
            where, key = what
            then = self.past[self.point(where)]
            if key in now or key in then:
                self.writer.do(f"session.rollback(sequence={self.point(where)}, keys=[{key!r}])")
                rest = {name: value for name, value in now.items() if name != key}
                self.past.append({**rest, **{name: value for name, value in then.items() if name == key}})
        elif len(self.past) > 1 and step == "fork":
            fork = self.writer.do(f"session.fork(sequence={self.point(what)})")
            self.forks[fork] = self.past[self.point(what)]
        elif step == "restart":
            self.writer.do("session.flush(timeout_s=20)")
            self.daemon.kill(what)
            self.daemon = self.home.daemon()
            self.writer.sees("client.connected")
        elif step == "new writer":
            self.writer.do("session.flush(timeout_s=20)")
            self.writer.kill()
            self.writer = self.open()

    def check(self) -> None:
        self.writer.do("session.flush(timeout_s=20)")
        assert self.writer.do("dict(session)") == self.past[-1]
        history = self.home.history(self.session_id) if len(self.past) > 1 else []
        assert [entry["sequence"] for entry in history] == list(range(1, len(self.past)))
        for sequence, state in enumerate(self.past[1:], start=1):
            assert self.writer.do(f"session.at(sequence={sequence})") == state
        for fork, state in self.forks.items():
            assert self.home.json("show", fork)["state_info"] == state
            assert self.home.json("show", fork)["parent_session"] == self.session_id


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(steps=STEPS)
def test_every_earlier_point_stays_readable_with_its_old_content(
    tmp_path_factory: pytest.TempPathFactory, steps: list
) -> None:
    home = Home(Path(tmp_path_factory.mktemp("h")) / "h")
    try:
        model = Model(home)
        for step, what in steps:
            model.do(step, what)
        model.check()
        model.writer.do("client.close()")
        eventually(lambda: not (home.state / "outbox" / model.session_id).exists())
    finally:
        home.close()
