from __future__ import annotations

from pathlib import Path

from edi_checkpoint.outbox.outbox import Outbox
from edi_checkpointd.system.clock import SystemClock
from edi_checkpointd.writers.liveness import Liveness


class NoPoll:
    """What polls nothing."""

    def watch(self, fd: int, notice: object) -> None:
        pass

    def unwatch(self, fd: int) -> None:
        pass


def liveness(root: Path) -> Liveness:
    return Liveness(root, NoPoll(), SystemClock())


def test_folders_that_a_crash_left_without_a_stream_are_removed_and_others_kept(tmp_path: Path) -> None:
    living = Outbox(tmp_path, "living", app="test")
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o700)
    (empty / ".attach").touch()
    (empty / ".0123.lock").touch()
    liveness(tmp_path).sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["living"]
    assert [files.owner.stream for files in liveness(tmp_path).outboxes()] == [living.stream]
    living.close()


def test_a_living_writers_outbox_is_not_drained(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "s", app="test")
    watcher = liveness(tmp_path)
    assert watcher.begin_drain(watcher.outboxes("s")[0]) is None
    outbox.close()
    drain = watcher.begin_drain(watcher.outboxes("s")[0])
    assert drain is not None
    drain.close()
