"""A publisher process: `worker.py`, told what to do by a line of JSON, answering by one. `Worker` is its other end.

What is timed is timed here, in the process that a user would be waiting in; floors run here too, in the same
interpreter, between the same neighbours.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
VALUE_BYTES = 100
ACK_TIMEOUT_S = 10.0


def value_of(number: int) -> str:
    """Return a value of `VALUE_BYTES` bytes of JSON text, another for each number."""
    return f"{number:0{VALUE_BYTES - 2}d}"


def large_state(size_bytes: int) -> dict[str, object]:
    """Return a state shaped like EDI's whose indented text has about `size_bytes`, in values of some 100 kB."""

    def entity(number: int) -> dict[str, object]:
        return {
            "id": f"entity_{number}",
            "label": "a clouded sky above the hills",
            "confidence": 0.25 + number % 97 / 200,
            "bbox": [number % 640, number % 480, number % 640 + 64, number % 480 + 48],
            "embedding": [(number * 31 + index * 7) % 1999 / 1999 for index in range(24)],
        }

    state: dict[str, object] = {"current_stage": "analysis", "status": "in_progress"}
    size = 0
    while size < size_bytes:
        entities = [entity(len(state) * 1000 + index) for index in range(75)]
        state[f"scene_{len(state):03d}"] = entities
        size += len(json.dumps({"state_info": {"key": entities}}, indent=2))
    return state


class Publisher:
    """What a worker can be told: each public method is a command."""

    def attach(self, state_bytes: int = 0) -> dict[str, object]:
        """Connect to the daemon of this environment and begin a session of `state_bytes`."""
        from edi_checkpoint import connect

        self._client = connect(app="bench", autostart=False)
        self._session = self._client.session()
        self._state = large_state(state_bytes) if state_bytes else {"current_stage": "analysis"}
        self._session.update(self._state)
        self._session.flush(timeout_s=ACK_TIMEOUT_S)
        self._number = 0
        return {"connected": self._client.connected}

    def bare(self, folder: str, endpoint: str) -> dict[str, object]:
        """Make ready the floor of publishing."""
        from floors import BarePublish

        self._bare = BarePublish(Path(folder), endpoint)
        return {}

    def publish(self, count: int, pace_s: float, *, bare: bool = False) -> list[float]:
        """Publish 100 B `count` times, one each `pace_s`; return the microseconds each call took."""
        publish = self._bare.publish if bare else partial(self._session.__setitem__, "progress")
        samples = []
        next_s = time.perf_counter()
        for _ in range(count):
            next_s = max(next_s + pace_s, time.perf_counter())
            time.sleep(max(0.0, next_s - time.perf_counter()))
            self._number += 1
            value = value_of(self._number)
            start_ns = time.perf_counter_ns()
            publish(value)
            samples.append((time.perf_counter_ns() - start_ns) / 1000)
        if not bare:
            self._session.flush(timeout_s=ACK_TIMEOUT_S)
        return samples

    def durable(self, start_s: float, stop_s: float, outstanding: int) -> dict[str, object]:
        """Publish with at most `outstanding` entries unacknowledged; return how many were acknowledged in the time.

        With one outstanding, also how long each took from the call to the acknowledgement, in microseconds.
        """
        session = self._session
        stream = session._stream  # its condition wakes at an acknowledgement; the public way would be to poll
        samples: list[float] = []
        time.sleep(max(0.0, start_s - time.monotonic()))
        before = session.durable.journaled
        published = session.durable.published

        def room() -> bool:
            return published - session.durable.journaled < outstanding

        while time.monotonic() < stop_s:
            start_ns = time.perf_counter_ns()
            for _ in range(outstanding - (published - session.durable.journaled)):
                self._number += 1
                session["progress"] = value_of(self._number)
                published += 1
            if not stream.wait_for(room, ACK_TIMEOUT_S):
                raise TimeoutError(f"no acknowledgement within {ACK_TIMEOUT_S} s")
            if outstanding == 1:
                samples.append((time.perf_counter_ns() - start_ns) / 1000)
        acknowledged = session.durable.journaled - before
        session.flush(timeout_s=ACK_TIMEOUT_S)
        return {"updates": acknowledged, "us": samples}

    def redis(self, path: str, start_s: float, stop_s: float, outstanding: int) -> dict[str, object]:
        """The same against a Redis server: SET, the reply to which says that it is fsynced."""
        key = b"bench:%d" % os.getpid()
        samples: list[float] = []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            time.sleep(max(0.0, start_s - time.monotonic()))
            waiting = acknowledged = 0
            while time.monotonic() < stop_s:
                start_ns = time.perf_counter_ns()
                commands = []
                for _ in range(outstanding - waiting):
                    self._number += 1
                    value = value_of(self._number).encode()
                    commands.append(
                        b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)
                    )
                connection.sendall(b"".join(commands))
                waiting = outstanding
                data = connection.recv(1 << 16)
                if not data or b"-" in data:
                    raise ConnectionError(f"redis says {data[:80]!r}")
                done = data.count(b"\n")
                acknowledged += done
                waiting -= done
                if outstanding == 1:
                    samples.append((time.perf_counter_ns() - start_ns) / 1000)
        return {"updates": acknowledged, "us": samples}

    def files(self, folder: str) -> dict[str, object]:
        """Make ready the floor of a checkpoint and the seed's way."""
        from floors import Files

        self._files = Files(Path(folder))
        return {}

    def checkpoint(self) -> float:
        """Change one small value and wait for a checkpoint; return the milliseconds of the waiting."""
        self._number += 1
        self._session["progress"] = value_of(self._number)
        start_s = time.perf_counter()
        info = self._session.checkpoint("bench", timeout_s=ACK_TIMEOUT_S)
        took_ms = (time.perf_counter() - start_s) * 1000
        self._newest = info.name
        return took_ms

    def same_bytes(self, sessions: str) -> float:
        """Write the newest checkpoint's bytes durably; return the milliseconds."""
        data = (Path(sessions) / self._newest).read_bytes()
        return self._files.write(data)

    def seed(self) -> float:
        """Make a checkpoint of the same state the seed's way; return the milliseconds."""
        document = {"session_id": "seed", "reason": "bench", "state_info": self._state}
        return self._files.dump(document)

    def keep_checkpointing(self, stop_s: float, every_s: float) -> int:
        """Make a checkpoint after a small change, one each `every_s`; return how many."""
        count = 0
        while (now_s := time.monotonic()) < stop_s:
            self.checkpoint()
            count += 1
            time.sleep(max(0.0, now_s + every_s - time.monotonic()))
        return count

    def close(self) -> dict[str, object]:
        self._client.close()
        return {}


class Worker:
    """A `Publisher` in a process of its own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, command: str, **arguments: object) -> None:
        """Have a command begun; `result` waits for its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()

    def result(self, timeout_s: float = TIMEOUT_S) -> Any:
        """Return what the command under way returns. Raises RuntimeError when it failed or takes too long."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise RuntimeError(f"a publisher did not answer within {timeout_s} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a publisher ended with {self._process.wait()}; see above")
        return json.loads(line)

    def ask(self, command: str, **arguments: object) -> Any:
        self.begin(command, **arguments)
        return self.result()

    def close(self) -> None:
        """Have the session closed, then end the process; a second time does nothing."""
        if self._process.poll() is None:
            with suppress(OSError, RuntimeError):
                self.ask("close")
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def main() -> None:
    publisher = Publisher()
    for line in sys.stdin:
        command, arguments = json.loads(line)
        act: Callable[..., object] = getattr(publisher, command)
        print(json.dumps(act(**arguments)), flush=True)


if __name__ == "__main__":
    main()
