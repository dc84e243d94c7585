"""Where the content of a session's attachments is read from, when somebody looks at it.

In this order: what this process encoded lately, the file, the session's outboxes, the daemon's journal. A document
that names an attachment becomes visible after its file, and an outbox goes after that: so file and outboxes together
hold whatever a session's newest state names, daemon or not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edi_checkpoint.documents.names import attachment_name, parse_attachment_name
from edi_checkpoint.errors import AttachmentDamaged, AttachmentMissing, AttachmentsFull, ProtocolError
from edi_checkpoint.outbox.segments import list_streams, read_records
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import open_regular
from edi_checkpoint.values import arrays
from edi_checkpoint.values.arrays import ATTACHMENT_MAX_BYTES
from edi_checkpoint.values.cache import Recent
from edi_checkpoint.wire.entries import JsonText, decode_entry
from edi_checkpoint.wire.records import scan
from edi_checkpoint.wire.references import MARK, Attachment, Reference, digests_in

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Attachments:
    """The attachments of one session, as its writer sees them.

    `_ask` gives what the daemon has of a reference, None when there is nothing or no daemon.
    """

    _paths: Paths
    _session_id: str
    recent: Recent
    _ask: Callable[[Reference], bytes | None]

    def restore(self, reference: Reference, path: str) -> object:
        """Return the array or bytes that `reference`, found under `path` of the state, stands for; as `restored`."""
        return restored(reference, path, self._data)

    def _data(self, reference: Reference) -> bytes:
        if (recent := self.recent.attachment(reference.sha256)) is not None:
            return recent.data
        return read(self._paths, self._session_id, reference.sha256, reference.type, ask=lambda: self._ask(reference))

    def remaining_after(self, carried: Mapping[str, Attachment], held: Iterable[JsonText], left_bytes: int) -> int:
        """Return how many of the `left_bytes` that the daemon takes are left after an entry that carries `carried`.

        What is in a file, or named by one of the texts `held`, costs nothing. Raises `AttachmentsFull`: what the daemon
        would refuse later is refused by the call itself.
        """
        known = set[str]().union(*map(digests_in, held))
        new_bytes = sum(
            len(attachment.data)
            for digest, attachment in carried.items()
            if digest not in known and not has_file(self._paths.attachments, digest)
        )
        if new_bytes > left_bytes:
            raise AttachmentsFull(
                f"{new_bytes} bytes of arrays and bytes: {left_bytes} are left of attachments_max_bytes"
            )
        return left_bytes - new_bytes

    def unfiled(self, texts: Iterable[JsonText], most_bytes: int) -> dict[str, Attachment]:
        """Return the attachments that `texts` name and no file holds, as far as `most_bytes` reach.

        It is what a base carries. A file is known by its name: whether it is damaged is found out when it is read.
        """
        named = set[str]().union(*map(digests_in, texts))
        lacking = {digest for digest in named if not has_file(self._paths.attachments, digest)}
        found = {digest: recent for digest in lacking if (recent := self.recent.attachment(digest)) is not None}
        folders = [self._paths.outbox / self._session_id, *_others(self._paths, self._session_id)]
        found |= read_outboxes(folders, lacking - found.keys())
        for digest, attachment in list(found.items()):
            most_bytes -= len(attachment.data) + 128
            if most_bytes < 0:
                log.warning("session %s: no room for attachment %s in a base", self._session_id, digest)
                del found[digest]
        return found


def restored(reference: Reference, path: str, data_of: Callable[[Reference], bytes]) -> object:
    """Return the array or bytes that `reference` stands for; `data_of` returns its encoded content.

    Raises `AttachmentMissing` and `AttachmentDamaged`, naming the path in the state and the digest, and
    `ArraysMissing`.
    """
    try:
        return arrays.decode(reference, data_of(reference))
    except ValueError as error:
        raise AttachmentDamaged(f"{path}: attachment {reference.sha256}: {error}") from error
    except (AttachmentMissing, AttachmentDamaged) as error:
        raise type(error)(f"{path}: {error}", hint=error.hint) from error


def read(paths: Paths, session_id: str, digest: str, kind: str, ask: Callable[[], bytes | None]) -> bytes:
    """Return the content of an attachment of a session: from its file, its outboxes, or what `ask` gives.

    Else from the outboxes of other sessions: a fork or a branch names what its parent published.

    Raises `AttachmentMissing`, or `AttachmentDamaged` when all that there is of it is a damaged file.
    """
    damage: AttachmentDamaged | None = None
    try:
        if (data := read_file(paths.attachments, digest, kind)) is not None:
            return data
    except AttachmentDamaged as error:
        damage = error
    published = read_outboxes([paths.outbox / session_id], {digest})
    if not published and (data := ask()) is not None:
        return data
    published = published or read_outboxes(_others(paths, session_id), {digest})
    if not published:
        raise damage or AttachmentMissing(f"attachment {digest}: {attachment_name(digest, kind)} is not there")
    return published[digest].data


def _others(paths: Paths, session_id: str) -> list[Path]:
    try:
        return sorted(folder for folder in paths.outbox.iterdir() if folder.name != session_id)
    except FileNotFoundError:
        return []


def has_file(folder: Path, digest: str) -> bool:
    """Return whether a file below `folder` has the name of the attachment, of whatever type."""
    return next(_files_of(folder, digest), None) is not None


def _files_of(folder: Path, digest: str) -> Iterator[str]:
    """Yield the names below `folder` that files of the attachment have."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in (folder / digest[:2]).iterdir():
            if parse_attachment_name(path.name) == digest:
                yield f"{digest[:2]}/{path.name}"


def read_outboxes(folders: Iterable[Path], wanted: Collection[str]) -> dict[str, Attachment]:
    """Return those of the attachments `wanted` (digests) that entries in the outboxes of `folders` carry."""
    found: dict[str, Attachment] = {}
    for folder in folders:
        for files in list_streams(folder) if len(found) < len(wanted) else ():
            for data in read_records(files):
                found |= _carried(data, wanted)
    return found


def _carried(records: bytes, wanted: Collection[str]) -> dict[str, Attachment]:
    found: dict[str, Attachment] = {}
    for record in scan(records):
        with suppress(ProtocolError):  # of a newer version: whoever reads that finds its own
            if MARK in record.entry:
                found |= {
                    digest: attachment
                    for digest, attachment in getattr(decode_entry(record.entry), "attachments", {}).items()
                    if digest in wanted and sha256(attachment.data).hexdigest() == digest
                }
    return found


def read_file(folder: Path, digest: str, kind: str) -> bytes | None:
    """Return the content of an attachment's file below `folder`, None when there is no file.

    The same content may lie there under another type, if that was published first: an array's file as bytes.

    Raises `AttachmentDamaged` for what is no regular file, cannot be read, or has another digest (a larger one has).
    """
    name = attachment_name(digest, kind)
    if not (folder / name).exists():
        name = next(_files_of(folder, digest), name)
    try:
        with open_regular(folder / name) as file:
            data = file.read(ATTACHMENT_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AttachmentDamaged(f"attachment {name}: cannot be read: {error.strerror or error}") from error
    if sha256(data).hexdigest() != digest:
        raise AttachmentDamaged(f"attachment {name}: digest differs")
    return data
