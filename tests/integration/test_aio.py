from __future__ import annotations

import json
import signal
import sys

import pytest
from harness import Home, Process, eventually

from edi_checkpoint.documents.reader import parse_checkpoint

# A main program of asyncio; what it prints in its own time is its account. Warnings are errors, leaks are told; how
# long the loop was held is for test_textual.py to tell, which takes off what a busy machine does.
MAIN = """
import asyncio, json, logging, os, sys, threading
from edi_checkpoint import EdiCheckpointError
from edi_checkpoint.aio import connect

logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing"))

def say(*words):
    print(*words, flush=True)

async def told():  # waits for a line from the test
    return await asyncio.to_thread(sys.stdin.readline)

"""


def run(home: Home, code: str) -> Process:
    return home.start([sys.executable, "-X", "dev", "-W", "error", "-c", MAIN + code])


def tell(process: Process) -> None:
    assert process.popen.stdin is not None
    process.popen.stdin.write(b"go on\n")
    process.popen.stdin.flush()


def ends_quietly(process: Process) -> None:
    assert process.wait() == 0, process.stderr
    assert process.stderr == []


def states(home: Home, session_id: str) -> list[dict[str, object]]:
    paths = home.checkpoints(session_id)
    found = [parse_checkpoint(path.read_bytes(), path.name).values for path in paths]
    return [{key: json.loads(text) for key, text in one.items()} for one in found]


def test_a_checkpoint_holds_the_state_of_the_moment_at_which_it_is_awaited(home: Home) -> None:
    home.daemon("--transition-keys", "attempt")
    program = run(
        home,
        """
async def rival(session, number):
    session["n"] = -number
    await session.flush()

async def main():
    sys.setswitchinterval(0.1)  # other threads get their turn when this one waits, not before
    async with await connect() as client, await client.session("s1") as session:
        for number in range(1, 6):
            session["n"] = number
            other = asyncio.create_task(rival(session, number))
            info = await session.checkpoint(str(number), label="one")
            assert (info.reason, info.label, session["n"]) == (str(number), "one", -number)
            await other

asyncio.run(main())
""",
    )
    ends_quietly(program)
    assert [one["n"] for one in states(home, "s1")][:5] == [1, 2, 3, 4, 5]


def test_the_names_of_the_plain_side_do_the_same(home: Home) -> None:
    home.daemon("--transition-keys", "current_stage")
    program = run(
        home,
        """
async def main():
    client = await connect(app="aio")
    session = await client.session("s1", parent="s0")
    session.transition("analysis", reason="begun", image_path="roof.jpg")
    session["scene"] = {"entities": []}
    with session.edit("scene") as scene:
        scene["entities"].append("sky_0")
    session.update({"a": 1}, b=2)
    assert session.pop("a") == 1 and session.pop("a", None) is None
    del session["b"]
    assert dict(session) == {"image_path": "roof.jpg", "current_stage": "analysis", "scene": {"entities": ["sky_0"]}}
    assert (len(session), session.session_id, session.parent_session) == (3, "s1", "s0")
    await session.flush("checkpointed")
    assert session.durable.checkpointed == session.durable.published == 6, session
    info = await session.checkpoint("by hand")
    assert (await session.checkpoints())[-1] == info
    assert [one.session_id for one in await client.sessions()] == ["s1"]
    assert await client.interrupted() == []
    assert (await client.status())["daemon"]["running"] and client.connected
    session.clear()
    await session.close()
    assert session.closed
    again = await client.session("s1")
    assert dict(again) == {}
    await client.close()
    for use in (lambda: again.checkpoint(), lambda: again.flush(), lambda: client.sessions(), lambda: client.session()):
        try:
            await use()
        except EdiCheckpointError as error:
            assert error.code == "session_closed", error
        else:
            raise AssertionError(use)

asyncio.run(main())
""",
    )
    ends_quietly(program)
    assert json.loads((home.sessions / "s1.json").read_bytes())["session_id"] == "s1"


def test_errors_are_those_of_the_plain_side(home: Home) -> None:
    home.daemon()
    writer = home.publisher("busy")
    program = run(
        home,
        """
async def code(awaitable):
    try:
        await awaitable
    except EdiCheckpointError as error:
        return type(error).__name__

async def main():
    async with await connect() as client, await client.session("s1") as session:
        say(await code(client.session("busy")))
        say(await code(client.session("../s1")))
        say(await code(session.checkpoint(reason=7)))
        session["n"] = 1
        say(await code(session.flush()))
        await told()  # the daemon is gone
        session["n"] = 2
        say(await code(session.flush(timeout_s=0.01)))
        say(await code(session.checkpoint(timeout_s=0.01)))
        if os.fork() == 0:
            say(*[await code(wait) for wait in (session.flush(), session.checkpoint(), client.sessions())])
            os._exit(0)
        os.wait()

asyncio.run(main())
""",
    )
    assert [program.wait_line("") for _ in range(4)] == ["SessionBusy", "SessionIdError", "StateValueError", "None"]
    home.processes[0].kill()
    tell(program)
    assert [program.wait_line("") for _ in range(2)] == ["FlushTimeout", "FlushTimeout"]
    assert program.wait_line("") == "SessionForked SessionForked SessionForked"
    ends_quietly(program)
    writer.do("session.update(n=1)")


def test_waiting_for_a_checkpoint_holds_no_thread_and_needs_no_executor_of_the_apps(home: Home) -> None:
    daemon = home.daemon("--keep-per-session", "200")
    program = run(
        home,
        """
async def main():
    full = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(full.wait)) for _ in range(64)]  # EDI's own work
    async with await connect() as client, await client.session("s1") as session:
        session["n"] = 0
        await session.flush()
        before = threading.active_count()
        say("stop")
        sys.stdin.readline()
        asked = []
        for number in range(1, 101):
            session["n"] = number
            asked.append(asyncio.create_task(session.checkpoint(timeout_s=30)))
            await asyncio.sleep(0)
        say("asked", threading.active_count() - before)
        done = await asyncio.gather(*asked)
        say("done", len({info.name for info in done}))
        full.set()
        await asyncio.gather(*busy)

asyncio.run(main())
""",
    )
    program.wait_line("stop")
    daemon.kill(signal.SIGSTOP)
    tell(program)
    assert program.wait_line("asked") == "asked 0"
    daemon.kill(signal.SIGCONT)
    assert program.wait_line("done") == "done 100"
    ends_quietly(program)
    assert [one["n"] for one in states(home, "s1")][:100] == list(range(1, 101))


def test_a_cancelled_checkpoint_is_made_all_the_same_and_leaves_nothing_behind(home: Home) -> None:
    daemon = home.daemon()
    program = run(
        home,
        """
async def main():
    async with await connect() as client, await client.session("s1") as session:
        session["n"] = 1
        await session.flush()
        say("stop")
        sys.stdin.readline()
        for wait in (session.checkpoint("cancelled", timeout_s=30), session.flush(timeout_s=30)):
            task = asyncio.create_task(wait)
            await asyncio.sleep(0.01)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                say("cancelled")
        assert not session._session._stream.marks
        session["n"] = 2
        say("go on")
        sys.stdin.readline()
        await session.flush(timeout_s=20)
        while session._session._stream._awaited:  # the link drops what it has settled a moment later
            await asyncio.sleep(0)
        say((await session.checkpoint("after", timeout_s=20)).reason)

asyncio.run(main())
""",
    )
    program.wait_line("stop")
    daemon.kill(signal.SIGSTOP)
    tell(program)
    program.wait_line("go on")
    daemon.kill(signal.SIGCONT)
    tell(program)
    assert program.wait_line("") == "after"
    ends_quietly(program)
    assert [one["n"] for one in states(home, "s1")][:2] == [1, 2]


def test_a_session_whose_opening_was_cancelled_can_be_opened_again(home: Home) -> None:
    daemon = home.daemon()
    program = run(
        home,
        """
async def main():
    async with await connect() as client:
        say("stop")
        sys.stdin.readline()
        opening = [asyncio.create_task(client.session(f"s{number}")) for number in range(8)]  # more than it has threads
        await asyncio.sleep(0.05)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        say("go on")
        sys.stdin.readline()
        for number in range(8):
            while True:
                try:
                    async with await client.session(f"s{number}") as session:
                        session["n"] = number
                        await session.flush()
                    break
                except EdiCheckpointError as error:
                    assert error.code == "session_busy", error  # while the cancelled one is being closed

asyncio.run(main())
""",
    )
    program.wait_line("stop")
    daemon.kill(signal.SIGSTOP)
    tell(program)
    program.wait_line("go on")
    daemon.kill(signal.SIGCONT)
    tell(program)
    ends_quietly(program)
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    assert {one["condition"] for one in home.json("sessions")["sessions"]} == {"unfinished"}


def test_closing_that_is_cancelled_closes_all_the_same(home: Home) -> None:
    home.daemon()
    program = run(
        home,
        """
async def cancelled(closing):
    task = asyncio.create_task(closing)
    await asyncio.sleep(0)  # it has begun
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()

async def main():
    client = await connect()
    sessions = [await client.session(f"s{number}") for number in range(30)]
    for session in sessions:
        session["n"] = 1
    for session in sessions[:20]:
        await cancelled(session.close())
    for session in sessions[20:-1]:
        await cancelled(session.end())
    say("closing")
    await told()
    await cancelled(client.close())
    await told()

asyncio.run(main())
""",
    )
    program.wait_line("closing")
    eventually(lambda: {path.name for path in (home.state / "outbox").iterdir()} == {"s29"})
    tell(program)
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    conditions = [row["condition"] for row in home.json("sessions")["sessions"]]
    assert {condition: conditions.count(condition) for condition in set(conditions)} == {"unfinished": 21, "ended": 9}
    tell(program)
    ends_quietly(program)


def test_a_client_outlives_its_loop_and_serves_the_next(home: Home) -> None:
    daemon = home.daemon()
    program = run(
        home,
        """
async def begin():
    client = await connect()
    session = await client.session("s1")
    session["n"] = 1
    await session.checkpoint()
    return client, session

async def leave_waiting(session):
    asyncio.create_task(session.checkpoint("from a loop that is gone", timeout_s=30))
    await asyncio.sleep(0.01)

async def end(client, session):
    session["n"] = 2
    say((await session.checkpoint(timeout_s=20)).reason)
    await client.close()

client, session = asyncio.run(begin())
say("stop")
sys.stdin.readline()
loop = asyncio.new_event_loop()  # closed without cancelling what waits: the worst an app can do
loop.run_until_complete(leave_waiting(session))
left = asyncio.all_tasks(loop)
for task in left:
    task._log_destroy_pending = False
loop.close()
say("go on")
sys.stdin.readline()
asyncio.run(end(client, session))
asyncio.run(asyncio.sleep(0))
""",
    )
    program.wait_line("stop")
    daemon.kill(signal.SIGSTOP)
    tell(program)
    program.wait_line("go on")
    daemon.kill(signal.SIGCONT)
    tell(program)
    assert program.wait_line("") == "manual"
    ends_quietly(program)


@pytest.mark.parametrize("where", ["in the block", "by a cancelled task"])
def test_a_block_that_ends_by_an_exception_leaves_its_session_interrupted(home: Home, where: str) -> None:
    home.daemon()
    program = run(
        home,
        f"""
async def work():
    async with await connect() as client, await client.session("s1") as session:
        session["n"] = 1
        if {where!r} == "in the block":
            raise ValueError("no GPU")
        await asyncio.Event().wait()

async def main():
    task = asyncio.create_task(work())
    await asyncio.wait([task], timeout={None if where == "in the block" else 0.2})
    task.cancel()
    await asyncio.wait([task])
    say(task.cancelled() or repr(task.exception()))

asyncio.run(main())
""",
    )
    assert program.wait_line("") == ("ValueError('no GPU')" if where == "in the block" else "True")
    ends_quietly(program)
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    assert home.json("show", "s1")["condition"] == "interrupted"
