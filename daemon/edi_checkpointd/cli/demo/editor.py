"""The demo's editor: a simulated EDI that takes one picture through all stages and publishes each step.

`python -m edi_checkpointd.cli.demo.editor SESSION` starts the session, or resumes it after the last step that its state
contains. It prints a JSON line per event, which the demo compares with what others read later (`Heard`):

    {"event": "published", "step": <name>, "number": <n>, "digest": <of the content>}   the publishing call has returned
    {"event": "acknowledged", "number": <n>, "digest": <the same>}                      `Session.durable` covers it
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from edi_checkpoint import Session, connect

TYPING_S = 0.1  # between two entries: a quick person, a very quick machine
STAGE_S = 0.3  # pause after a stage; longer than transition_quiet_s, so that the daemon makes a checkpoint
FLUSH_TIMEOUT_S = 10.0


class Step(NamedTuple):
    """One entry: the values to publish (a transition if they have a `current_stage`), and the text for the user."""

    name: str
    values: dict[str, object]
    says: str = ""
    rest_s: float = TYPING_S


CUT_AT = "drawing the third picture"  # the step after which the demo kills this process
AT_STAKE = "the analysis, two typed answers, two pictures"  # the work done by then

_ENTITY = ("id", "label", "confidence", "bbox", "color_dominant", "area_percent", "centroid", "similarity_score")
_ENTITIES: list[dict[str, object]] = [
    dict(zip(_ENTITY, values, strict=True))
    for values in (
        ("sky_0", "sky", 0.97, [0, 0, 1920, 612], "#8fb4d9", 47.2, [958.4, 301.7], 0.31),
        ("lighthouse_0", "lighthouse", 0.94, [1204, 188, 1391, 790], "#e8e2d6", 5.1, [1296.0, 498.3], 0.28),
        ("sea_0", "sea", 0.91, [0, 598, 1920, 1080], "#3d6a86", 38.6, [871.9, 842.5], 0.27),
    )
]
_ANSWERS = ["make the sky stormier, keep the lighthouse", "yes, and the sea a little rougher"]
_PROMPTS = [
    {"positive": "storm clouds over the sea, lighthouse", "negative": "blur, text", "score": 0.58},
    {"positive": "heavy storm front, lit lighthouse, rough sea", "negative": "blur, text, people", "score": 0.74},
    {"positive": "towering storm front, warm lighthouse beam, white caps", "negative": "blur, text, people, boats"},
]
_PICTURES = "/home/ada/pictures"
_JOB = "5f0c2b7e-93a1-4d0e-8a57-1c6be27d9f40"


def _prompts(count: int, last: str = "") -> dict[str, object]:
    prompts: dict[str, object] = {f"iteration_{n}": prompt for n, prompt in enumerate(_PROMPTS[:count])}
    return {**prompts, last: _PROMPTS[-1]} if last else prompts


def _intent(entities: list[str], confidence: float) -> dict[str, object]:
    return {"target_entities": entities, "edit_type": "weather", "confidence": confidence}


STEPS = [
    Step("upload",
         {"current_stage": "upload", "status": "in_progress", "image_path": f"{_PICTURES}/lighthouse.jpg",
          "naive_prompt": "let a storm come up"},
         "lighthouse.jpg, and your wish: 'let a storm come up'", STAGE_S),
    Step("sizing up the picture", {"current_stage": "analysis", "model_configs": {"sam": "vit_h", "clip": "ViT-L/14"}}),
    Step("finding things",
         {"scene_analysis": {"entities": _ENTITIES, "spatial_layout": "sky above sea, lighthouse on the right"}},
         "found sky (47 %), sea (39 %), lighthouse (5 %)", STAGE_S),
    Step("reading the wish", {"current_stage": "intent", "intent": _intent(["sky_0"], 0.62)},
         "change the weather of sky_0; only 62 % sure, so it asks", STAGE_S),
    Step("asking", {"current_stage": "clarification", "clarification": {"questions": 2}}),
    Step("first answer", {"user_feedback": _ANSWERS[:1]}, f"you typed '{_ANSWERS[0]}'"),
    Step("second answer", {"user_feedback": _ANSWERS, "intent": _intent(["sky_0", "sea_0"], 0.93)},
         f"you typed '{_ANSWERS[1]}'", STAGE_S),
    Step("first prompt", {"current_stage": "refinement", "current_iteration": 1, "prompts": {}}),
    Step("first picture", {"prompts": _prompts(1), "prompt_history": ["v1"]}, "iteration 1 of 3 scored 0.58", STAGE_S),
    Step("second prompt", {"current_iteration": 2, "progress": 0}),
    Step("second picture", {"prompts": _prompts(2), "prompt_history": ["v1", "v2"]},
         "iteration 2 of 3 scored 0.74", STAGE_S),
    Step("third prompt", {"current_iteration": 3, "prompts": _prompts(3)}),
    Step("beginning the third picture", {"progress": 20}),
    Step(CUT_AT, {"progress": 40}, "iteration 3 of 3 is being drawn, 40 %"),
    Step("more of the third picture", {"progress": 70}),
    Step("third picture", {"progress": 100, "prompt_history": ["v1", "v2", "v3"]}, "iteration 3 of 3 drawn", STAGE_S),
    Step("approval", {"current_stage": "approval", "prompts": _prompts(3, "final"), "approved": True},
         "you said 'go ahead' to the third prompt", STAGE_S),
    Step("handing over", {"current_stage": "execution", "comfyui": {"job_id": _JOB, "queue": 1}, "progress": 0},
         f"ComfyUI job {_JOB}"),
    Step("rendering", {"progress": 55}),
    Step("rendered", {"edited_image_path": f"{_PICTURES}/lighthouse_edited.png", "progress": 100}, rest_s=STAGE_S),
    Step("validation",
         {"current_stage": "validation", "validation": {"score": 0.87, "delta": {"sky_0": 0.91, "sea_0": 0.79}}},
         "score 0.87, the lighthouse untouched", STAGE_S),
    Step("done", {"status": "completed"}),
]  # fmt: skip


def digest(content: Mapping[str, object]) -> str:
    """Return the digest of an entry's content; equal JSON values have equal digests."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def steps_left(state: Mapping[str, object]) -> list[Step]:
    """Return the steps after the last one whose content is in `state`."""
    done = [n for n, step in enumerate(STEPS, 1) if all(state.get(key) == step.values[key] for key in step.values)]
    return STEPS[done[-1] :] if done else STEPS


def told(name: str) -> str:
    """Return the text that the demo prints for a step, with its stage; most steps have none."""
    stage = ""
    for step in STEPS:
        stage = str(step.values.get("current_stage", stage))
        if step.name == name and step.says:
            return f"{stage:<14} {step.says}"
    return ""


@dataclass
class Heard:
    """What an editor printed: the digests of its entries by number, and the numbers of acknowledged ones."""

    published: dict[int, str] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)

    def note(self, event: Mapping[str, Any]) -> str:
        """Record one printed event; return the step's name if it was published, else an empty text."""
        if event.get("event") == "published":
            self.published[event["number"]] = event["digest"]
            return str(event["step"])
        if event.get("event") == "acknowledged":
            self.acknowledged.add(event["number"])
        return ""


class Found(NamedTuple):
    """How many of the editors' entries were found.

    `missing` counts lost entries that were published but not acknowledged; `unexplained` counts entries that are there
    twice, or were never published.
    """

    acknowledged: int
    recovered: int
    missing: int
    unexplained: int

    @property
    def lost(self) -> int:
        """How many acknowledged entries are lost."""
        return self.acknowledged - self.recovered


def find(runs: Iterable[Heard], held: Sequence[str]) -> Found:
    """Look up each printed entry, in order, in the digests `held` that other processes read afterwards."""
    acknowledged = recovered = published = found = position = 0
    for run in runs:
        for number, content in sorted(run.published.items()):
            there = content in held[position:]
            if there:
                position = held.index(content, position) + 1
            published, found = published + 1, found + there
            if number in run.acknowledged:
                acknowledged, recovered = acknowledged + 1, recovered + there
    return Found(acknowledged, recovered, (published - acknowledged) - (found - recovered), len(held) - found)


def edit(session: Session) -> None:
    """Publish the remaining steps, and print what is published and what is acknowledged."""
    unacknowledged: dict[int, str] = {}
    for step in steps_left(dict(session)):
        # The pid makes all entries different, even if a step is repeated after a loss: each is found, or is not.
        content = {**step.values, "metadata": {"pid": os.getpid(), "step": step.name}}
        promise = digest(content)
        stage = content.pop("current_stage", None)
        if isinstance(stage, str):
            session.transition(stage, reason=step.name, **content)
        else:
            session.update(content)
        unacknowledged[number := session.durable.published] = promise
        _tell("published", step=step.name, number=number, digest=promise)
        time.sleep(step.rest_s)
        _tell_acknowledged(session, unacknowledged)
    session.flush(timeout_s=FLUSH_TIMEOUT_S)
    _tell_acknowledged(session, unacknowledged)


def _tell_acknowledged(session: Session, waiting: dict[int, str]) -> None:
    durable = session.durable.journaled
    for number in [number for number in waiting if number <= durable]:
        _tell("acknowledged", number=number, digest=waiting.pop(number))


def _tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def main() -> int:
    """Edit the session that the command line names."""
    with connect(app="edi (demo)", autostart=False) as client, client.session(sys.argv[1]) as session:
        edit(session)
    return 0


if __name__ == "__main__":
    sys.exit(main())
