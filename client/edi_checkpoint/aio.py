"""The same names for asyncio: a method that waits is a coroutine, the mapping stays plain.

`edi_checkpoint.aio` has `connect`, `Client` and `Session`, each a wrapper of the name in `edi_checkpoint` with the same
arguments, results and errors. Errors, records and `StateManager` can be imported from it too.

A call that publishes is no coroutine: it returns at once, before any other coroutine runs. Waiting for a checkpoint or
a flush holds no thread. A call that reads files or starts a daemon runs in a thread of this package. It never runs in
asyncio's default executor, which the app's work may fill.

A coroutine that is cancelled only stops waiting. What it has published stays published, and a client or session that it
was opening is closed again. `async with` leaves its sessions as interrupted after a cancellation too.

A client belongs to no event loop: loops of one process may use it one after the other.

Example:
    import asyncio

    from edi_checkpoint.aio import connect


    async def main() -> None:
        async with await connect() as client, await client.session() as session:
            session.transition("analysis", image_path="/pictures/roof.jpg")  # as without asyncio: never waits
            info = await session.checkpoint("workflow_transition")  # of the state as it is at this moment
            print(info.reason)  # workflow_transition


    asyncio.run(main())
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar

import edi_checkpoint
from edi_checkpoint.client import Client as PlainClient
from edi_checkpoint.client import connect as plain_connect
from edi_checkpoint.model import CheckpointInfo, Durable, ResumeReport, SessionInfo
from edi_checkpoint.session.session import Session as PlainSession
from edi_checkpoint.values.normalise import Encoder

__all__ = ["Client", "Session", "connect"]

_T = TypeVar("_T")

_THREADS = 4  # of one client; further questions and openings wait until a thread is free
_PREFIX = "edi-checkpoint-aio"


async def connect(
    *, app: str = "edi", autostart: bool = True, timeout_s: float = 2.0, encoder: Encoder | None = None
) -> Client:
    """Return a client, as `edi_checkpoint.connect` does, without blocking the event loop."""
    made = _in_own_thread(partial(plain_connect, app=app, autostart=autostart, timeout_s=timeout_s, encoder=encoder))
    return Client(await _result_of(made, undo=PlainClient.close))


class Client:
    """An `edi_checkpoint.Client` for coroutines. Close it, or use `async with`."""

    def __init__(self, client: PlainClient) -> None:
        """Wrap `client`.

        Internal: `connect` makes clients.
        """
        self._client = client
        self._threads = _Threads(client)

    async def session(
        self, session_id: str | None = None, *,
        parent: str | None = None, takeover: bool = False, encoder: Encoder | None = None,
    ) -> Session:  # fmt: skip
        """Open a session and return it with its newest state. It also checks the files that the state names.

        When this is cancelled, the session is closed again as soon as it is open.
        """

        def open_session() -> PlainSession:
            session = self._client.session(session_id, parent=parent, takeover=takeover, encoder=encoder)
            session.resume_report()  # the first call checks the files, so it must not run in the event loop
            return session

        return Session(self._threads, await _result_of(self._threads.submit(open_session), undo=PlainSession.close))

    async def sessions(self, *, condition: str | None = None, limit: int = 100) -> list[SessionInfo]:
        """Return the newest sessions, newest first."""
        return await self._threads.run(partial(self._client.sessions, condition=condition, limit=limit))

    async def interrupted(self) -> list[SessionInfo]:
        """Return the sessions whose writer died or left with an exception, newest first."""
        return await self._threads.run(self._client.interrupted)

    async def status(self) -> dict[str, object]:
        """Return whether all work is safe, and what is wrong."""
        return await self._threads.run(self._client.status)

    @property
    def connected(self) -> bool:
        """Whether a daemon is connected now."""
        return self._client.connected

    async def close(self, timeout_s: float = 2.0) -> None:
        """Close all sessions of this client cleanly, then the connection.

        When this is cancelled, they are closed all the same.
        """
        await self._leave(partial(self._client.close, timeout_s))

    async def __aenter__(self) -> Client:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client; after an exception or a cancellation its sessions count as interrupted."""
        await self._leave(partial(self._client.__exit__, kind, error, trace))

    async def _leave(self, call: Callable[[], None]) -> None:
        try:
            await _close(call)
        finally:
            self._threads.close()


class _Threads:
    """The threads in which a client and its sessions make calls that wait."""

    def __init__(self, client: PlainClient) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=_PREFIX)

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Run `call` in a thread and return its future. Raises as `Client.check_usable`."""
        self._client.check_usable()  # a forked child has no thread of the pool
        return self._pool.submit(call)

    async def run(self, call: Callable[[], _T]) -> _T:
        """Run `call` in a thread and return its result."""
        return await _result_of(self.submit(call))

    def close(self) -> None:
        """Refuse further calls; do not wait for running ones."""
        self._pool.shutdown(wait=False)


class Session(MutableMapping[str, object]):
    """An `edi_checkpoint.Session` for coroutines. `Client.session` makes it; close it, or use `async with`."""

    def __init__(self, threads: _Threads, session: PlainSession) -> None:
        """Wrap `session`; `threads` are the client's.

        Internal: `Client.session` makes sessions.
        """
        self._threads = threads
        self._session = session
        self._core = session.core
        self.session_id = session.session_id
        self.parent_session = session.parent_session

    # -- the mapping: no call waits ------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> object:
        """Return a copy of the value of `key`, in the form that a restore gives."""
        return self._session[key]

    def __setitem__(self, key: str, value: object) -> None:
        """Publish `key` with `value`, as one entry."""
        self._session[key] = value

    def __delitem__(self, key: str) -> None:
        """Delete `key`, as one entry; raises KeyError when it is not there."""
        del self._session[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys as they are now."""
        return iter(self._session)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._session)

    def __repr__(self) -> str:
        """Return the id, the number of keys and what is durable, without values."""
        return repr(self._session)

    def update(self, *args: Any, **fields: object) -> None:
        """Set several keys as one entry."""
        self._session.update(*args, **fields)

    def pop(self, key: str, *default: object) -> object:
        """Delete `key` as one entry and return its value; without the key return `default`."""
        return self._session.pop(key, *default)

    def clear(self) -> None:
        """Delete all keys, as one entry."""
        self._session.clear()

    def transition(self, stage: str, *, reason: str | None = None, **fields: object) -> None:
        """Set `current_stage` and other keys as one entry. The daemon makes a checkpoint of it soon after."""
        self._session.transition(stage, reason=reason, **fields)

    def edit(self, key: str) -> contextlib.AbstractContextManager[object]:
        """Give a copy of the value of `key` to change in a `with` block, and publish it when the block ends."""
        return self._session.edit(key)

    @property
    def durable(self) -> Durable:
        """How far the entries of this writer are."""
        return self._session.durable

    @property
    def closed(self) -> bool:
        """Whether the session was closed."""
        return self._session.closed

    def resume_report(self) -> ResumeReport:
        """Return what happened to the session before it was opened here. The files were checked then."""
        return self._session.resume_report()

    # -- calls that wait ---------------------------------------------------------------------------------------------

    async def checkpoint(
        self, reason: str = "manual", *, label: str | None = None, pin: bool = False, timeout_s: float = 2.0
    ) -> CheckpointInfo:
        """Make a checkpoint of the state as it is at the call, wait for its file, and return its row.

        When this is cancelled, the checkpoint is made all the same.
        """
        asked = self._core.publication.ask_checkpoint(reason, label, pin=pin)
        await _wait_for(asked, timeout_s)
        finish = partial(self._core.finish_checkpoint, asked, timeout_s)
        return finish() if asked.done() else await self._threads.run(finish)  # without an answer it syncs to the disk

    async def flush(self, level: Literal["journaled", "checkpointed"] = "journaled", *, timeout_s: float = 2.0) -> None:
        """Wait until everything published so far is safe."""
        asked = self._core.ask_flush(level)
        await _wait_for(asked, timeout_s)
        self._core.finish_flush(asked, level, timeout_s)

    async def checkpoints(self) -> list[CheckpointInfo]:
        """Return the session's checkpoints, oldest first."""
        return await self._threads.run(self._session.checkpoints)

    async def at(self, *, sequence: int | None = None, time: datetime | None = None) -> dict[str, object]:
        """Return the state as it was after the entry `sequence`, or at `time`."""
        return await self._threads.run(partial(self._session.at, sequence=sequence, time=time))

    async def rollback(
        self, to: CheckpointInfo | str | None = None, *,
        sequence: int | None = None, time: datetime | None = None, keys: Collection[str] | None = None,
    ) -> CheckpointInfo:  # fmt: skip
        """Go back to a checkpoint, an entry or a time; return the row of the `rollback` checkpoint.

        When this is cancelled, it may have gone back all the same; the mapping shows which state it has.
        """
        return await self._threads.run(partial(self._session.rollback, to, sequence=sequence, time=time, keys=keys))

    async def fork(
        self, to: CheckpointInfo | str | None = None, *, sequence: int | None = None, session_id: str | None = None
    ) -> str:
        """Make a new session with the state of now, of a checkpoint or of an entry; return its id."""
        return await self._threads.run(partial(self._session.fork, to, sequence=sequence, session_id=session_id))

    async def end(self, status: str | None = None) -> None:
        """Set `status` and close: the work is finished. When this is cancelled, it is done all the same."""
        await _close(partial(self._session.end, status))

    async def close(self, timeout_s: float = 2.0) -> None:
        """Close the session cleanly. When this is cancelled, it is closed all the same."""
        await _close(partial(self._session.close, timeout_s))

    async def __aenter__(self) -> Session:
        """Return the session itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session; after an exception or a cancellation it counts as interrupted."""
        await _close(partial(self._session.__exit__, kind, error, trace))


async def _close(call: Callable[[], None]) -> None:
    """Run `call`, which closes something, and wait for it. A cancellation does not stop the call.

    It runs in a thread of its own, so that closing does not queue behind questions without an answer.
    """
    closing = _in_own_thread(call)
    await _wait_until_done(closing)
    closing.result()


def _in_own_thread(call: Callable[[], _T]) -> Future[_T]:
    """Run `call` in a thread of its own and return its future."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=_PREFIX)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


async def _result_of(future: Future[_T], undo: Callable[[_T], object] | None = None) -> _T:
    """Wait for `future` and return its result. After a cancellation call `undo` with the result."""
    try:
        await _wait_until_done(future)
    except asyncio.CancelledError:
        if not future.cancel() and undo is not None:
            future.add_done_callback(partial(_undo, undo))
        raise
    return future.result()


def _undo(undo: Callable[[_T], object], future: Future[_T]) -> None:
    if future.exception() is None:
        with contextlib.suppress(RuntimeError):  # the interpreter exits, which closes the client
            _in_own_thread(partial(undo, future.result()))


async def _wait_for(asked: Future[_T], timeout_s: float) -> None:
    """Wait for the daemon's answer, at most `timeout_s`. A cancellation cancels the request."""
    try:
        await _wait_until_done(asked, timeout_s)
    except asyncio.CancelledError:
        asked.cancel()
        raise


async def _wait_until_done(future: Future[_T], timeout_s: float | None = None) -> None:
    """Wait until another thread has finished `future`, at most `timeout_s`.

    It does not use `asyncio.wrap_future`, which logs an error if the future finishes after its loop was closed.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def notify(_: Future[_T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(done.set)

    future.add_done_callback(notify)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await done.wait()


def __getattr__(name: str) -> object:
    """Return the names that are the same with and without asyncio: errors, records, `StateManager`."""
    return getattr(edi_checkpoint, name)
