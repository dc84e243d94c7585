"""An app like EDI, driven by Textual's pilot, that measures how late its event loop wakes: `textual_app.py SESSION`.

Without a SESSION it is the control: it saves nothing and does not import edi-checkpoint. For each line on stdin (a
phase's name, and a number of stages) it does a phase of work and prints its figures as one line of JSON. The phase
`opening` opens another session with another client. The app ends at an empty line.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, MutableMapping, Sequence

from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Input, Log, ProgressBar, Static

STAGES = ("upload", "analysis", "intent", "clarification", "refinement", "approval", "execution", "validation")
TICK_S = 0.03  # of the progress bar; the app is idle half of the time, and then the pilot presses a key
SLEEP_S = 0.002  # the sleep of the measuring task
SCENE = {"entities": [{"id": f"sky_{n}", "bbox": [n, 0, 9, 9], "embedding": [n / 7] * 64} for n in range(20)]}


class Plain(dict):
    """The control's session: the same calls on a dictionary."""

    def transition(self, stage: str, **fields: object) -> None:
        self.update(fields, current_stage=stage)

    async def checkpoint(self, reason: str, *, timeout_s: float) -> None:
        """Wait for nothing."""


class Edi(App[None]):
    """The app: stages, a progress bar, typed prompts, and a checkpoint after each stage."""

    def __init__(self, session: MutableMapping[str, object]) -> None:
        super().__init__()
        self.session = session
        self.outcomes: dict[str, int] = {}
        self.bar = ProgressBar(total=10_000)

    def compose(self) -> ComposeResult:
        yield Static("upload", id="stage")
        yield Input(id="prompt")
        yield self.bar
        yield Log()

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self.set_interval(TICK_S, self.count)

    def count(self) -> None:
        self.session["progress"] = self.session.get("progress", 0) + 1
        self.bar.advance(1)  # kept here, since the timer may fire while the screen is being cleared

    def on_input_changed(self, event: Input.Changed) -> None:
        self.session["naive_prompt"] = event.value

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.session.update(prompts={"iteration_0": {"positive": event.value}})
        event.input.clear()

    def enter(self, stage: str) -> None:
        self.session.transition(stage, image_path="/pictures/lighthouse.jpg", scene_analysis=SCENE)
        self.query_one("#stage", Static).update(stage)
        self.run_worker(self.remember(stage))

    async def remember(self, stage: str) -> None:
        try:
            await self.session.checkpoint(f"{stage} done", timeout_s=0.2)
            outcome = "made"
        except TimeoutError:
            outcome = "follows"
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.query_one(Log).write_line(f"{stage}: {outcome}")


@contextlib.asynccontextmanager
async def opened(session_id: str) -> AsyncIterator[MutableMapping[str, object]]:
    if not session_id:
        yield Plain()
        return
    from edi_checkpoint.aio import connect

    async with await connect() as client, await client.session(session_id) as session:
        yield session


class Stalls:
    """Measures again and again how late the loop wakes a task: this long it was blocked.

    The machine is shared. So `max_ms` and `p99.9_ms` do not include the time in which other processes ran although
    this thread was ready, by the kernel's account. `wall_ms` is the longest delay with that time.
    """

    def __init__(self) -> None:
        self._queued = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        self.found_s: list[tuple[float, float]] = []

    def _queued_s(self) -> float:
        return int(os.pread(self._queued, 100, 0).split()[1]) / 1e9

    async def measure(self) -> None:
        while True:
            asked_s, queued_s = time.perf_counter() + SLEEP_S, self._queued_s()
            await asyncio.sleep(SLEEP_S)
            late_s = time.perf_counter() - asked_s
            self.found_s.append((max(0.0, late_s - (self._queued_s() - queued_s)), late_s))

    def figures(self) -> dict[str, float]:
        ordered = sorted(held_s for held_s, _ in self.found_s)
        shown = {"max_ms": ordered[-1], "p99.9_ms": ordered[int(len(ordered) * 0.999)]}
        shown["wall_ms"] = max(late_s for _, late_s in self.found_s)
        self.found_s.clear()
        return {"samples": len(ordered), **{name: round(figure * 1000, 2) for name, figure in shown.items()}}


async def work(app: Edi, pilot: Pilot[None], stages: Sequence[str]) -> None:
    for stage in stages:
        app.enter(stage)
        await pilot.press(stage[0], "enter")
        if stage == stages[len(stages) // 2]:
            print("middle", flush=True)
    await asyncio.sleep(0.25)  # until the last checkpoint is reported, or has failed


async def main(session_id: str) -> None:
    stalls = Stalls()
    async with opened(session_id) as session:
        app = Edi(session)
        async with app.run_test() as pilot:
            await pilot.pause()
            gc.freeze()  # a full collection of Textual's objects blocks the loop for 20 to 40 ms, also in the control
            print("ready", flush=True)
            while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
                phase, _, count = line.rpartition(" ")
                app.outcomes.clear()
                measuring = asyncio.create_task(stalls.measure())
                if phase == "opening":
                    print("middle", flush=True)
                    async with opened(f"{session_id}-{time.monotonic_ns()}") as other:
                        other["n"] = 1
                else:
                    await work(app, pilot, STAGES[: int(count)])
                await asyncio.sleep(2 * SLEEP_S)  # so that the last delay is recorded, too
                measuring.cancel()
                print(json.dumps({"phase": phase, **stalls.figures(), **app.outcomes}), flush=True)


asyncio.run(main(sys.argv[1] if sys.argv[1:] else ""))
