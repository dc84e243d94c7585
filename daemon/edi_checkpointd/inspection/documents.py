"""Inspect checkpoints and auto-saves: read each in full, recompute its digests, compare its name with its header."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from edi_checkpoint.documents.names import parse_checkpoint_name, session_of
from edi_checkpoint.documents.reader import Document, parse_autosave, parse_checkpoint
from edi_checkpoint.errors import DocumentDamaged, VersionMismatch
from edi_checkpoint.model import NOT_OURS
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import open_regular
from edi_checkpoint.wire.references import MARK, references
from edi_checkpointd.inspection.findings import Code, Finding, Severity
from edi_checkpointd.inspection.folders import closed

Named: TypeAlias = dict[tuple[str, str], list[str]]

_SET_ASIDE: Final = "`edi-checkpointd check --repair` moves it into damaged/; then the next good one is used"
_NEWER: Final = "update this software; the file is not changed"


class Documents:
    """The documents of one session or of all, read once. Call `read` first; it fills `newest` and `named`.

    `newest` maps each session to the newest sequence in its documents. `named` maps each attachment (digest, type) to
    the documents that name it. `progress` gets the number of bytes read, file by file.
    """

    def __init__(self, paths: Paths, session_id: str | None, progress: Callable[[int], None]) -> None:
        """List the folder, without reading a document. Raises OSError if the folder cannot be listed."""
        self._paths = paths
        self._progress = progress
        names = ((name, session_of(name)) for name in _names(paths.sessions))
        self.names = sorted(name for name, of in names if of and session_id in (None, of))
        self.size_bytes = sum(_size(paths.sessions / name) for name in self.names)
        self.newest: dict[str, int] = {}
        self.named: Named = {}

    def read(self, checked: Counter[str]) -> Iterator[Finding]:
        """Read, verify and count all documents; yield their faults."""
        for name in self.names:
            yield from self._document(name, checked)

    def _document(self, name: str, checked: Counter[str]) -> Iterator[Finding]:
        path = self._paths.sessions / name

        def finding(severity: Severity, code: Code, fault: str, remedy: str) -> Finding:
            return Finding(severity, code, name, fault, remedy, path)

        is_checkpoint = parse_checkpoint_name(name) is not None
        checked["checkpoints" if is_checkpoint else "autosaves"] += 1
        try:
            with open_regular(path) as file:
                data, status = file.readall(), os.fstat(file.fileno())
            self._progress(len(data))
            document = (parse_checkpoint if is_checkpoint else parse_autosave)(data, name)
        except DocumentDamaged as error:
            fault = error.message.removeprefix(f"{name}: ")
            yield finding(Severity.REPAIRABLE, Code.DOCUMENT_DAMAGED, fault, _SET_ASIDE)
        except VersionMismatch as error:
            yield finding(Severity.NOTE, Code.DOCUMENT_VERSION, error.message.removeprefix(f"{name}: "), _NEWER)
        except FileNotFoundError:
            checked.subtract(["checkpoints" if is_checkpoint else "autosaves"])  # the daemon deleted it meanwhile
        except OSError as error:
            fault = "it is a symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror or error}"
            yield finding(Severity.REPAIRABLE, Code.DOCUMENT_DAMAGED, fault, _SET_ASIDE)
        else:
            self._note(name, document)
            if document.header.kind in NOT_OURS:
                return
            if document.header.session_id != session_of(name):
                fault = f"it belongs to session {document.header.session_id}, but its name says another session"
                yield finding(Severity.REPAIRABLE, Code.DOCUMENT_MISNAMED, fault, _SET_ASIDE)
            yield from closed(path, status, name)

    def _note(self, name: str, document: Document) -> None:
        """Record a document's sequence and the attachments that it names."""
        session_id = session_of(name) or ""
        self.newest[session_id] = max(self.newest.get(session_id, 0), document.header.sequence)
        for text in document.values.values():
            if MARK in text:
                for _, reference in references(msgspec.json.decode(text)):
                    self.named.setdefault((reference.sha256, reference.type), []).append(name)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - only names: 100,000 foreign files are skipped by their names
    except FileNotFoundError:
        return []


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
