"""Removes one safeguard from every Python that starts with this folder in PYTHONPATH; EDI_TAKEN_OUT names it.

Python imports a module of this name at its start. The shipped code does not know it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any


class _Without:
    """A module with replacements for some names, looked up at each use."""

    def __init__(self, module: Any, **others: Any) -> None:
        self._module = module
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _nothing(*_: object, **__: object) -> None:
    pass


def _file_fsync() -> None:
    from edi_checkpointd.system import fs

    fs.os = _Without(os, fsync=_nothing)


def _folder_fsync() -> None:
    from edi_checkpointd.system import fs

    fs.sync_folder = _nothing


def _synchronous_full() -> None:
    from edi_checkpointd.journal import Journal

    opened = Journal.__init__

    def opens(self: Any, *arguments: Any, **options: Any) -> None:
        opened(self, *arguments, **options)
        self._db.execute("PRAGMA synchronous=NORMAL")

    Journal.__init__ = opens


def _resend() -> None:
    from edi_checkpoint.link.window import Window

    assert callable(Window.rewind)  # else a safeguard that has moved would stay
    Window.rewind = _nothing


def _dedupe_row() -> None:
    from edi_checkpointd.journal import Journal

    commit = Journal.commit
    Journal.commit = lambda self, transaction: commit(self, replace(transaction, numbers={}))


def _outbox_drain() -> None:
    from edi_checkpointd.writers.drains import OutboxDrains

    OutboxDrains.enqueue = _nothing


def _outbox_fsync() -> None:
    from edi_checkpoint.outbox.outbox import Outbox

    Outbox.sync = _nothing


TAKEN_OUT: dict[str, Callable[[], None]] = {
    "-": _nothing,
    "the file fsync": _file_fsync,
    "the folder fsync": _folder_fsync,
    "synchronous=FULL": _synchronous_full,
    "the outbox's fsync": _outbox_fsync,
    "the resend": _resend,
    "the dedupe row": _dedupe_row,
    "the outbox drain": _outbox_drain,
}
if __name__ == "sitecustomize":
    TAKEN_OUT[os.environ.get("EDI_TAKEN_OUT", "-")]()
