"""Session files: report to the loader what the documents of a session hold, whenever the session is opened.

The session returns from the trash first. A damaged document is set aside, and the next older one is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.newest import newest_listed
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError
from edi_checkpoint.model import NOT_OURS
from edi_checkpointd.checkpoints.damaged import DamagedDocuments
from edi_checkpointd.retention.trash import Trash
from edi_checkpointd.sessions.session import Files
from edi_checkpointd.state import state_of


@dataclass(slots=True, eq=False)
class SessionDocuments:
    """The `loading.SessionFiles` of a sessions folder, which `_catalog` lists."""

    _folder: Path
    _catalog: Catalog
    _trash: Trash
    _damaged: DamagedDocuments

    def prepare(self, session_id: str) -> None:
        """Bring a session back from the trash, or finish its deletion, before its rows are read. Raises OSError."""
        self._trash.reclaim(session_id)

    def tell(self, session_id: str, sequence: int) -> Files:
        """Return what the documents hold, with the newest state if it is newer than `sequence`."""
        autosave = self._catalog.autosave(session_id)
        if autosave and autosave.header.kind in NOT_OURS:
            autosave = None
        saved = autosave.header.sequence if autosave else 0
        checkpoints = self._catalog.checkpoints(session_id)
        checkpointed = max((info.sequence for info in checkpoints if info.kind not in NOT_OURS), default=0)
        if max(saved, checkpointed) <= sequence:
            covered = autosave.header.streams if autosave and saved >= checkpointed else {}
            return Files(saved, checkpointed, covered, gone=not self._catalog.has(session_id))
        newest = newest_listed(self._folder, self._catalog, session_id, self._set_aside, above=sequence)
        if newest is None:
            return Files(min(saved, sequence), min(checkpointed, sequence))
        header = newest.document.header
        found = header.sequence  # lower than expected if a newer document was damaged
        return Files(
            min(saved, found), min(checkpointed, found), header.streams, header.parent_session,
            ahead=state_of(newest.document), document=newest.name, keep=header.keep,
        )  # fmt: skip

    def _set_aside(self, name: str, error: OSError | EdiCheckpointError) -> None:
        if isinstance(error, DocumentDamaged):
            self._damaged.set_aside(name, error)
        elif isinstance(error, FileNotFoundError):
            self._catalog.remove(name)
        else:
            raise error
