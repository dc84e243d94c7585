from __future__ import annotations

from pathlib import Path

from edi_checkpoint.paths import locate
from edi_checkpointd.clock import SystemClock
from edi_checkpointd.feed import Feed
from edi_checkpointd.health import Health
from edi_checkpointd.intake import Intake
from edi_checkpointd.pulse import Pulse
from edi_checkpointd.scheduler import Scheduler


def test_a_look_that_comes_due_while_the_daemon_ends_is_left_to_the_next_one(tmp_path: Path) -> None:
    clock = SystemClock()
    scheduler = Scheduler(clock)
    paths = locate({"EDI_CHECKPOINT_HOME": str(tmp_path)})
    intake = Intake(paths, clock, scheduler, Health(clock, "1"), Pulse(), Feed(clock))
    done: list[object] = []
    intake.post(lambda: intake.answering.aside(lambda: "planned", done.append))
    intake.close()
    scheduler.close()
    assert done == []
