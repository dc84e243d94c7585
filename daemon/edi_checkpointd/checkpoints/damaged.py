"""Damaged documents: they move into `damaged/`, whole, and the catalog no longer lists them."""

from __future__ import annotations

import logging

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.names import parse_checkpoint_name
from edi_checkpoint.documents.reader import parse_autosave, parse_checkpoint
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError
from edi_checkpoint.system.paths import Paths, ensure_private
from edi_checkpoint.system.safe_open import read_regular
from edi_checkpointd.system.fs import set_aside
from edi_checkpointd.system.worker import Worker

log = logging.getLogger(__name__)


class DamagedDocuments:
    """Sets damaged documents of a sessions folder aside; deletes none."""

    def __init__(self, paths: Paths, catalog: Catalog, worker: Worker) -> None:
        """Work on these; `worker` is the files thread."""
        self._sessions = paths.sessions
        self._damaged = paths.damaged_documents
        self._catalog = catalog
        self._worker = worker

    def report(self, name: str) -> None:
        """Have the files thread look at a document that somebody could not read. Any thread may report one."""
        self._worker.submit(self._set_aside_if_damaged, name)

    def set_aside(self, name: str, error: Exception) -> None:
        """Move the document `name`, of which `error` tells the damage, into `damaged/`. Raises OSError."""
        ensure_private(self._damaged)
        log.warning("document set aside file=%s: %s", set_aside(self._sessions / name, self._damaged), error)
        self._catalog.remove(name)

    def _set_aside_if_damaged(self, name: str) -> None:
        """Read it again first: it may have been written anew since."""
        parse = parse_checkpoint if parse_checkpoint_name(name) else parse_autosave
        try:
            parse(read_regular(self._sessions / name), name)
        except DocumentDamaged as error:
            self.set_aside(name, error)
        except (EdiCheckpointError, OSError) as error:
            log.warning("document left as it is name=%s: %s", name, error)
