"""The commands `export` and `import`: write a session to one file, and read it back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from edi_checkpoint.documents.names import attachment_name, autosave_name, check_session_id, parse_checkpoint_name
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError, SessionExists
from edi_checkpoint.system.paths import Paths, ensure_private, locate
from edi_checkpoint.system.safe_open import read_regular
from edi_checkpoint.wire import messages
from edi_checkpointd.cli.app import app, chosen, open_source, software, tell
from edi_checkpointd.cli.arguments import AsJson, SessionArgument, flag
from edi_checkpointd.cli.daemon import order
from edi_checkpointd.cli.output.screen import size
from edi_checkpointd.cli.source import Source
from edi_checkpointd.cli.views import documents

if TYPE_CHECKING:
    from edi_checkpointd.transfer.archive import Member

_DAMAGED = "run `edi-checkpointd stop; edi-checkpointd check --repair`, which sets it aside; then export again"


class FileExists(EdiCheckpointError):
    """A file with the name to write exists already."""

    code = "file_exists"
    default_hint = "--force replaces it"


@app.command(sort_key=22, usage="Usage: edi-checkpoint export SESSION FILE [--plain] [--force] [--json]")
def export(
    session: SessionArgument,
    file: Annotated[Path, Parameter(help="The file to write, a zip.")],
    /,
    *,
    plain: Annotated[bool, flag("Write what EDI's own class can read: no masks, no extra keys.")] = False,
    force: Annotated[bool, flag("Replace an existing file.")] = False,
    json: AsJson = False,
) -> None:
    """Write a session to one file.

    The file contains the current state, the checkpoints with labels and pins,
    and the masks. It does not contain the history of single changes.
    `edi-checkpoint import` reads the file, on any machine and also after a
    purge.

    Example: edi-checkpoint export lighthouse lighthouse.zip
    """
    from edi_checkpointd.system.fs import appearing
    from edi_checkpointd.transfer import archive

    with open_source() as source:
        session_id = chosen(source, session)
        found = list(_documents(source, session_id))
        checkpoints = sum(parse_checkpoint_name(member.name) is not None for member in found)
        left_out = 0
        try:
            with appearing(file.absolute(), replace=force) as opened:
                if plain:
                    left_out = archive.write_plain(opened, found)
                else:
                    members = [*found, *_attachments(source, session_id, found)]
                    archive.write(opened, session_id, software(), datetime.now(UTC), members)
        except FileExistsError:
            raise FileExists(f"{file} exists already") from None
    written = file.stat().st_size
    if left_out:
        tell(f"{left_out} arrays and bytes are null in the file, because EDI's own class cannot read them")
    if json:
        counts = {"checkpoints": checkpoints, "bytes": written, "left_out": left_out}
        documents.write({"session_id": session_id, "file": str(file), **counts})
    else:
        print(f"session {session_id} exported to {file}: {checkpoints} checkpoints, {size(written)}")


def _documents(source: Source, session_id: str) -> Iterator[Member]:
    """Yield a session's checkpoints, and its current state as an auto-save.

    Raises `DocumentDamaged`, `VersionMismatch`.
    """
    from edi_checkpoint.documents.fragments import fragment
    from edi_checkpoint.documents.layout import autosave_document
    from edi_checkpoint.documents.reader import parse_autosave
    from edi_checkpoint.home.listing import header_of
    from edi_checkpointd.transfer.archive import Member, parse

    folder = locate().sessions
    for info in source.checkpoints(session_id):
        try:
            member = Member(info.name, read_regular(folder / info.name))
        except FileNotFoundError:
            continue  # the daemon deleted it meanwhile, by rule
        try:
            parse(member)
        except DocumentDamaged as error:
            raise DocumentDamaged(error.message, hint=_DAMAGED) from error
        yield member
    now, name = source.state(session_id), autosave_name(session_id)
    try:
        data = read_regular(folder / name)
        if parse_autosave(data, name).header.sequence >= now.sequence:
            yield Member(name, data)
            return
    except (FileNotFoundError, EdiCheckpointError):
        pass  # `now` has the current state
    fragments = {key: fragment(text) for key, text in now.state.items()}
    header = header_of(session_id, fragments, now.sequence, now.time_us, now.parent_session)
    yield Member(name, b"".join(autosave_document(header, fragments)))


def _attachments(source: Source, session_id: str, found: list[Member]) -> Iterator[Member]:
    """Yield each attachment that the documents name, once. Raises `AttachmentMissing`, `AttachmentDamaged`."""
    from edi_checkpointd.transfer.archive import Member, attachments_named, parse

    named = {reference.sha256: reference for member in found for reference in attachments_named(parse(member))}
    for digest in sorted(named):
        name = attachment_name(digest, named[digest].type).partition("/")[2]
        yield Member(name, source.attachment(session_id, named[digest]))


@app.command(name="import", sort_key=23, usage="Usage: edi-checkpoint import FILE [--as ID] [--json]")
def import_(
    file: Annotated[Path, Parameter(help="A file that `export` wrote.")],
    /,
    *,
    new: Annotated[str | None, Parameter("--as", help="The new session's id; by default its old id.")] = None,
    json: AsJson = False,
) -> None:
    """Import a session from a file that `export` wrote.

    The command verifies the whole file first. It never overwrites a session.

    Example: edi-checkpoint import lighthouse.zip --as lighthouse-again
    """
    from edi_checkpoint.system.safe_open import open_regular
    from edi_checkpointd.cli.output.progress import Bar
    from edi_checkpointd.transfer.archive import Archive

    paths = locate()
    with open_regular(file, follow=True) as raw, open(raw.fileno(), "rb", closefd=False) as opened:
        archive = Archive(opened)
        with Bar("verifying") as bar:
            archive.verify(bar)
        session_id = check_session_id(archive.manifest.session_id if new is None else new)
        with open_source() as source:
            if any(row.session_id == session_id for row in source.trashed()) or source.knows(session_id):
                raise SessionExists(
                    f"session {session_id} exists already", hint="import it under another id with --as ID"
                )
        _bring_in(paths, session_id, archive.members(session_id))
    checkpoints = sum(
        parse_checkpoint_name(entry.name.partition("/")[2]) is not None for entry in archive.manifest.entries
    )
    size_bytes = sum(entry.bytes for entry in archive.manifest.entries)
    if json:
        documents.write({"session_id": session_id, "file": str(file), "checkpoints": checkpoints, "bytes": size_bytes})
    else:
        print(f"session {session_id} imported: {checkpoints} checkpoints, {size(size_bytes)}")


def _bring_in(paths: Paths, session_id: str, members: Iterator[Member]) -> None:
    """Stage a session's files, and let the daemon import them. Raises `DaemonUnavailable`, `SessionExists`, OSError."""
    from edi_checkpointd.transfer.staging import stage, staging

    folder = staging(paths, session_id, os.getpid())
    ensure_private(paths.sessions)
    try:
        stage(folder, ((member.name, member.data) for member in members))
        order(messages.Imported, lambda request: messages.Import(request, session_id, os.getpid()))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
