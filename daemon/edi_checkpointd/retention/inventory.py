"""The inventory: how each session stands, and what a clean-up would do with it. From files, journal, outboxes; by
reading. The daemon and the command without one make the same.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from edi_checkpoint.documents import trash
from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.errors import NotFound
from edi_checkpoint.home.sizes import documents_bytes
from edi_checkpoint.model import NOT_OURS, SessionInfo
from edi_checkpoint.outbox.survey import survey_all
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.times import EPOCH, from_us, to_us
from edi_checkpoint.wire import messages
from edi_checkpointd.config import Config, LiveConfig
from edi_checkpointd.journal import Reader, named_damage
from edi_checkpointd.retention.deletion import InUse
from edi_checkpointd.retention.explain import why
from edi_checkpointd.retention.plan import Cleanup, SessionFacts, SetAside, plan_cleanup
from edi_checkpointd.retention.rules import Own, held_of
from edi_checkpointd.sessions.queries import Queries
from edi_checkpointd.system.clock import Clock, Jumps

_SET_ASIDE = re.compile(r"(journal\.sqlite.*|frame-.*\.bin|.*\.(seg|json))(\.[0-9]+)?")


class Inventory(NamedTuple):
    """How all sessions stand that are not in the trash, and what a clean-up does with them at `now`."""

    standings: list[SessionFacts]
    cleanup: Cleanup
    now: datetime


def build(
    paths: Paths,
    catalog: Catalog,
    reader: Reader | None,
    config: Config,
    now: datetime,
    *,
    in_memory: Collection[str] = (),
    doubted: bool = False,
    exempt: Collection[str] = (),
) -> Inventory:
    """Take an inventory at `now`.

    `in_memory` names the sessions that a daemon holds, `exempt` checkpoints in use. The clock is `doubted` also when it
    stands before the newest entry of the journal.

    A session that somebody opened, or brought back, counts as changed then; one of which no time is known, now: it does
    not go by age.
    """
    newest_us = reader.last_received_us() if reader else None
    doubted = doubted or to_us(now) < (newest_us or 0)
    in_use = {*in_memory, *survey_all(paths.outbox)}
    rows = {row.session_id: row for row in reader.sessions()} if reader else {}
    standings = []
    for info in Queries(paths, catalog, reader).sessions():
        row = rows.get(info.session_id)
        own, opened = (Own(row.keep, row.seen), from_us(row.resumed_us)) if row else (Own(), EPOCH)
        updated = max(info.updated or info.started or EPOCH, opened)
        in_hand = info.session_id in in_use
        journaled_us = reader.trimmable_us(row.key) if reader and row else None
        journaled = None if journaled_us is None else from_us(journaled_us)
        updated = updated if updated > EPOCH else now
        standings.append(_standing(info, catalog, own, updated, in_use=in_hand)._replace(journaled=journaled))
    cleanup = plan_cleanup(
        standings, trash.listed(paths.trash), config, now,
        doubted=doubted, exempt=exempt, set_aside=[*_set_aside(paths.damaged), *_set_aside(paths.damaged_documents)],
    )  # fmt: skip
    return Inventory(standings, cleanup, now)


class Planner:
    """Takes inventories of a home that a daemon serves."""

    def __init__(
        self, paths: Paths, catalog: Catalog, in_use: InUse, jumps: Jumps, clock: Clock, config: LiveConfig
    ) -> None:
        """Take the parts; nothing is read yet."""
        self._paths = paths
        self._catalog = catalog
        self._in_use = in_use
        self._jumps = jumps
        self._clock = clock
        self._config = config

    def prepare(self, in_memory: Collection[str]) -> Callable[[], Inventory]:
        """Return the call that takes an inventory, for a thread that reads; `in_memory` names the daemon's sessions.

        The call raises `JournalDamaged`, OSError.
        """
        jumped = self._jumps.lately()
        return lambda: self._take(in_memory, doubted=jumped)

    def explain(self, query: messages.Explained, inventory: Inventory) -> messages.Answer:
        """Return what a clean-up would do, or why a checkpoint is there. Raises `NotFound`."""
        return explain(query, inventory, self._catalog, self._config.now)

    def _take(self, in_memory: Collection[str], *, doubted: bool) -> Inventory:
        with named_damage(self._paths.journal), contextlib.closing(Reader.open(self._paths.journal)) as reader:
            return build(
                self._paths, self._catalog, reader, self._config.now, self._clock.now(),
                in_memory=in_memory, doubted=doubted, exempt=self._in_use.names(),
            )  # fmt: skip


def _set_aside(folder: Path) -> Iterator[SetAside]:
    """Yield what this software has set aside in `folder`; whatever else was put there is passed over."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _SET_ASIDE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                yield SetAside(Path(entry.path), status.st_size, status.st_ctime)  # of the rename


def _standing(info: SessionInfo, catalog: Catalog, own: Own, updated: datetime, *, in_use: bool) -> SessionFacts:
    checkpoints, autosave = catalog.checkpoints(info.session_id), catalog.autosave(info.session_id)
    kinds = [one.kind for one in checkpoints] + ([autosave.header.kind] if autosave else [])
    unread = len(kinds) < len(catalog.names(info.session_id))
    return SessionFacts(
        info.session_id,
        info.condition,
        updated,
        tuple(held_of(checkpoints)),
        documents_bytes(catalog, info.session_id),
        own,
        ours=not unread and NOT_OURS.isdisjoint(kinds),
        in_use=in_use,
    )


def explain(query: messages.Explained, inventory: Inventory, catalog: Catalog, config: Config) -> messages.Answer:
    """Return what a clean-up would do, or why a checkpoint is there. Raises `NotFound`."""
    if isinstance(query, messages.GetCleanup):
        return messages.CleanupReply(query.request, document(inventory.cleanup, applied=False))
    infos = {info.name: info for info in catalog.checkpoints(query.session_id)}
    for standing in inventory.standings:
        if query.checkpoint in infos and query.checkpoint in {held.name for held in standing.held}:
            found = why(infos[query.checkpoint], standing, inventory.cleanup, config, inventory.now)
            return messages.WhyReply(query.request, msgspec.json.encode(found))
    raise NotFound(f"session {query.session_id} has no checkpoint {query.checkpoint}")


def document(cleanup: Cleanup, *, applied: bool) -> bytes:
    """Return the JSON text of `edi-checkpoint prune --json`, without its format."""
    return msgspec.json.encode(
        {
            "applied": applied,
            "keep": [kept._asdict() for kept in cleanup.keep],
            "drop": [dropped._asdict() for dropped in cleanup.drop],
            "sessions": {
                "keep": [kept._asdict() for kept in cleanup.sessions],
                "trash": [leaving._asdict() for leaving in cleanup.trash],
            },
            "trash": [leaving._asdict() for leaving in cleanup.empty],
            "damaged": [
                {"name": str(one.path), "rule": "damaged_max_bytes", "bytes": one.size_bytes} for one in cleanup.damaged
            ],
            "spare_bytes": cleanup.spare_bytes,
        }
    )
