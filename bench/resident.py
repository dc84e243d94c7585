"""A process with clients and sessions, for the figures in `figures/living.py`. `worker.Worker` sends its commands.

It loads only the standard library until a command needs more, so that a client's own share can be measured.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from worker import ACK_TIMEOUT_S, large_state, serve, value_of

UPDATES = 1000


class Resident:
    """The commands of this process, one for each public method."""

    def __init__(self) -> None:
        self._clients: list[object] = []

    def loaded(self) -> dict[str, object]:
        """Import the modules that a client imports."""
        from edi_checkpoint import connect  # noqa: F401

        return {}

    def grown_kib(self, state_bytes: int) -> int:
        """Connect, open a session of `state_bytes` and publish in it.

        Return by how much this process has grown, without its imports.
        """
        from edi_checkpoint import connect

        large_state(state_bytes)
        imported_kib = _memory_kib()
        client = connect(app="bench", autostart=False)
        session = client.session()
        session.update(large_state(state_bytes))
        for number in range(UPDATES):
            session["progress"] = value_of(number)
        session.flush(timeout_s=ACK_TIMEOUT_S)
        self._clients.append(client)
        return _memory_kib() - imported_kib

    def clients(self, count: int) -> dict[str, object]:
        """Connect `count` clients, each with a session of its own."""
        from edi_checkpoint import connect

        for _ in range(count):
            client = connect(app="bench", autostart=False)
            session = client.session()
            session["progress"] = value_of(0)
            session.flush(timeout_s=ACK_TIMEOUT_S)
            self._clients.append(client)
        return {}

    def sessions(self, count: int, state_bytes: int = 0, *, saved: bool = False) -> dict[str, object]:
        """Open `count` sessions of one client, each with a state of `state_bytes`, on request `saved` to files."""
        from edi_checkpoint import connect

        client = connect(app="bench", autostart=False)
        held = [client.session() for _ in range(count)]
        for session in held:
            session.update(large_state(state_bytes) if state_bytes else {"progress": value_of(0)})
            if saved:
                session.flush("checkpointed", timeout_s=ACK_TIMEOUT_S)
        for session in held:
            session.flush(timeout_s=ACK_TIMEOUT_S)
        self._clients.append(client)
        return {"sessions": [session.session_id for session in held]}

    def save(self, session_id: str, state_bytes: int) -> dict[str, object]:
        """Open a session of `state_bytes`, wait for its auto-save, and close it."""
        from edi_checkpoint import connect

        with connect(app="bench", autostart=False) as client, client.session(session_id) as session:
            session.update({**large_state(state_bytes), "session_id": session_id})
            session.flush("checkpointed", timeout_s=ACK_TIMEOUT_S)
        return {}

    def resume(self, session_id: str) -> float:
        """Continue a session as EDI does; return the milliseconds of `load_state` in an unconnected process."""
        from edi_checkpoint import StateManager

        manager = StateManager()
        start_s = time.perf_counter()
        if not manager.load_state(session_id):
            raise RuntimeError(f"session {session_id} cannot be resumed")
        return (time.perf_counter() - start_s) * 1000

    def read(self, path: str) -> float:
        """Read and decode one file as the seed's `load_state` does; return the milliseconds."""
        start_s = time.perf_counter()
        with Path(path).open(encoding="utf-8") as file:
            json.load(file)
        return (time.perf_counter() - start_s) * 1000

    def burst(self, count: int) -> dict[str, object]:
        """Open a session and publish `count` changes without waiting for acknowledgements."""
        from edi_checkpoint import connect

        client = connect(app="bench", autostart=False)
        session = client.session()
        for number in range(count):
            session["progress"] = value_of(number)
        self._clients.append(client)
        return {"session_id": session.session_id}

    def close(self) -> dict[str, object]:
        """Close nothing: the sessions end with the process, as in a crash."""
        return {}


def _memory_kib() -> int:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])


if __name__ == "__main__":
    serve(Resident())
