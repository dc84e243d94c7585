from __future__ import annotations

import itertools

from edi_checkpoint.home.condition import CONDITIONS, decide
from edi_checkpoint.model import Kind

STATUSES = (None, "in_progress", "completed", "failed", "")
NEWEST = (None, *Kind)
EVERY = list(itertools.product((True, False), (True, False, None), NEWEST, STATUSES))


def of(live: bool, clean_end: bool | None, newest: str | None, status: str | None) -> str:
    return decide(live=live, clean_end=clean_end, newest=newest, status=status)


def test_any_facts_give_one_of_the_four_conditions() -> None:
    assert {of(*facts) for facts in EVERY} == set(CONDITIONS) == {"live", "interrupted", "unfinished", "ended"}


def test_a_session_is_live_exactly_while_a_writer_holds_its_lock() -> None:
    assert [of(*facts) == "live" for facts in EVERY] == [held for held, *_ in EVERY]


def test_how_the_writer_left_outweighs_every_file_and_every_status() -> None:
    for newest, status in itertools.product(NEWEST, STATUSES):
        assert of(False, False, newest, status) == "interrupted"
        assert of(False, True, newest, status) == ("ended" if status in ("completed", "failed") else "unfinished")


def test_only_where_nobody_tells_how_the_writer_left_the_newest_document_does() -> None:
    told = {newest: of(False, None, newest, "completed") for newest in NEWEST}
    assert told == {**dict.fromkeys(NEWEST, "ended"), Kind.INTERRUPTED: "interrupted"}
