"""Deletion of checkpoints by plan: the files thread unlinks what the plan drops, and logs the rule of each file.

The plans come from `retention.rules.plan_session` and `retention.plan.plan_cleanup`. A checkpoint that was pinned or
used after the plan was made stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.names import parse_checkpoint_name
from edi_checkpoint.documents.reader import parse_checkpoint
from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.system.safe_open import read_regular
from edi_checkpointd.config import LiveConfig
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.retention.rules import Dropped, Own, plan_session, stored
from edi_checkpointd.system.clock import Clock
from edi_checkpointd.system.worker import Worker

log = logging.getLogger(__name__)

IN_USE_S = 60.0  # how long a rollback, a fork or a copy may need a checkpoint after a client asked for it


@dataclass(slots=True, eq=False)
class InUse:
    """The checkpoints that clients asked for by name within the last minute, for a rollback, a fork or a copy.

    No rule deletes them. Any thread may add one and read the names.
    """

    _clock: Clock
    _until_s: dict[str, float] = field(default_factory=dict, init=False)

    def add(self, name: str) -> None:
        """Keep the checkpoint `name` for the next minute."""
        now_s = self._clock.monotonic_s()
        self._until_s = {known: until_s for known, until_s in self._until_s.items() if until_s > now_s}
        self._until_s[name] = now_s + IN_USE_S

    def names(self) -> set[str]:
        """Return the names of the checkpoints in use."""
        now_s = self._clock.monotonic_s()
        return {name for name, until_s in self._until_s.copy().items() if until_s > now_s}


@dataclass(slots=True, eq=False)
class Deletion:
    """Deletes checkpoints below `_folder`, the sessions folder, in the files thread, and keeps the catalog true."""

    _folder: Path
    _catalog: Catalog
    _in_use: InUse
    _worker: Worker
    _config: LiveConfig

    def keep_within_limits(self, session_id: str, own: Own) -> None:
        """Delete the checkpoints that the plan of a session drops, after the work that is queued already."""
        self._worker.submit(self._keep_within_limits, session_id, own)

    def delete(self, drop: Sequence[Dropped], then: Callable[[], None]) -> None:
        """Delete the checkpoints that a clean-up drops, then have `then` called in the loop's thread."""
        self._worker.submit(self._delete, drop)
        self._worker.submit(self._worker.report, then)

    # -- the files thread --------------------------------------------------------------------------------------------

    def _keep_within_limits(self, session_id: str, own: Own) -> None:
        checkpoints = stored(self._catalog.checkpoints(session_id))
        self._unlink(plan_session(checkpoints, own, self._config.now, self._in_use.names()).drop)

    def _delete(self, drop: Sequence[Dropped]) -> None:
        """Unlink the checkpoints that a clean-up drops, except those pinned or used since.

        When a session's newest checkpoint is damaged, all of its checkpoints stay: an older one has to replace it.
        """
        intact: dict[str, bool] = {}
        for dropped in drop:
            named = parse_checkpoint_name(dropped.name)
            if named is None or dropped.name in self._in_use.names():
                continue
            checkpoints = self._catalog.checkpoints(named.session_id)
            pinned = any(info.name == dropped.name and info.pinned for info in checkpoints)
            if named.session_id not in intact:
                intact[named.session_id] = self._is_intact(checkpoints[-1].name) if checkpoints else False
            if intact[named.session_id] and not pinned and checkpoints[-1].name != dropped.name:
                self._unlink([dropped])

    def _is_intact(self, name: str) -> bool:
        try:
            parse_checkpoint(read_regular(self._folder / name), name)
        except (EdiCheckpointError, OSError) as error:
            log.warning("no checkpoint deleted, the newest cannot be read name=%s: %s", name, error)
            return False
        return True

    def _unlink(self, drop: Sequence[Dropped]) -> None:
        for dropped in drop:
            try:
                (self._folder / dropped.name).unlink(missing_ok=True)
            except OSError as error:
                log.warning("checkpoint not deleted name=%s: %s", dropped.name, error)
                continue
            self._catalog.remove(dropped.name)
            log.info("checkpoint deleted name=%s rule=%s", dropped.name, dropped.rule)
        if drop:
            reached(CrashPoint.CHECKPOINT_EVICTED)
