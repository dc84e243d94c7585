"""Damaged documents: the daemon moves them whole into `damaged/`, and the catalog no longer lists them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.names import parse_checkpoint_name
from edi_checkpoint.documents.reader import parse_autosave, parse_checkpoint
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError
from edi_checkpoint.system.paths import Paths, ensure_private
from edi_checkpoint.system.safe_open import read_regular
from edi_checkpointd.system.fs import set_aside
from edi_checkpointd.system.worker import Worker

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class DamagedDocuments:
    """Sets damaged documents of a sessions folder aside; deletes none. `_worker` is the files thread."""

    _paths: Paths
    _catalog: Catalog
    _worker: Worker

    def report(self, name: str) -> None:
        """Have the files thread check a document that a reader could not read. Any thread may report one."""
        self._worker.submit(self._set_aside_if_damaged, name)

    def set_aside(self, name: str, error: Exception) -> None:
        """Move the document `name` into `damaged/`; `error` describes the damage. Raises OSError."""
        folder = self._paths.damaged_documents
        ensure_private(folder)
        log.warning("document set aside file=%s: %s", set_aside(self._paths.sessions / name, folder), error)
        self._catalog.remove(name)

    def _set_aside_if_damaged(self, name: str) -> None:
        """Set a document aside if it is still damaged: the daemon may have written it again since the report."""
        parse = parse_checkpoint if parse_checkpoint_name(name) else parse_autosave
        try:
            parse(read_regular(self._paths.sessions / name), name)
        except DocumentDamaged as error:
            self.set_aside(name, error)
        except (EdiCheckpointError, OSError) as error:
            log.warning("document that cannot be read not set aside name=%s: %s", name, error)
