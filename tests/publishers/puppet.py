"""A publisher that does what its stdin says: `puppet.py SESSION [OPTION=VALUE …]`.

Each line is Python, run with `client`, `session` and `publish` at hand. Its answer is one line on stdout: `= ` and the
JSON of its value, or `! ` and the JSON of code, message and what else the error carries.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque

import edi_checkpoint
from edi_checkpoint import EdiCheckpointError, StateManager, connect

published = acknowledged_here = 0
waiting: deque[tuple[int, int]] = deque()  # published and not yet told to be acknowledged: its number, and ours


def say(line: str) -> None:
    print(line, flush=True)


def publish(
    count: int, *, pause_s: float = 0.0, padding: int = 0, tell: bool = False, each: int = 20, **fields: object
) -> int:
    """Publish `count` entries more, numbered from 1 in `n` and `current_stage`; tell of acknowledgements.

    That is told at `each` of them more: the stream's number, and how many of ours are up to there. With `tell` each
    call that has returned is told of, too.
    """
    global published, acknowledged_here
    told = session.durable.journaled
    for _ in range(count):
        published += 1
        if padding:
            fields["padding"] = f"{published:0{padding}}"
        session.update(n=published, current_stage=str(published), **fields)
        if tell:
            say(f"published {published}")
        waiting.append((session.durable.published, published))  # a base of the link's may have come after it
        acknowledged = session.durable.journaled
        if acknowledged >= told + each:
            told = acknowledged
            while waiting and waiting[0][0] <= acknowledged:
                _, acknowledged_here = waiting.popleft()
            say(f"acked {acknowledged} {acknowledged_here}")
        if pause_s:
            time.sleep(pause_s)
    return published


def timed(count: int) -> dict[str, float]:
    """Call `manager.set_state` `count` times, numbered as `publish` does; return how long the calls took."""
    global published
    took_ns = []
    manager = names["manager"]
    for _ in range(count):
        published += 1
        begun_ns = time.perf_counter_ns()
        manager.set_state(n=published, current_stage=str(published), prompt="a hundred bytes of state " * 3)
        took_ns.append(time.perf_counter_ns() - begun_ns)
    took_ns.sort()
    return {f"p{part}_us": took_ns[int(count * part / 100) - 1] / 1000 for part in (50, 99, 99.9, 100)}


def plain(value: object) -> object:
    """What JSON has no form for is told by its fields, or its text."""
    fields = getattr(value, "__struct_fields__", None)
    return str(value) if fields is None else {name: getattr(value, name) for name in fields}


def obey(line: str, names: dict[str, object]) -> str:
    try:
        code = compile(line, "<stdin>", "eval")
    except SyntaxError:
        exec(compile(line, "<stdin>", "exec"), names)
        return "= null"
    return "= " + json.dumps(eval(code, names), default=plain)


client = connect(app="puppet")
names: dict[str, object] = {
    "client": client, "publish": publish, "timed": timed, "say": say, "os": os, "time": time,
    "StateManager": StateManager, "edi_checkpoint": edi_checkpoint,
}  # fmt: skip
if sys.argv[1:]:
    session = names["session"] = client.session(sys.argv[1])
say(f"attached {os.getpid()}")
for line in sys.stdin:
    try:
        answer = obey(line.strip(), names)
    except (EdiCheckpointError, OSError, ValueError, LookupError) as error:
        told = {"type": type(error).__name__, "code": getattr(error, "code", ""), "message": str(error)}
        answer = "! " + json.dumps(told | {"pid": getattr(error, "pid", None)})
    say(answer)
