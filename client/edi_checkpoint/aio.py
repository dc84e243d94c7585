"""The same for asyncio: what waits is a coroutine, the mapping stays plain and publishes at once.

    from edi_checkpoint.aio import connect

    async with await connect() as client, await client.session() as session:
        session.transition("analysis", image_path="roof.jpg")  # as without asyncio: never waits
        await session.checkpoint("workflow_transition")  # of the state as it is at this moment

A `Client` or `Session` here wraps one of `edi_checkpoint`, behaves as it does and raises what it raises. It belongs to
no loop: loops of one process may use it one after the other.

What is published is published in the loop's thread, before any other coroutine runs. Waiting for a checkpoint or a
flush holds no thread: the link settles a future. What may touch the disk or start a daemon goes to threads of our own,
never to asyncio's default executor, which EDI's work may fill. A coroutine that is cancelled only stops waiting: what
it has published stays published, and what it was about to be given is closed again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import edi_checkpoint
from edi_checkpoint.client import Client as PlainClient
from edi_checkpoint.client import connect as plain_connect
from edi_checkpoint.forms import Encoder
from edi_checkpoint.model import CheckpointInfo, Durable, ResumeReport, SessionInfo
from edi_checkpoint.session import Session as PlainSession
from edi_checkpoint.session_core import Level

__all__ = ["Client", "Session", "connect"]

_T = TypeVar("_T")

_THREADS = 4  # a client's questions and openings under way; others wait for these
_PREFIX = "edi-checkpoint-aio"


async def connect(
    *, app: str = "edi", autostart: bool = True, timeout_s: float = 2.0, encoder: Encoder | None = None
) -> Client:
    """Return a client, as `edi_checkpoint.connect` does, without blocking the loop."""
    made = _apart(partial(plain_connect, app=app, autostart=autostart, timeout_s=timeout_s, encoder=encoder))
    return Client(await _given(made, undo=PlainClient.close))


class Client:
    """An `edi_checkpoint.Client` for coroutines. Close it, or use `async with`."""

    def __init__(self, client: PlainClient) -> None:
        """Wrap `client`; see `connect`."""
        self._client = client
        self._threads = _Threads(client)

    async def session(
        self,
        session_id: str | None = None,
        *,
        parent: str | None = None,
        takeover: bool = False,
        encoder: Encoder | None = None,
    ) -> Session:
        """Attach to a session and return it with its newest state; an unknown or no id begins a new one.

        When this is cancelled the session is closed again, as soon as it is open.
        """

        def opened() -> PlainSession:
            session = self._client.session(session_id, parent=parent, takeover=takeover, encoder=encoder)
            session.resume_report()  # which looks at files, once
            return session

        return Session(self._threads, await _given(self._threads.submit(opened), undo=PlainSession.close))

    async def sessions(self, *, condition: str | None = None, limit: int = 100) -> list[SessionInfo]:
        """Return the newest sessions, of one condition or of all."""
        return await self._threads.run(partial(self._client.sessions, condition=condition, limit=limit))

    async def interrupted(self) -> list[SessionInfo]:
        """Return the sessions whose writer died, newest first."""
        return await self._threads.run(self._client.interrupted)

    async def status(self) -> dict[str, object]:
        """Return how the daemon is, as `edi-checkpoint status --json` tells it."""
        return await self._threads.run(self._client.status)

    @property
    def connected(self) -> bool:
        """Whether a daemon is connected just now."""
        return self._client.connected

    async def close(self, timeout_s: float = 2.0) -> None:
        """Close all sessions cleanly, then the connection; waits for acknowledgements at most `timeout_s`."""
        await self._leave(partial(self._client.close, timeout_s))

    async def __aenter__(self) -> Client:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an exception, a cancellation too, the sessions count as interrupted."""
        await self._leave(partial(self._client.__exit__, kind, error, trace))

    async def _leave(self, call: Callable[[], None]) -> None:
        try:
            await _left(call)
        finally:
            self._threads.close()


class _Threads:
    """The threads that a client and its sessions ask questions in."""

    def __init__(self, client: PlainClient) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=_PREFIX)

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Make `call` in a thread; return its future. Raises what `check_usable` of the client raises."""
        self._client.check_usable()  # no thread of the pool lives on in a forked child
        return self._pool.submit(call)

    async def run(self, call: Callable[[], _T]) -> _T:
        """Make `call` in a thread; return what it returns."""
        return await _given(self.submit(call))

    def close(self) -> None:
        """Take no more calls; those under way are not waited for."""
        self._pool.shutdown(wait=False)


class Session(MutableMapping[str, object]):
    """An `edi_checkpoint.Session` for coroutines. Made by `Client.session`; close it, or use `async with`."""

    def __init__(self, threads: _Threads, session: PlainSession) -> None:
        """Wrap `session`, whose client lends its `threads`."""
        self._threads = threads
        self._session = session
        self._core = session.core
        self.session_id = session.session_id
        self.parent_session = session.parent_session

    # -- the mapping: nothing here waits -----------------------------------------------------------------------------

    def __getitem__(self, key: str) -> object:
        """Return a copy of the value of `key`, in the form a restore gives."""
        return self._session[key]

    def __setitem__(self, key: str, value: object) -> None:
        """Publish `key` with `value`."""
        self._session[key] = value

    def __delitem__(self, key: str) -> None:
        """Publish that `key` is gone; raises KeyError when it is not there."""
        del self._session[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys as they are now."""
        return iter(self._session)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._session)

    def __repr__(self) -> str:
        """Name the session and what is durable; no content, which may be private."""
        return repr(self._session)

    def update(self, *args: Any, **fields: object) -> None:
        """Publish several keys as one entry; takes what `dict.update` takes."""
        self._session.update(*args, **fields)

    def pop(self, key: str, *default: object) -> object:
        """Publish that `key` is gone and return its value; without it, `default` or KeyError."""
        return self._session.pop(key, *default)

    def clear(self) -> None:
        """Publish that all keys are gone, as one entry."""
        self._session.clear()

    def transition(self, stage: str, *, reason: str | None = None, **fields: object) -> None:
        """Publish `current_stage` with other keys as one entry; `reason` names the checkpoint it leads to."""
        self._session.transition(stage, reason=reason, **fields)

    def edit(self, key: str) -> contextlib.AbstractContextManager[object]:
        """Give a copy of the value of `key` to change in place; publishes it on exit, not on an exception."""
        return self._session.edit(key)

    @property
    def durable(self) -> Durable:
        """How far this stream's entries have come: published, in the outbox file, acknowledged, in a file."""
        return self._session.durable

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._session.closed

    def resume_report(self) -> ResumeReport:
        """Return what was resumed when this session was opened: from where, how it was left, what is missing."""
        return self._session.resume_report()

    # -- what waits --------------------------------------------------------------------------------------------------

    async def checkpoint(
        self, reason: str = "manual", *, label: str | None = None, pin: bool = False, timeout_s: float = 2.0
    ) -> CheckpointInfo:
        """Ask for a checkpoint of the state as it is now and wait for its file.

        Raises `CheckpointFailed` and `FlushTimeout`, as without asyncio. When this is cancelled the checkpoint is made.
        """
        asked = self._core.ask_checkpoint(reason, label=label, pin=pin)
        await _heard(asked, timeout_s)
        heard = partial(self._core.checkpoint_heard, asked, timeout_s)
        return heard() if asked.done() else await self._threads.run(heard)  # an unheard wish is synced to the disk

    async def flush(self, level: Level = "journaled", *, timeout_s: float = 2.0) -> None:
        """Wait until all that is published is acknowledged (`journaled`) or in the auto-save (`checkpointed`).

        Raises `FlushTimeout` when that is not so within `timeout_s`; nothing is lost by it.
        """
        asked = self._core.ask_flush(level)
        await _heard(asked, timeout_s)
        self._core.flush_heard(asked, level, timeout_s)

    async def checkpoints(self) -> list[CheckpointInfo]:
        """Return the session's checkpoints, oldest first: from the daemon, or from the files when none answers."""
        return await self._threads.run(self._session.checkpoints)

    async def at(self, *, sequence: int | None = None, time: datetime | None = None) -> dict[str, object]:
        """Return the state as it was after the entry `sequence`, or at `time` (naive: local)."""
        return await self._threads.run(partial(self._session.at, sequence=sequence, time=time))

    async def rollback(
        self,
        to: CheckpointInfo | str | None = None,
        *,
        sequence: int | None = None,
        time: datetime | None = None,
        keys: Collection[str] | None = None,
    ) -> CheckpointInfo:
        """Go back to a checkpoint, a sequence or a time; return its `rollback` checkpoint.

        When this is cancelled it may have gone back all the same; the mapping tells.
        """
        back = partial(self._session.rollback, to, sequence=sequence, time=time, keys=keys)
        return await self._threads.run(back)

    async def fork(
        self, to: CheckpointInfo | str | None = None, *, sequence: int | None = None, session_id: str | None = None
    ) -> str:
        """Begin a session of its own with the state of now, of a checkpoint or of a sequence; return its id."""
        return await self._threads.run(partial(self._session.fork, to, sequence=sequence, session_id=session_id))

    async def end(self, status: str | None = None) -> None:
        """Publish EDI's `status` of the finished work and close; by default `completed`, unless it says so already."""
        await _left(partial(self._session.end, status))

    async def close(self, timeout_s: float = 2.0) -> None:
        """Leave cleanly: publish a last mark, wait for the acknowledgement at most `timeout_s`, give up the lock."""
        await _left(partial(self._session.close, timeout_s))

    async def __aenter__(self) -> Session:
        """Return the session itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an exception, a cancellation too, the session counts as interrupted."""
        await _left(partial(self._session.__exit__, kind, error, trace))


async def _left(call: Callable[[], None]) -> None:
    """Make `call`, which closes something, and wait for it; when this is cancelled it is made all the same.

    In a thread of its own: leaving must not queue behind questions that nobody answers.
    """
    leaving = _apart(call)
    await _settled(leaving)
    leaving.result()


def _apart(call: Callable[[], _T]) -> Future[_T]:
    """Make `call` in a thread of its own."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=_PREFIX)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


async def _given(future: Future[_T], undo: Callable[[_T], object] | None = None) -> _T:
    """Return what a thread's `future` gives. When this is cancelled, `undo` gets what nobody takes any more."""
    try:
        await _settled(future)
    except asyncio.CancelledError:
        if not future.cancel() and undo is not None:
            future.add_done_callback(partial(_undo, undo))
        raise
    return future.result()


def _undo(undo: Callable[[_T], object], future: Future[_T]) -> None:
    if future.exception() is None:
        with contextlib.suppress(RuntimeError):  # the interpreter is leaving, and the client with it
            _apart(partial(undo, future.result()))


async def _heard(asked: Future[_T], timeout_s: float) -> None:
    """Wait for what the link tells, at most `timeout_s`. When this is cancelled, nobody is told."""
    try:
        await _settled(asked, timeout_s)
    except asyncio.CancelledError:
        asked.cancel()
        raise


async def _settled(future: Future[_T], timeout_s: float | None = None) -> None:
    """Wait until another thread has settled `future`, at most `timeout_s`.

    Not `asyncio.wrap_future`: that logs an error of a future that settles after its loop was closed.
    """
    loop = asyncio.get_running_loop()
    settled = asyncio.Event()

    def tell(_: Future[_T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settled.set)

    future.add_done_callback(tell)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await settled.wait()


def __getattr__(name: str) -> object:
    """Give what is the same with and without asyncio: errors, rows, `StateManager`."""
    return getattr(edi_checkpoint, name)
