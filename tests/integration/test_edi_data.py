"""EDI sessions as its own runs tell of them; `EDI_DATA=<folder>` takes other documents of these names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Home, Publisher, eventually

MADE_UP = Path(__file__).parents[1] / "data" / "edi_like"
NAMES = (
    "scene_description_before",
    "scene_description_after",
    "pipeline_result_1",
    "pipeline_result_2",
    "validation_report",
    "wildcard_metrics",
)


def documents(folder: Path) -> dict[str, object]:
    return {name: json.loads((folder / f"{name}.json").read_bytes()) for name in NAMES}


@pytest.fixture(params=["made_up", "EDI_DATA"])
def data(request: pytest.FixtureRequest) -> dict[str, object]:
    if request.param == "made_up":
        return documents(MADE_UP)
    if not os.environ.get("EDI_DATA"):
        pytest.skip("EDI_DATA names no folder with data of EDI's own runs")
    return documents(Path(os.environ["EDI_DATA"]))


def steps(data: dict[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    """The session's stages in order, each with what EDI knows by then."""
    report = data["validation_report"]
    yield "upload", {"image_path": "/pictures/test_image.jpeg", "naive_prompt": report["user_intent"]}
    yield "analysis", {"scene_before": data["scene_description_before"]["image_description"]}
    for attempt, name in enumerate(("pipeline_result_1", "pipeline_result_2"), start=1):
        result = data[name]
        yield "intent", {"attempt": attempt, "intent": result["metadata"]["intent"]}
        timings: dict[str, object] = {}
        for stage, took_s in result["stage_timings"].items():
            timings[stage] = took_s
            yield stage, {"stage_timings": dict(timings)}
        yield "execution", {"pipeline_result": result, "entity_count": result["entity_count"]}
        yield "validation", {"validation": result["validation"], "validation_report": report}
    yield "metrics", {"metrics": data["wildcard_metrics"]}
    yield "done", {"scene_after": data["scene_description_after"]["image_description"], "status": "completed"}


def go_through(home: Home, publisher: Publisher, some: list[tuple[str, dict[str, object]]]) -> None:
    for stage, values in some:
        publisher.do(f"session.transition({stage!r}, reason='entered', **{values!r})")
        eventually(lambda stage=stage: stages(home)[-1:] == [stage])


def stages(home: Home) -> list[str]:
    return [json.loads(path.read_bytes())["stage"] for path in home.checkpoints("edi")]


def state_after(some: list[tuple[str, dict[str, object]]]) -> dict[str, object]:
    state: dict[str, object] = {}
    for stage, values in some:
        state |= {**values, "current_stage": stage}
    return state


def test_a_session_of_edi_is_killed_in_the_middle_and_finished_by_another_process(
    home: Home, data: dict[str, object]
) -> None:
    home.daemon("--transition-quiet-s", "0.01", "--keep-per-session", "100")
    journey = list(steps(data))
    middle = len(journey) // 2
    first = home.publisher("edi")
    go_through(home, first, journey[:middle])
    first.do(f"session.update(answer='the roofs on the left', progress={middle / len(journey)})")
    first.kill()
    eventually(lambda: home.json("show", "edi")["condition"] == "interrupted")
    (row,) = home.json("sessions")["sessions"]
    assert (row["stage"], row["prompt"]) == (journey[middle - 1][0], data["validation_report"]["user_intent"])
    assert row["image"] == "test_image.jpeg"

    second = home.publisher("edi")
    asked = {"answer": "the roofs on the left", "progress": middle / len(journey)}
    assert second.do("dict(session)") == state_after(journey[:middle]) | asked
    go_through(home, second, journey[middle:])
    second.do("session.close()")
    eventually(lambda: not (home.state / "outbox" / "edi").exists())

    final = state_after(journey) | asked
    shown = home.json("show", "edi")
    assert (shown["state_info"], shown["condition"]) == (final, "ended")
    saved = json.loads((home.sessions / "edi.json").read_bytes())
    assert {key: saved[key] for key in final} == final
    documents_kept = [json.loads(path.read_bytes()) for path in home.checkpoints("edi")]
    made = [one for one in documents_kept if one["checkpoint"]["kind"] == "transition"]
    assert [one["stage"] for one in made] == [stage for stage, _ in journey]
    for reached, document in enumerate(made, start=1):
        expected = state_after(journey[:reached]) | (asked if reached > middle else {})
        assert document["state_info"] == expected
        assert document["reason"] == "entered"
    (interrupted,) = [one for one in documents_kept if one["checkpoint"]["kind"] == "interrupted"]
    assert interrupted["state_info"] == state_after(journey[:middle]) | asked
