"""The inventory: the facts of each session, and the plan of a clean-up, read from files, journal and outboxes.

The daemon and the command without a daemon call the same functions.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from edi_checkpoint.documents import trash
from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.errors import NotFound
from edi_checkpoint.home.sizes import documents_bytes
from edi_checkpoint.model import NOT_OURS
from edi_checkpoint.outbox.survey import survey_all
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.times import EPOCH, from_us, to_us
from edi_checkpoint.wire import messages
from edi_checkpointd.config import Config, LiveConfig
from edi_checkpointd.journal import Reader, named_damage
from edi_checkpointd.retention.deletion import InUse
from edi_checkpointd.retention.explain import why
from edi_checkpointd.retention.plan import Cleanup, Departure, KeptSession, SessionFacts, SetAside, plan_cleanup
from edi_checkpointd.retention.rules import Dropped, Kept, Own, stored
from edi_checkpointd.sessions.queries import Queries
from edi_checkpointd.system.clock import Clock, Jumps

_SET_ASIDE = re.compile(r"(journal\.sqlite.*|frame-.*\.bin|.*\.(seg|json))(\.[0-9]+)?")


class Inventory(NamedTuple):
    """The facts of all sessions outside the trash, and what a clean-up does with them at `now`."""

    sessions: list[SessionFacts]
    cleanup: Cleanup
    now: datetime


def build(
    paths: Paths, catalog: Catalog, reader: Reader | None, config: Config, now: datetime, *,
    in_memory: Collection[str] = (), doubted: bool = False, exempt: Collection[str] = (),
) -> Inventory:  # fmt: skip
    """Return the inventory at `now`.

    `in_memory` names the sessions that a daemon holds, `exempt` checkpoints in use. The clock is `doubted` also when it
    is behind the newest entry of the journal.

    Opening or restoring a session counts as a change. A session without any known time counts as changed now, so it
    does not go by age.
    """
    newest_us = reader.last_received_us() if reader else None
    in_use = {*in_memory, *survey_all(paths.outbox)}
    rows = {row.session_id: row for row in reader.sessions()} if reader else {}
    sessions = []
    for info in Queries(paths, catalog, reader).sessions():
        own, opened, journaled_us = Own(), EPOCH, None
        if reader and (row := rows.get(info.session_id)):
            own, opened, journaled_us = Own(row.keep, row.seen), from_us(row.resumed_us), reader.trimmable_us(row.key)
        updated = max(info.updated or info.started or EPOCH, opened)
        checkpoints, autosave = catalog.checkpoints(info.session_id), catalog.autosave(info.session_id)
        kinds = [one.kind for one in checkpoints] + ([autosave.header.kind] if autosave else [])
        unread = len(kinds) < len(catalog.names(info.session_id))
        sessions.append(
            SessionFacts(
                info.session_id, info.condition, updated if updated > EPOCH else now, tuple(stored(checkpoints)),
                documents_bytes(catalog, info.session_id), own, ours=not unread and NOT_OURS.isdisjoint(kinds),
                in_use=info.session_id in in_use, journaled=None if journaled_us is None else from_us(journaled_us),
            )
        )  # fmt: skip
    cleanup = plan_cleanup(
        sessions, trash.listed(paths.trash), config, now, doubted=doubted or to_us(now) < (newest_us or 0),
        exempt=exempt, set_aside=[*_set_aside(paths.damaged), *_set_aside(paths.damaged_documents)],
    )  # fmt: skip
    return Inventory(sessions, cleanup, now)


@dataclass(slots=True, eq=False)
class Planner:
    """Makes inventories of a home that a daemon serves."""

    _paths: Paths
    _catalog: Catalog
    _in_use: InUse
    _jumps: Jumps
    _clock: Clock
    _config: LiveConfig

    def prepare(self, in_memory: Collection[str]) -> Callable[[], Inventory]:
        """Return the call that makes an inventory, for the reader thread; `in_memory` names the daemon's sessions.

        The call raises `JournalDamaged`, OSError.
        """
        jumped = self._jumps.lately()
        return lambda: self._build(in_memory, doubted=jumped)

    def explain(self, query: messages.Explained, inventory: Inventory) -> messages.Answer:
        """Return the plan of a clean-up, or why a checkpoint exists. Raises `NotFound`."""
        return explain(query, inventory, self._catalog, self._config.now)

    def _build(self, in_memory: Collection[str], *, doubted: bool) -> Inventory:
        with named_damage(self._paths.journal), contextlib.closing(Reader.open(self._paths.journal)) as reader:
            return build(
                self._paths, self._catalog, reader, self._config.now, self._clock.now(),
                in_memory=in_memory, doubted=doubted, exempt=self._in_use.names(),
            )  # fmt: skip


def _set_aside(folder: Path) -> Iterator[SetAside]:
    """Yield the files that this software has set aside in `folder`; other files are skipped."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _SET_ASIDE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                yield SetAside(Path(entry.path), status.st_size, status.st_ctime)  # of the rename


def explain(query: messages.Explained, inventory: Inventory, catalog: Catalog, config: Config) -> messages.Answer:
    """Return the plan of a clean-up, or why a checkpoint exists. Raises `NotFound`."""
    if isinstance(query, messages.GetCleanup):
        return messages.CleanupReply(query.request, document(inventory.cleanup, applied=False))
    infos = {info.name: info for info in catalog.checkpoints(query.session_id)}
    for session in inventory.sessions:
        if query.checkpoint in infos and query.checkpoint in {one.name for one in session.checkpoints}:
            found = why(infos[query.checkpoint], session, inventory.cleanup, config, inventory.now)
            return messages.WhyReply(query.request, msgspec.json.encode(found))
    raise NotFound(f"session {query.session_id} has no checkpoint {query.checkpoint}")


def document(cleanup: Cleanup, *, applied: bool) -> bytes:
    """Return the JSON text of `edi-checkpoint prune --json`, without its format."""
    damaged = [{"name": str(one.path), "rule": "damaged_max_bytes", "bytes": one.size_bytes} for one in cleanup.damaged]
    body = {
        "applied": applied, "keep": _rows(cleanup.keep), "drop": _rows(cleanup.drop),
        "sessions": {"keep": _rows(cleanup.sessions), "trash": _rows(cleanup.trash)},
        "trash": _rows(cleanup.empty), "damaged": damaged, "spare_bytes": cleanup.spare_bytes,
    }  # fmt: skip
    return msgspec.json.encode(body)


def _rows(items: Iterable[Kept | Dropped | KeptSession | Departure]) -> list[dict[str, object]]:
    return [one._asdict() for one in items]
