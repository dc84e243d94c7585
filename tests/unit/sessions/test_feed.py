from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edi_checkpoint.wire.messages import Events, Subscribe
from edi_checkpointd.sessions.feed import ANSWER_EVENTS, HELD_EVENTS, LAPSE_S, SUBSCRIBERS_MAX, Feed, SubscribersFull

ME = b"me"


class MovedClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 24, tzinfo=UTC)

    def monotonic_s(self) -> float:
        return self.s


def tell(feed: Feed, first: int, count: int) -> None:
    for number in range(first, first + count):
        feed.fault("noted", str(number))


def asked(feed: Feed, feed_id: str, after: int) -> Events | None:
    """Ask for what follows; None while there is nothing."""
    feed.subscribe(ME, Subscribe(1, feed_id, after))
    answers = list(feed.answers())
    assert [subscriber for subscriber, _ in answers] in ([], [ME])
    return answers[0][1] if answers else None


def begun(feed: Feed) -> str:
    first = asked(feed, "", 0)
    assert first is not None
    assert (first.events, first.missed) == ([], 0)
    return first.feed


def test_while_nobody_watches_nothing_is_kept() -> None:
    feed = Feed(MovedClock())
    tell(feed, 0, 10)
    assert list(feed.answers()) == []
    begun(feed)
    assert asked(feed, "", 0) is not None  # from now on: the ten are not among it


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, HELD_EVENTS + 50), st.booleans()), max_size=6))
def test_a_watcher_gets_each_event_once_in_order_or_is_told_how_many_it_missed(steps: list[tuple[int, bool]]) -> None:
    feed = Feed(MovedClock())
    feed_id, number, told, heard = begun(feed), 0, 0, []
    for count, asks in [*steps, (0, True)]:
        tell(feed, told, count)
        told += count
        while asks and (answer := asked(feed, feed_id, number)) is not None:
            assert answer.feed == feed_id
            assert len(answer.events) <= ANSWER_EVENTS
            heard += [None] * answer.missed + [int(event.detail or "") for event in answer.events]
            number = answer.number
    assert [one if one is None else at for at, one in enumerate(heard)] == heard
    assert len(heard) == told == number
    assert heard.count(None) <= max(0, told - HELD_EVENTS)


def test_who_is_slow_has_one_answer_under_way_and_no_more() -> None:
    feed = Feed(MovedClock())
    feed.subscribe(ME, Subscribe(1, begun(feed), 0))
    tell(feed, 0, 1)
    assert len(list(feed.answers())) == 1
    tell(feed, 1, 5000)
    assert list(feed.answers()) == []


def test_a_feed_that_nobody_asks_for_lapses_and_a_late_watcher_is_told_by_another_id() -> None:
    clock = MovedClock()
    feed = Feed(clock)
    first = begun(feed)
    clock.s = LAPSE_S + 1
    assert list(feed.answers()) == []
    tell(feed, 0, 3)
    late = asked(feed, first, 0)
    assert late is not None
    assert late.feed != first
    assert late.events == []


def test_more_watchers_than_may_be_are_refused_by_name() -> None:
    feed = Feed(MovedClock())
    for number in range(SUBSCRIBERS_MAX):
        feed.subscribe(b"%d" % number, Subscribe(1))
    feed.subscribe(b"1", Subscribe(2))  # one that asks anew is none more
    with pytest.raises(SubscribersFull):
        feed.subscribe(b"more", Subscribe(1))
