"""Load and extract the arrays and bytes of a session's state, for the command `attachments`.

Each content is loaded by itself and verified by its digest. A missing or damaged one is reported; the others follow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from edi_checkpoint.errors import AttachmentDamaged, AttachmentMissing, EdiCheckpointError
from edi_checkpoint.wire.messages import StateAt
from edi_checkpoint.wire.references import MARK, Reference, references
from edi_checkpointd.cli.source import Source

_NAME_MAX = 120  # characters of the path that go into the file name
_UNFIT_IN_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class Named(NamedTuple):
    """An attachment of a state: its JSON pointer, and the fault of its content, if any.

    `file` is the extracted file.
    """

    path: str
    reference: Reference
    fault: EdiCheckpointError | None
    file: Path | None = None


class AlreadyThere(EdiCheckpointError):
    """A file with other content has the name of the file to extract."""

    code = "already_there"
    default_hint = "nothing is overwritten: choose another folder"


def inspect(source: Source, state: StateAt, folder: Path | None) -> Iterator[Named]:
    """Load and yield each attachment of a state; with `folder` (created 0700), also write its content there.

    Raises `AlreadyThere`, and OSError for a folder that cannot be created or written.
    """
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for key, text in state.state.items():
        if MARK not in text:
            continue
        for path, reference in references({key: msgspec.json.decode(text)}):
            try:
                data = source.attachment(state.session_id, reference)
            except (AttachmentMissing, AttachmentDamaged) as error:
                yield Named(path, reference, error)
            else:
                file = None if folder is None else _extract(folder, path, reference, data)
                yield Named(path, reference, None, file)


def _extract(folder: Path, path: str, reference: Reference, data: bytes) -> Path:
    """Write an attachment to a file named by path and digest. Slashes and dots of the path cannot leave the folder."""
    place = _UNFIT_IN_NAME.sub("_", path.strip("/").replace("/", "."))[:_NAME_MAX].lstrip(".")
    file = folder / f"{place}-{reference.sha256[:16]}.{reference.type}"
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if file.is_symlink() or not file.is_file() or file.read_bytes() != data:
            raise AlreadyThere(f"{file} exists already, with other content") from None
        return file
    with open(fd, "wb") as opened:  # noqa: PTH123 - by its descriptor
        opened.write(data)
    return file
