"""How a session ends: by real processes that end in each way, and what is told of them afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from harness import Home, eventually

OPEN = "session = connect().session(sys.argv[1]); session['n'] = 1"
BLOCK = """
with connect() as client, client.session(sys.argv[1]) as session:
    session["n"] = 1
    {}
"""
ASYNC_BLOCK = """
async def main():
    async with await aio.connect() as client, await client.session(sys.argv[1]) as session:
        session["n"] = 1
        {}

asyncio.run(main())
"""
ASYNC_OPEN = """
async def main():
    session = await (await aio.connect()).session(sys.argv[1])
    session["n"] = 1
    {}

asyncio.run(main())
"""
IN_THREAD = """
def work():
    {}

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
FORK = """
if os.fork() == 0:
    {}
os.wait()
"""
TEXTUAL = """
from textual.app import App

class Edi(App):
    def on_mount(self):
        self.set_timer(0.01, self.next)

    def next(self):
        {}

async def main():
    async with await aio.connect() as client, await client.session(sys.argv[1]) as session:
        session["n"] = 1
        app = Edi()
        await app.run_async(headless=True)  # it tells of a crash by its return code alone
        sys.exit(app.return_code)

asyncio.run(main())
"""

# program, exit code, condition
ENDINGS = {
    "the program ends": (OPEN, 0, "unfinished"),
    "the block ends": (BLOCK.format("pass"), 0, "unfinished"),
    "the block ends for good": (BLOCK.format("session.end()"), 0, "ended"),
    "an exception": (f"{OPEN}; raise RuntimeError('no GPU')", 1, "interrupted"),
    "an exception in the block": (BLOCK.format("raise RuntimeError('no GPU')"), 1, "interrupted"),
    "an exception in the block, seen to outside": (
        "try:" + BLOCK.format("raise RuntimeError('no GPU')").replace("\n", "\n    ") + "\nexcept RuntimeError: pass",
        0,
        "interrupted",
    ),
    "an exception that was seen to": (OPEN + "\ntry: 1 / 0\nexcept ZeroDivisionError: pass", 0, "unfinished"),
    "an exception under an excepthook": (
        f"sys.excepthook = lambda *_: None; {OPEN}; raise RuntimeError('no GPU')", 1, "interrupted"
    ),
    "an exception in a thread": (OPEN + IN_THREAD.format("1 / 0"), 0, "unfinished"),
    "sys.exit()": (f"{OPEN}; sys.exit()", 0, "unfinished"),
    "sys.exit() in the block": (BLOCK.format("sys.exit()"), 0, "unfinished"),
    "sys.exit(3) in the block": (BLOCK.format("sys.exit(3)"), 3, "interrupted"),
    "os._exit()": (f"{OPEN}; os._exit(0)", 0, "interrupted"),
    "os._exit() in the block": (BLOCK.format("os._exit(0)"), 0, "interrupted"),
    "another program in its place": (f"{OPEN}; os.execv('/bin/true', ['true'])", 0, "interrupted"),
    "a crash": (f"{OPEN}; os.abort()", -signal.SIGABRT, "interrupted"),
    "a fork's child that ends": (OPEN + FORK.format("sys.exit()"), 0, "unfinished"),
    "a fork's child that fails": (OPEN + FORK.format("os.abort()"), 0, "unfinished"),
    "asyncio: the block ends": (ASYNC_BLOCK.format("pass"), 0, "unfinished"),
    "asyncio: the block ends for good": (ASYNC_BLOCK.format("await session.end('failed')"), 0, "ended"),
    "asyncio: the program ends": (ASYNC_OPEN.format("pass"), 0, "unfinished"),
    "asyncio: an exception in the block": (ASYNC_BLOCK.format("raise RuntimeError('no GPU')"), 1, "interrupted"),
    "asyncio: an exception": (ASYNC_OPEN.format("raise RuntimeError('no GPU')"), 1, "interrupted"),
    "asyncio: sys.exit() in the block": (ASYNC_BLOCK.format("sys.exit()"), 0, "unfinished"),
    "asyncio: a task cancelled in the block": (
        ASYNC_BLOCK.format("asyncio.current_task().cancel(); await asyncio.sleep(1)"), 1, "interrupted"
    ),
    "textual: the app ends": (TEXTUAL.format("self.exit()"), 0, "unfinished"),
    "textual: the app crashes": (TEXTUAL.format("raise RuntimeError('no GPU')"), 1, "interrupted"),
}  # fmt: skip
IMPORTS = "import asyncio, os, sys, threading; from edi_checkpoint import aio, connect\n"

# signal, program before it, condition
SIGNALS = {
    "SIGKILL": (signal.SIGKILL, "", "interrupted"),
    "SIGHUP": (signal.SIGHUP, "", "interrupted"),
    "SIGTERM": (signal.SIGTERM, "", "interrupted"),
    "SIGINT": (signal.SIGINT, "", "interrupted"),
    "SIGINT in asyncio": (signal.SIGINT, "", "interrupted"),
    "SIGTERM, seen to by sys.exit()": (
        signal.SIGTERM, "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit());", "unfinished"
    ),
}  # fmt: skip
SAYS = "print('waits', flush=True)"
WAITS = f"{SAYS}; sys.stdin.readline()"


@dataclass(frozen=True)
class Told:
    """What was seen from outside: exit codes, what the programs wrote on stderr, and the sessions' conditions."""

    codes: dict[str, int]
    stderr: dict[str, list[str]]
    conditions: dict[str, str]


LATER = ["with a daemon that comes later"] if os.environ.get("EDI_TEST_FULL") else []


@pytest.fixture(scope="module", params=["with a daemon", *LATER])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """All of them at once, with one daemon: each alone would cost a minute in all."""
    home = Home(tmp_path_factory.mktemp("endings") / "h")
    try:
        if request.param == "with a daemon":
            home.daemon()
        ids = {name: f"s{number}" for number, name in enumerate([*ENDINGS, *SIGNALS])}
        programs = {name: home.python(IMPORTS + code, ids[name]) for name, (code, _, _) in ENDINGS.items()}
        for name, (_, before, _) in SIGNALS.items():
            waits = ASYNC_BLOCK.format(f"{SAYS}; await asyncio.sleep(60)") if "asyncio" in name else f"{OPEN}; {WAITS}"
            programs[name] = home.python(f"{IMPORTS}{before}\n{waits}", ids[name])
        for name, (number, _, _) in SIGNALS.items():
            programs[name].wait_line("waits", 60)
            programs[name].popen.send_signal(number)
        codes = {name: program.wait(60) for name, program in programs.items()}
        if request.param != "with a daemon":
            home.daemon()
        eventually(lambda: not any((home.state / "outbox").iterdir()), 30)
        rows = {row["session_id"]: row["condition"] for row in home.json("sessions")["sessions"]}
        yield Told(
            codes,
            {name: program.stderr for name, program in programs.items()},
            {name: rows[session_id] for name, session_id in ids.items()},
        )
    finally:
        home.close()


@pytest.mark.parametrize("how", ENDINGS)
def test_each_way_to_end_leaves_the_session_in_its_condition(told: Told, how: str) -> None:
    _, code, condition = ENDINGS[how]
    assert (told.codes[how], told.conditions[how]) == (code, condition), told.stderr[how]


@pytest.mark.parametrize("how", SIGNALS)
def test_each_signal_leaves_the_session_in_its_condition(told: Told, how: str) -> None:
    assert told.conditions[how] == SIGNALS[how][2], (told.codes[how], told.stderr[how])


LATE = """
import threading, time
client = connect()
session = client.session(sys.argv[1])
begun = threading.Event()

def work():
    number = 0
    while True:
        number += 1
        session["n"] = number
        {call}
        begun.set()

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
begun.wait()
"""


def test_publishing_while_the_interpreter_shuts_down_neither_hangs_nor_prints(home: Home) -> None:
    home.daemon("--transition-keys", "attempt")
    calls = ["pass", "pass", "session.checkpoint(timeout_s=5)", "session.flush()"]
    programs = [home.python(IMPORTS + LATE.format(call=call), f"s{number}") for number, call in enumerate(calls)]
    begun_s = time.monotonic()
    assert [(program.wait(), program.stderr, program.stdout) for program in programs] == [(0, [], [])] * len(calls)
    assert time.monotonic() - begun_s < 15
    eventually(lambda: not any((home.state / "outbox").iterdir()))
    assert {row["condition"] for row in home.json("sessions")["sessions"]} == {"unfinished"}


def test_a_session_that_is_closed_says_so_to_threads_while_the_program_runs_on(home: Home) -> None:
    told = home.python(
        IMPORTS
        + """
session = connect().session("s1")
session.close()
told = []

def work():
    try:
        session["n"] = 1
    except Exception as error:
        told.append(error.code)

thread = threading.Thread(target=work, daemon=True)
thread.start()
thread.join()
print(told)
"""
    )
    assert told.wait() == 0
    assert told.stdout == ["['session_closed']"]
