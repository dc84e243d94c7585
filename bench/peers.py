"""Other software doing the same work, in a process that runs commands as `worker.py` does.

Most commands keep at most `outstanding` updates of 100 B under way, from `start_s` to `stop_s`. They return how many
reached the disk, and how long each turn took. The caller encodes the value as JSON, as a publisher does.
"""

from __future__ import annotations

import itertools
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from seed import SeedStateManager
from worker import large_state, serve, value_of

BUSY_S = 30.0  # how long SQLite waits for its lock
_to_json = msgspec.json.Encoder().encode


class Peer:
    """The commands of a peer's process, one for each public method."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def _texts(self, count: int) -> list[bytes]:
        return [_to_json(value_of(number)) for number in itertools.islice(self._numbers, count)]

    def redis_raw(self, path: str, start_s: float, stop_s: float, outstanding: int) -> dict[str, object]:
        """Write to Redis with its plain protocol, filling the window at each reply; no client can be faster."""
        key = b"bench:%d" % os.getpid()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            waiting = 0

            def turn() -> int:
                nonlocal waiting
                commands = [
                    b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(text), text)
                    for text in self._texts(outstanding - waiting)
                ]
                connection.sendall(b"".join(commands))
                data = connection.recv(1 << 16)
                if not data or b"-" in data:
                    raise ConnectionError(f"redis says {data[:80]!r}")
                done = data.count(b"\n")
                waiting = outstanding - done
                return done

            return _turns(turn, start_s, stop_s)

    def redis_py(self, path: str, start_s: float, stop_s: float, outstanding: int) -> dict[str, object]:
        """Write to Redis with its Python client: `set`, or a pipeline as long as the window."""
        import redis

        key = f"bench:{os.getpid()}"
        with redis.Redis(unix_socket_path=path) as client:

            def one() -> int:
                client.set(key, self._texts(1)[0])
                return 1

            def many() -> int:
                pipeline = client.pipeline(transaction=False)
                for text in self._texts(outstanding):
                    pipeline.set(key, text)
                return len(pipeline.execute())

            client.ping()
            return _turns(one if outstanding == 1 else many, start_s, stop_s)

    def sqlite(self, path: str, start_s: float, stop_s: float, outstanding: int) -> dict[str, object]:
        """Write to an SQLite database that other processes also write: one transaction for each window."""
        with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("CREATE TABLE IF NOT EXISTS updates (id INTEGER PRIMARY KEY, session, key, value)")

            def turn() -> int:
                rows = [(os.getpid(), "progress", text) for text in self._texts(outstanding)]
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO updates (session, key, value) VALUES (?, ?, ?)", rows)
                connection.execute("COMMIT")
                return outstanding

            return _turns(turn, start_s, stop_s)

    def langgraph_ready(self, path: str) -> dict[str, object]:
        """Open LangGraph's saver, and return whether it is installed. Its lock lets threads share it."""
        try:
            from langgraph.checkpoint.base import empty_checkpoint
            from langgraph.checkpoint.sqlite import SqliteSaver
        except ImportError:
            return {"installed": False}
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.execute("PRAGMA synchronous=FULL")
        self._saver = SqliteSaver(connection)
        self._saver.setup()
        self._empty_checkpoint = empty_checkpoint
        return {"installed": True}

    def langgraph(self, threads: int, start_s: float, stop_s: float) -> dict[str, object]:
        """Put checkpoints with one changed channel from several threads, each with a thread id of its own."""
        done: list[dict[str, Any]] = []

        def work(name: str) -> None:
            config: Any = {"configurable": {"thread_id": name, "checkpoint_ns": ""}}

            def turn() -> int:
                nonlocal config
                number = next(self._numbers)
                checkpoint = self._empty_checkpoint()
                checkpoint["channel_values"] = {"progress": value_of(number)}
                checkpoint["channel_versions"] = {"progress": number}
                metadata = {"source": "loop", "step": number, "parents": {}}
                config = self._saver.put(config, checkpoint, metadata, {"progress": number})
                return 1

            done.append(_turns(turn, start_s, stop_s))

        workers = [threading.Thread(target=work, args=(f"writer-{index}",)) for index in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return {"updates": sum(one["updates"] for one in done), "us": [us for one in done for us in one["us"]]}

    def seed(
        self, folder: str, start_s: float, stop_s: float, *, honest: bool, state_bytes: int = 0
    ) -> dict[str, object]:
        """Change a value and make a checkpoint as the seed does; `honest`: with fsync."""
        manager = SeedStateManager(f"seed-{os.getpid()}", Path(folder), honest=honest)
        manager.state_data = large_state(state_bytes) if state_bytes else {"current_stage": "analysis"}

        def turn() -> int:
            manager.set_state("progress", value_of(next(self._numbers)))
            manager.checkpoint()
            return 1

        return _turns(turn, start_s, stop_s)

    def slow_syncs(self, folder: str, count: int) -> list[float]:
        """Append 4 kB and `fdatasync`, `count` times; return the milliseconds of each."""
        took_ms = []
        fd = os.open(Path(folder) / f"syncs-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with closing(os.fdopen(fd, "wb", buffering=0)) as file:
            for _ in range(count):
                start_s = time.perf_counter()
                file.write(bytes(4096))
                os.fdatasync(fd)
                took_ms.append((time.perf_counter() - start_s) * 1000)
        return took_ms

    def close(self) -> dict[str, object]:
        return {}


def _turns(turn: Callable[[], int], start_s: float, stop_s: float) -> dict[str, object]:
    """Call a function until `stop_s`; return how many updates reached the disk, and the microseconds of each call."""
    updates, samples = 0, []
    time.sleep(max(0.0, start_s - time.monotonic()))
    while time.monotonic() < stop_s:
        start_ns = time.perf_counter_ns()
        updates += turn()
        samples.append((time.perf_counter_ns() - start_ns) / 1000)
    return {"updates": updates, "us": samples}


if __name__ == "__main__":
    serve(Peer())
