"""The archive: one session as one file, a zip whose manifest names every entry with size and digest.

    manifest.json               format, session, entries
    documents/<file name>       checkpoints and auto-save, byte for byte
    attachments/<digest>.<type> what they name

Nothing in an archive is trusted. The manifest decides which entries exist. Names must be possible in a sessions folder.
Sizes have the limits below, and digests prove contents. Any fault raises `ArchiveRefused` before anything is written.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import BinaryIO, Final, NamedTuple

import msgspec

from edi_checkpoint.documents.fragments import Fragment, fragment
from edi_checkpoint.documents.layout import autosave_document, checkpoint_document
from edi_checkpoint.documents.names import check_session_id, parse_attachment_name, parse_checkpoint_name, session_of
from edi_checkpoint.documents.reader import Document, parse_autosave, parse_checkpoint
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError
from edi_checkpoint.model import Kind
from edi_checkpoint.values.arrays import ATTACHMENT_MAX_BYTES
from edi_checkpoint.wire.references import MARK, Reference, references, replaced

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MANIFEST_MAX_BYTES: Final = 8 << 20
ENTRIES_MAX: Final = 20_000
DOCUMENT_MAX_BYTES: Final = 256 << 20  # a state of 63 MiB, laid out
TOTAL_MAX_BYTES: Final = 4 << 30
RATIO_MAX: Final = 200  # unpacked to packed size of an entry, beyond the first MiB; text packs to a tenth
_DOCUMENTS, _ATTACHMENTS = "documents/", "attachments/"
_BROKEN = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, OSError,
)  # fmt: skip


class ArchiveRefused(EdiCheckpointError):
    """The file is no archive of a session, or is damaged; nothing of it was imported."""

    code = "archive_refused"
    default_hint = "nothing was changed; export the session again, and copy the whole file"


class Entry(msgspec.Struct, frozen=True):
    """An entry as the manifest describes it."""

    name: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """The manifest: an archive's description of itself."""

    format: int
    session_id: str
    software: str
    exported: datetime
    entries: tuple[Entry, ...]


class Member(NamedTuple):
    """A file of a session: its name in its folder, and its bytes."""

    name: str
    data: bytes


def write(file: BinaryIO, session_id: str, software: str, now: datetime, members: Iterable[Member]) -> Manifest:
    """Write a session's archive into `file`, and return the manifest. Documents are compressed, attachments not."""
    entries = []
    with zipfile.ZipFile(file, "w") as packed:
        for member in members:
            attachment = parse_attachment_name(member.name) is not None
            name = (_ATTACHMENTS if attachment else _DOCUMENTS) + member.name
            _put(packed, name, member.data, zipfile.ZIP_STORED if attachment else zipfile.ZIP_DEFLATED)
            entries.append(Entry(name, len(member.data), sha256(member.data).hexdigest()))
        manifest = Manifest(FORMAT, session_id, software, now, tuple(entries))
        _put(packed, MANIFEST, _indented(manifest))
    return manifest


def _put(packed: zipfile.ZipFile, name: str, data: bytes, compression: int = zipfile.ZIP_DEFLATED) -> None:
    info = zipfile.ZipInfo(name)  # with a fixed date: the same session gives the same bytes
    info.external_attr = (stat.S_IFREG | 0o600) << 16
    info.compress_type = compression
    packed.writestr(info, data)


def _indented(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def attachments_named(document: Document) -> Iterator[Reference]:
    """Yield the references in a document's values."""
    for text in document.values.values():
        if MARK in text:
            for _, reference in references(msgspec.json.decode(text)):
                yield reference


class Archive:
    """An archive that is open for reading. Call `verify` before `members`: it checks everything."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the manifest and compare the entries with it. Raises `ArchiveRefused`."""
        try:
            self._packed = zipfile.ZipFile(file)
            infos = self._packed.infolist()
        except _BROKEN as error:
            raise ArchiveRefused(f"not an archive: {error}") from error
        if len(infos) > ENTRIES_MAX:
            raise ArchiveRefused(f"{len(infos)} entries; at most {ENTRIES_MAX} are allowed")
        self._infos = {info.filename: info for info in infos}
        if len({name.casefold() for name in self._infos}) != len(infos):
            raise ArchiveRefused("two entries have the same name")
        self.manifest = self._manifest()
        names = [entry.name for entry in self.manifest.entries]
        if sorted(names) != sorted(self._infos.keys() - {MANIFEST}):
            raise ArchiveRefused("the manifest does not match the entries")
        for entry in self.manifest.entries:
            self._check_entry(entry)
        if sum(entry.bytes for entry in self.manifest.entries) > TOTAL_MAX_BYTES:
            raise ArchiveRefused(f"its files have more than {TOTAL_MAX_BYTES} bytes")

    def _manifest(self) -> Manifest:
        if MANIFEST not in self._infos:
            raise ArchiveRefused("it has no manifest")
        text = self._bytes(MANIFEST, MANIFEST_MAX_BYTES)
        try:
            version = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("format", msgspec.Raw(b"null"))
            if bytes(version) != str(FORMAT).encode():
                raise ArchiveRefused(f"archive format {bytes(version)[:20]!r}; this software knows {FORMAT}")
            manifest = msgspec.json.decode(text, type=Manifest)
            check_session_id(manifest.session_id)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, EdiCheckpointError) as error:
            raise error if isinstance(error, ArchiveRefused) else ArchiveRefused(f"manifest: {error}") from error
        return manifest

    def _check_entry(self, entry: Entry) -> None:
        info = self._infos[entry.name]
        if not self._is_ours(entry):
            raise ArchiveRefused(f"{entry.name!r:.200} is no file of session {self.manifest.session_id}")
        most = ATTACHMENT_MAX_BYTES if entry.name.startswith(_ATTACHMENTS) else DOCUMENT_MAX_BYTES
        if not 0 <= entry.bytes <= most or info.file_size != entry.bytes:
            sizes = f"{info.file_size} bytes, {entry.bytes} by the manifest; at most {most} are allowed"
            raise ArchiveRefused(f"{entry.name}: {sizes}")
        if entry.bytes > (1 << 20) + RATIO_MAX * info.compress_size:
            raise ArchiveRefused(f"{entry.name}: {entry.bytes} bytes packed into {info.compress_size}")
        if info.is_dir() or stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ArchiveRefused(f"{entry.name}: not a regular file")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise ArchiveRefused(f"{entry.name}: unsupported compression or encryption")

    def _is_ours(self, entry: Entry) -> bool:
        kind, _, name = entry.name.partition("/")
        if kind + "/" == _ATTACHMENTS:
            return parse_attachment_name(name) == entry.sha256
        return kind + "/" == _DOCUMENTS and session_of(name) == self.manifest.session_id

    def _bytes(self, name: str, most: int) -> bytes:
        try:
            with self._packed.open(self._infos[name]) as packed:
                data = packed.read(most + 1)
        except _BROKEN as error:
            raise ArchiveRefused(f"{name}: {error}") from error
        if len(data) > most:
            raise ArchiveRefused(f"{name}: more than {most} bytes")
        return data

    def _read(self, entry: Entry) -> Member:
        data = self._bytes(entry.name, entry.bytes)
        if len(data) != entry.bytes or sha256(data).hexdigest() != entry.sha256:
            raise ArchiveRefused(f"{entry.name}: digest differs")
        return Member(entry.name.partition("/")[2], data)

    def verify(self, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Check all digests and documents, and that attachments and references match. Raises `ArchiveRefused`."""
        total, done = sum(entry.bytes for entry in self.manifest.entries), 0
        named: set[str] = set()
        for entry in self.manifest.entries:
            member = self._read(entry)
            if entry.name.startswith(_DOCUMENTS):
                try:
                    document = parse(member)
                except EdiCheckpointError as error:
                    raise ArchiveRefused(error.message) from error
                named.update(reference.sha256 for reference in attachments_named(document))
            done += entry.bytes
            progress(done, total)
        stored = {entry.sha256 for entry in self.manifest.entries if entry.name.startswith(_ATTACHMENTS)}
        if missing := named - stored:
            raise ArchiveRefused(f"attachment {min(missing)} is missing")
        if unnamed := stored - named:
            raise ArchiveRefused(f"no document names attachment {min(unnamed)}")

    def members(self, session_id: str) -> Iterator[Member]:
        """Yield the files of the session for a sessions folder, under the id `session_id`."""
        for entry in self.manifest.entries:
            member = self._read(entry)
            moved = session_id != self.manifest.session_id and entry.name.startswith(_DOCUMENTS)
            yield _renamed(member, self.manifest.session_id, session_id) if moved else member


def parse(member: Member) -> Document:
    """Return the document of a member. Raises `DocumentDamaged`, `VersionMismatch`."""
    parse_document = parse_checkpoint if parse_checkpoint_name(member.name) else parse_autosave
    document = parse_document(member.data, member.name)
    if document.header.session_id != session_of(member.name):
        raise DocumentDamaged(f"{member.name}: it belongs to session {document.header.session_id}")
    return document


def _renamed(member: Member, old: str, new: str) -> Member:
    """Return a document under another session's id; all other values stay, byte for byte.

    The streams are dropped: they belong to the other session, which the home may have too.
    """
    document = parse(member)
    header = document.header
    name = new + member.name.removeprefix(old)
    previous = header.previous and new + header.previous.removeprefix(old)
    fragments = {key: fragment(text) for key, text in document.values.items()}
    if "session_id" in fragments:
        fragments["session_id"] = Fragment(msgspec.json.encode(new))
    if header.kind == Kind.REFERENCE or (header.kind == Kind.FOREIGN and not parse_checkpoint_name(name)):
        members = msgspec.json.decode(member.data, type=dict[str, msgspec.Raw])
        return Member(name, _indented(members | {"session_id": msgspec.Raw(msgspec.json.encode(new))}))
    write_document = checkpoint_document if parse_checkpoint_name(name) else autosave_document
    renamed = replace(header, session_id=new, previous=previous, streams={})
    return Member(name, b"".join(write_document(renamed, fragments)))


def plain(member: Member) -> tuple[Member, int]:
    """Return a document in the format of EDI's own class, and how many arrays and bytes are null in it."""
    document, left_out = parse(member), 0
    state: dict[str, msgspec.Raw] = {}
    for key, text in document.values.items():
        if MARK in text:
            form = msgspec.json.decode(text)
            left_out += sum(1 for _ in references(form))
            text = msgspec.json.encode(replaced(form, lambda *_: None))
        state[key] = msgspec.Raw(text)
    header = document.header
    if parse_checkpoint_name(member.name) is None:
        return Member(member.name, _indented({"session_id": header.session_id, **state})), left_out
    members = {
        "session_id": header.session_id, "timestamp": header.timestamp.isoformat(), "reason": header.reason,
        "stage": header.stage, "state_info": state, "parent_session": header.parent_session,
    }  # fmt: skip
    return Member(member.name, _indented(members)), left_out


def write_plain(file: BinaryIO, members: Iterable[Member]) -> int:
    """Write documents for EDI's own class into `file`, a zip; return how many arrays and bytes were left out."""
    left_out = 0
    with zipfile.ZipFile(file, "w") as packed:
        for made, count in map(plain, members):
            left_out += count
            _put(packed, made.name, made.data)
    return left_out
