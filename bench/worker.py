"""A publisher process: it gets each command as a line of JSON, and answers with a line. `Worker` is the other end.

Times are measured here, in the process in which a user would wait. Floors run here, too, in the same interpreter.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
VALUE_BYTES = 100
ACK_TIMEOUT_S = 10.0
SETTLE_TIMEOUT_S = 40.0  # for a flood to drain
RECORD_BYTES = 165  # of one of `records_of`, about


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


def text_of(size_bytes: int, number: int) -> str:
    """Return a text of `size_bytes` of JSON, another for each number."""
    return str(number).ljust(size_bytes - 2, "x")


def records_of(size_bytes: int, number: int) -> list[dict[str, object]]:
    """Return records as EDI's entities are, without mask and embedding, of about `size_bytes` of JSON."""
    return [
        {
            "id": f"entity_{number}_{index}",
            "label": "a clouded sky above the hills",
            "confidence": 0.25 + index % 97 / 200,
            "bbox": [index % 640, index % 480, index % 640 + 64, index % 480 + 48],
            "color_dominant": "#87ceeb",
            "area_percent": index % 100 / 7,
        }
        for index in range(size_bytes // RECORD_BYTES)
    ]


class Publisher:
    """The commands of this process, one for each public method."""

    def __init__(self) -> None:
        self._number = 0

    def attach(self, state_bytes: int = 0) -> dict[str, object]:
        """Connect to the daemon of this environment, if it runs, and open a session of `state_bytes`."""
        from edi_checkpoint import connect

        self._client = connect(app="bench", autostart=False)
        self._session = self._client.session()
        self._state = large_state(state_bytes) if state_bytes else {"current_stage": "analysis"}
        self._session.update(self._state)
        if self._client.connected:
            self._session.flush(timeout_s=ACK_TIMEOUT_S)
        return {"connected": self._client.connected}

    def attach_in_loop(self) -> dict[str, object]:
        """The same for `publish_in_loop`; `publish` uses the session, too."""
        import asyncio

        from edi_checkpoint import aio

        async def attached() -> tuple[aio.Client, aio.Session]:
            client = await aio.connect(app="bench", autostart=False)
            return client, await client.session()

        client, self._in_loop = asyncio.run(attached())
        self._client = client._client  # to be closed as any other
        return {}

    def bare(self, folder: str, endpoint: str) -> dict[str, object]:
        """Prepare the floors of publishing."""
        from floors import BarePublish, BareWrite

        self._bare = BarePublish(Path(folder), endpoint)
        self._write = BareWrite(Path(folder))
        return {}

    def publish(self, count: int, pace_s: float, *, bare: bool = False) -> list[float]:
        """Publish 100 B `count` times, one each `pace_s`; return the microseconds each call took."""
        publish = self._bare.publish if bare else partial(self._session.__setitem__, "progress")
        return self._paced(publish, self._values(count), pace_s)

    def publish_large(
        self, count: int, pace_s: float, size_bytes: int, *, records: bool, bare: bool = False
    ) -> list[float]:
        """The same with values of another size: a text, or `records` as EDI has them."""
        publish = self._write.publish if bare else partial(self._session.__setitem__, "large")
        made = records_of if records else text_of
        return self._paced(publish, (made(size_bytes, number) for number in range(count)), pace_s)

    def publish_in_loop(self, count: int, pace_s: float) -> list[float]:
        """As `publish`, from a coroutine of a running loop."""
        import asyncio

        async def publish() -> list[float]:
            samples = []
            for value in self._values(count):
                await asyncio.sleep(pace_s)
                start_ns = time.perf_counter_ns()
                self._in_loop["progress"] = value
                samples.append((time.perf_counter_ns() - start_ns) / 1000)
            await self._in_loop.flush(timeout_s=ACK_TIMEOUT_S)
            return samples

        return asyncio.run(publish())

    def _values(self, count: int) -> Iterator[str]:
        for _ in range(count):
            self._number += 1
            yield value_of(self._number)

    def _paced(self, publish: Callable[[object], None], values: Iterator[object], pace_s: float) -> list[float]:
        samples = []
        next_s = time.perf_counter()
        for value in values:
            next_s = max(next_s + pace_s, time.perf_counter())
            time.sleep(max(0.0, next_s - time.perf_counter()))
            start_ns = time.perf_counter_ns()
            publish(value)
            samples.append((time.perf_counter_ns() - start_ns) / 1000)
        return samples

    def settle(self) -> dict[str, object]:
        """Wait until all published updates are acknowledged."""
        self._session.flush(timeout_s=SETTLE_TIMEOUT_S)
        return {}

    def durable(self, start_s: float, stop_s: float, outstanding: int, pause_s: float = 0.0) -> dict[str, object]:
        """Publish with at most `outstanding` unacknowledged entries; return how many were acknowledged in the time.

        With one outstanding, it also returns the microseconds from each call to its acknowledgement. A pause follows
        each.
        """
        session = self._session
        stream = session._stream  # its condition wakes at an acknowledgement; a public call would have to poll
        samples: list[float] = []
        time.sleep(max(0.0, start_s - time.monotonic()))
        before = stream.journaled
        published = stream.outbox.published

        def room() -> bool:
            return published - stream.journaled < outstanding

        while time.monotonic() < stop_s:
            start_ns = time.perf_counter_ns()
            for _ in range(outstanding - (published - stream.journaled)):
                self._number += 1
                session["progress"] = value_of(self._number)
                published += 1
            if not stream.wait_for(room, ACK_TIMEOUT_S):
                raise TimeoutError(f"no acknowledgement within {ACK_TIMEOUT_S} s")
            if outstanding == 1:
                samples.append((time.perf_counter_ns() - start_ns) / 1000)
                time.sleep(pause_s)
        acknowledged = stream.journaled - before
        session.flush(timeout_s=ACK_TIMEOUT_S)
        return {"updates": acknowledged, "us": samples}

    def flood(self, stop_s: float, size_bytes: int) -> int:
        """Publish values of this size as fast as possible; return how many."""
        count = 0
        while time.monotonic() < stop_s:
            self._session["large"] = text_of(size_bytes, count)
            count += 1
        return count

    def files(self, folder: str) -> dict[str, object]:
        """Prepare the floor of a checkpoint, and the seed."""
        from floors import Files
        from seed import SeedStateManager

        self._files = Files(Path(folder))
        self._seed = SeedStateManager("seed", Path(folder), honest=True)
        self._seed.state_data = self._state
        return {}

    def checkpoint(self) -> float:
        """Change one small value and wait for a checkpoint; return the milliseconds of the wait."""
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
        """Make a checkpoint of the same state as the seed does; return the milliseconds."""
        start_s = time.perf_counter()
        self._seed.checkpoint()
        return (time.perf_counter() - start_s) * 1000

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
    """A process that runs the commands of `Publisher`, or of another `program` in this folder."""

    def __init__(self, environment: Mapping[str, str], program: str = "worker.py") -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(program))],
            env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End the process as a crash does."""
        self._process.kill()

    def begin(self, command: str, **arguments: object) -> None:
        """Start a command; `result` waits for its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()

    def result(self, timeout_s: float = TIMEOUT_S) -> Any:
        """Return the running command's result. Raises RuntimeError if it fails or takes too long."""
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
        """Close the session, then end the process. A second call does nothing."""
        if self._process.poll() is None:
            with suppress(OSError, RuntimeError):
                self.ask("close")
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def serve(told: object) -> None:
    """Run the commands from standard input; each line names a method of `told` and its arguments."""
    for line in sys.stdin:
        command, arguments = json.loads(line)
        act: Callable[..., object] = getattr(told, command)
        print(json.dumps(act(**arguments)), flush=True)


if __name__ == "__main__":
    serve(Publisher())
