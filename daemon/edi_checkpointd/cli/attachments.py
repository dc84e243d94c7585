"""What `attachments` shows and extracts: the arrays and bytes that a session's state names.

Content is asked for one by one and verified by its digest; what is missing or damaged is named and stops nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from edi_checkpoint.errors import AttachmentDamaged, AttachmentMissing, EdiCheckpointError
from edi_checkpoint.protocol import StateAt
from edi_checkpoint.references import MARK, Reference, references
from edi_checkpointd.cli.source import Source

_NAME_MAX = 120  # of the path's part in a file's name
_UNFIT_IN_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class Named(NamedTuple):
    """An attachment that a state names: the JSON pointer of the place, and what is wrong with its content, if anything.

    `file` is where it was extracted to.
    """

    path: str
    reference: Reference
    fault: EdiCheckpointError | None
    file: Path | None = None


class AlreadyThere(EdiCheckpointError):
    """A file of another content stands where one was to be extracted to."""

    code = "already_there"
    default_hint = "nothing is overwritten: choose another folder"


def look(source: Source, state: StateAt, folder: Path | None) -> Iterator[Named]:
    """Yield what the state names, each looked at; with `folder` (made 0700), its content is put there as it is stored.

    Raises `AlreadyThere`, and OSError for a folder that cannot be made or written.
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
    """Write an attachment under a name made of path and digest; the path's own slashes and dots lead nowhere."""
    place = _UNFIT_IN_NAME.sub("_", path.strip("/").replace("/", "."))[:_NAME_MAX].lstrip(".")
    file = folder / f"{place}-{reference.sha256[:16]}.{reference.type}"
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if file.is_symlink() or not file.is_file() or file.read_bytes() != data:
            raise AlreadyThere(f"{file}: another file stands there") from None
        return file
    with open(fd, "wb") as opened:  # noqa: PTH123 - by its descriptor
        opened.write(data)
    return file
