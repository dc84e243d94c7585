from __future__ import annotations

import json
import sys

import pytest
from harness import Home

PROGRAM = """
import asyncio, datetime, logging, sys
logging.basicConfig(stream=sys.stdout, format="log %(message)s")
import edi_checkpoint
from edi_checkpoint import StateManager, aio, connect

NOW = datetime.datetime.now()

def plain():
    with connect() as client, client.session("s1") as session:
        session.transition("analysis", image_path="roof.jpg")
        session.update(n=1, gone=2)
        del session["gone"]
        with session.edit("n") as n:
            pass
        info = session.checkpoint("by hand", pin=True)
        session.flush("checkpointed")
        assert dict(session) == {"image_path": "roof.jpg", "current_stage": "analysis", "n": 1}, dict(session)
        assert (info.name, info.session_id, session.checkpoints()) == ("", "s1", [])
        assert session.durable.published == session.durable.checkpointed == 4, session.durable
        assert (client.sessions(), client.interrupted()) == ([], [])
        assert client.status()["disabled"] is True
        for back in (session.rollback, lambda: session.rollback("s1_checkpoint_x.json"), lambda: session.at(time=NOW)):
            try:
                back()
            except edi_checkpoint.NotFound:
                pass
            else:
                raise AssertionError(back)
        assert session.fork() != "s1" and dict(session)["n"] == 1
        with client.session("s1") as other:  # nobody is busy, and nothing is there
            assert dict(other) == {}
        try:
            session["bad"] = float("nan")
        except edi_checkpoint.StateValueError:
            pass

async def awaited():
    async with await aio.connect() as client, await client.session() as session:
        session["n"] = 1
        assert (await session.checkpoint()).name == ""
        await session.flush()
        assert await client.sessions() == []

def manager():
    state = StateManager("session_12345")
    state.set_state("current_stage", "image_processing")
    state.checkpoint("workflow_transition")
    state.save_state()
    assert state.load_state("unknown") is False and state.load_state("earlier") is False
    assert state.state_data["current_stage"] == "image_processing"

plain()
asyncio.run(awaited())
manager()
with connect() as client, client.session() as session:
    session.end()
print("done")
"""


@pytest.mark.leaves("mode")
@pytest.mark.parametrize("home_is", ["empty", "full", "unknown"])
def test_a_disabled_process_works_in_memory_and_touches_nothing(home: Home, home_is: str) -> None:
    environment = {"EDI_CHECKPOINT_DISABLE": "1", "EDI_CHECKPOINT_AUTOSTART": "1"}
    if home_is == "full":
        home.sessions.mkdir(parents=True)
        (home.sessions / "earlier.json").write_text(json.dumps({"session_id": "earlier", "n": 1}))
    elif home_is == "unknown":
        environment["EDI_CHECKPOINT_HOME"] = "a relative path, which would be refused"
    before = sorted(home.folder.rglob("*"))
    program = home.start([sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM], **environment)
    assert program.wait() == 0, program.stderr
    assert program.stderr == []
    assert program.stdout[-1] == "done"
    said = [line for line in program.stdout if line.startswith("log ")]
    assert said == ["log EDI_CHECKPOINT_DISABLE is set: this process saves nothing"]
    assert sorted(home.folder.rglob("*")) == before


def test_disabling_is_asked_for_and_not_assumed(home: Home) -> None:
    home.daemon()
    for text in ("", "0"):
        publisher = home.publisher("s1", EDI_CHECKPOINT_DISABLE=text)
        publisher.do("session.update(n=1)")
        assert publisher.do("session.checkpoint().name")
        publisher.do("session.close()")
