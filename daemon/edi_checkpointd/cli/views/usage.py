"""How much disk space each session takes: documents, rows of the journal, outboxes, attachments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from edi_checkpoint.documents.names import session_of
from edi_checkpoint.documents.trash import listed
from edi_checkpoint.home.sizes import tree_bytes
from edi_checkpoint.system.paths import Paths
from edi_checkpointd.attachments.garbage import named_in
from edi_checkpointd.attachments.store import listed as listed_attachments


class Usage(NamedTuple):
    """What a session takes: `sizes` in bytes, by kind.

    `attachments` counts all attachments that the session's documents name, shared ones too.
    """

    session_id: str
    trashed: bool
    sizes: dict[str, int]

    @property
    def total(self) -> int:
        """The sum of all kinds."""
        return sum(self.sizes.values())

    def document(self) -> dict[str, object]:
        """Return the row of `du --json`."""
        sizes = {f"{kind}_bytes": count for kind, count in self.sizes.items()}
        return {"session_id": self.session_id, "trashed": self.trashed, **sizes}


def usage(paths: Paths, journal: Mapping[str, int], progress: Callable[[int, int], None]) -> list[Usage]:
    """Return what each session takes, the largest first. `journal` gives each session's bytes in the journal.

    Every document is read to find its attachments. `progress` gets the number of documents read, and of all.
    """
    filed = {one.digest: one.size_bytes for one in listed_attachments(paths.attachments)}
    trashed = {one.session_id for one in listed(paths.trash)}
    folders = [paths.sessions, *(paths.trash / session_id for session_id in trashed)]
    found = [one for folder in folders for one in _documents(folder)]
    documents = Counter[str]()
    named: dict[str, set[str]] = {}
    for at, (session_id, path) in enumerate(found):
        try:
            documents[session_id] += path.stat(follow_symlinks=False).st_size
        except FileNotFoundError:  # a newer checkpoint replaced it meanwhile
            continue
        if filed:
            named.setdefault(session_id, set()).update(named_in(path))
        progress(at, len(found))
    outboxes = {folder.name: tree_bytes(folder) for folder in paths.outbox.iterdir()} if paths.outbox.exists() else {}
    attached = {session_id: sum(filed.get(digest, 0) for digest in digests) for session_id, digests in named.items()}
    kinds = {"documents": documents, "journal": journal, "outbox": outboxes, "attachments": attached}
    rows = [
        Usage(session_id, session_id in trashed, {kind: sizes.get(session_id, 0) for kind, sizes in kinds.items()})
        for session_id in {*documents, *journal, *outboxes}
    ]
    return sorted(rows, key=lambda one: (-one.total, one.session_id))


def _documents(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the documents in a folder, each with the session that its file name says."""
    if folder.exists():
        for path in folder.iterdir():
            if (session_id := session_of(path.name)) is not None:
                yield session_id, path
