"""Reads the content of a session's attachments.

The sources, in this order: the memory of what this process encoded lately, the attachment's file, the session's
outboxes, the daemon's journal. The daemon stores the file before it publishes a document that names the attachment, and
deletes the outbox after that. So file and outboxes together hold each attachment of a session's newest state, with or
without a daemon.
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
    """Reads the attachments of one session for its writer.

    `_ask` returns the content that the daemon has for a reference, None without a daemon or when it has none.
    """

    _paths: Paths
    _session_id: str
    recent: Recent
    _ask: Callable[[Reference], bytes | None]

    def restore(self, reference: Reference, path: str) -> object:
        """Return the array or bytes of `reference`, which stands at `path` of the state. Raises as `restored` does."""
        return restored(reference, path, self._data)

    def _data(self, reference: Reference) -> bytes:
        if (recent := self.recent.attachment(reference.sha256)) is not None:
            return recent.data
        return read(self._paths, self._session_id, reference.sha256, reference.type, ask=lambda: self._ask(reference))

    def remaining_after(self, carried: Mapping[str, Attachment], texts: Iterable[JsonText], free_bytes: int) -> int:
        """Return how many of the daemon's `free_bytes` for attachments remain after an entry that carries `carried`.

        An attachment with a file, or with its name in one of `texts`, costs nothing. Raises `AttachmentsFull`, so that
        the call fails instead of the daemon refusing the entry later.
        """
        known = set[str]().union(*map(digests_in, texts))
        new = {digest for digest in carried.keys() - known if not has_file(self._paths.attachments, digest)}
        new_bytes = sum(len(carried[digest].data) for digest in new)
        if new_bytes > free_bytes:
            raise AttachmentsFull(
                f"new arrays and bytes: {new_bytes} bytes; {free_bytes} are left of attachments_max_bytes"
            )
        return free_bytes - new_bytes

    def unfiled(self, texts: Iterable[JsonText], most_bytes: int) -> dict[str, Attachment]:
        """Return the attachments for a base to carry: those that `texts` name and that have no file.

        They have at most `most_bytes` together. Only the names of files are checked; reading one finds damage.
        """
        named = set[str]().union(*map(digests_in, texts))
        missing = {digest for digest in named if not has_file(self._paths.attachments, digest)}
        found = {digest: recent for digest in missing if (recent := self.recent.attachment(digest)) is not None}
        folders = [self._paths.outbox / self._session_id, *_others(self._paths, self._session_id)]
        found |= read_outboxes(folders, missing - found.keys())
        for digest, attachment in list(found.items()):
            most_bytes -= len(attachment.data) + 128
            if most_bytes < 0:
                log.warning("session %s: attachment %s does not fit into a base", self._session_id, digest)
                del found[digest]
        return found


def restored(reference: Reference, path: str, data_of: Callable[[Reference], bytes]) -> object:
    """Return the array or bytes of `reference`; `data_of` returns its encoded content.

    Raises `AttachmentMissing` and `AttachmentDamaged` with the path in the state and the digest, and `ArraysMissing`.
    """
    try:
        return arrays.decode(reference, data_of(reference))
    except ValueError as error:
        raise AttachmentDamaged(f"{path}: attachment {reference.sha256}: {error}") from error
    except (AttachmentMissing, AttachmentDamaged) as error:
        raise type(error)(f"{path}: {error}", hint=error.hint) from error


def read(paths: Paths, session_id: str, digest: str, kind: str, ask: Callable[[], bytes | None]) -> bytes:
    """Return the content of an attachment of a session.

    The sources are its file, the session's outboxes, `ask`, and last the outboxes of other sessions: a fork or a branch
    names attachments that its parent published.

    Raises `AttachmentMissing`, or `AttachmentDamaged` when only a damaged file is left.
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
        raise damage or AttachmentMissing(f"attachment {digest}: the file {attachment_name(digest, kind)} is missing")
    return published[digest].data


def _others(paths: Paths, session_id: str) -> list[Path]:
    try:
        return sorted(folder for folder in paths.outbox.iterdir() if folder.name != session_id)
    except FileNotFoundError:
        return []


def has_file(folder: Path, digest: str) -> bool:
    """Return whether a file below `folder` has the attachment's digest in its name, with any type."""
    return next(_files_of(folder, digest), None) is not None


def _files_of(folder: Path, digest: str) -> Iterator[str]:
    """Yield the names, below `folder`, of the attachment's files."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in (folder / digest[:2]).iterdir():
            if parse_attachment_name(path.name) == digest:
                yield f"{digest[:2]}/{path.name}"


def read_outboxes(folders: Iterable[Path], digests: Collection[str]) -> dict[str, Attachment]:
    """Return the attachments of `digests` that entries in the outboxes of `folders` carry, by digest."""
    found: dict[str, Attachment] = {}
    for folder in folders:
        for files in list_streams(folder) if len(found) < len(digests) else ():
            for data in read_records(files):
                found |= _carried(data, digests)
    return found


def _carried(records: bytes, digests: Collection[str]) -> dict[str, Attachment]:
    found: dict[str, Attachment] = {}
    for record in scan(records):
        with suppress(ProtocolError):  # an entry of a newer version: only newer software can read it
            if MARK in record.entry:
                for digest, attachment in getattr(decode_entry(record.entry), "attachments", {}).items():
                    if digest in digests and sha256(attachment.data).hexdigest() == digest:
                        found[digest] = attachment
    return found


def read_file(folder: Path, digest: str, kind: str) -> bytes | None:
    """Return the content of an attachment's file below `folder`, None when there is no file.

    The file may have another type than `kind`, if the app published the same bytes as another type first.

    Raises `AttachmentDamaged` if the file is not regular, cannot be read, is too large, or has another digest.
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
