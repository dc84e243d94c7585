"""What a session's documents tell the journal, whenever the session is opened.

The trash gives the session back first. A damaged document is set aside, and the next older one is taken.
"""

from __future__ import annotations

from pathlib import Path

from edi_checkpoint.documents.catalog import AutosaveInfo, Catalog
from edi_checkpoint.documents.newest import newest_listed
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError
from edi_checkpoint.model import NOT_OURS, CheckpointInfo
from edi_checkpointd.checkpoints.damaged import DamagedDocuments
from edi_checkpointd.retention.trash import Trash
from edi_checkpointd.sessions.session import Files
from edi_checkpointd.state import state_of


class SessionDocuments:
    """The `loading.SessionFiles` of a sessions folder."""

    def __init__(self, folder: Path, catalog: Catalog, trash: Trash, damaged: DamagedDocuments) -> None:
        """Take the parts; `catalog` lists `folder`."""
        self._folder = folder
        self._catalog = catalog
        self._trash = trash
        self._damaged = damaged

    def prepare(self, session_id: str) -> None:
        """Bring a session back from the trash, or end its deletion, before its rows are read. Raises OSError."""
        self._trash.reclaim(session_id)

    def tell(self, session_id: str, sequence: int) -> Files:
        """Return what the documents hold, with the newest state if it is newer than `sequence`."""
        autosave = self._own_autosave(session_id)
        saved = autosave.header.sequence if autosave else 0
        checkpointed = max((info.sequence for info in self._own_checkpoints(session_id)), default=0)
        if max(saved, checkpointed) <= sequence:
            covered = autosave.header.streams if autosave and saved >= checkpointed else {}
            return Files(saved, checkpointed, covered, gone=not self._catalog.has(session_id))
        newest = newest_listed(self._folder, self._catalog, session_id, self._set_aside, above=sequence)
        if newest is None:
            return Files(min(saved, sequence), min(checkpointed, sequence))
        header = newest.document.header
        found = header.sequence  # what was said to be newer was damaged
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

    def _own_checkpoints(self, session_id: str) -> list[CheckpointInfo]:
        return [info for info in self._catalog.checkpoints(session_id) if info.kind not in NOT_OURS]

    def _own_autosave(self, session_id: str) -> AutosaveInfo | None:
        autosave = self._catalog.autosave(session_id)
        return autosave if autosave and autosave.header.kind not in NOT_OURS else None
