"""Save the state of an EDI session at every change, make checkpoints, and resume after a crash.

    from edi_checkpoint import connect

    with connect() as client, client.session() as session:
        session.transition("analysis", image_path="/pictures/roof.jpg")
        session["scene"] = {"entities": []}
        session.checkpoint("workflow_transition")

`docs/api.md` shows every name with an example. A name is imported at its first use, which keeps `import edi_checkpoint`
fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edi_checkpoint.client import Client as Client
    from edi_checkpoint.client import connect as connect
    from edi_checkpoint.errors import ArraysMissing as ArraysMissing
    from edi_checkpoint.errors import AttachmentDamaged as AttachmentDamaged
    from edi_checkpoint.errors import AttachmentMissing as AttachmentMissing
    from edi_checkpoint.errors import AttachmentsFull as AttachmentsFull
    from edi_checkpoint.errors import CheckpointFailed as CheckpointFailed
    from edi_checkpoint.errors import DaemonUnavailable as DaemonUnavailable
    from edi_checkpoint.errors import EdiCheckpointError as EdiCheckpointError
    from edi_checkpoint.errors import Fenced as Fenced
    from edi_checkpoint.errors import FlushTimeout as FlushTimeout
    from edi_checkpoint.errors import NotFound as NotFound
    from edi_checkpoint.errors import OutboxFull as OutboxFull
    from edi_checkpoint.errors import ProtocolError as ProtocolError
    from edi_checkpoint.errors import SessionBusy as SessionBusy
    from edi_checkpoint.errors import SessionClosed as SessionClosed
    from edi_checkpoint.errors import SessionForked as SessionForked
    from edi_checkpoint.errors import SessionIdError as SessionIdError
    from edi_checkpoint.errors import StateValueError as StateValueError
    from edi_checkpoint.errors import UsageError as UsageError
    from edi_checkpoint.errors import VersionMismatch as VersionMismatch
    from edi_checkpoint.errors import WrongFolder as WrongFolder
    from edi_checkpoint.model import CheckpointInfo as CheckpointInfo
    from edi_checkpoint.model import Durable as Durable
    from edi_checkpoint.model import Gap as Gap
    from edi_checkpoint.model import NamedFile as NamedFile
    from edi_checkpoint.model import ResumeReport as ResumeReport
    from edi_checkpoint.model import SessionInfo as SessionInfo
    from edi_checkpoint.model import Verdict as Verdict
    from edi_checkpoint.session.session import Session as Session
    from edi_checkpoint.state_manager import StateManager as StateManager

_HOME = {
    "client": ("Client", "connect"),
    "errors": (
        "ArraysMissing", "AttachmentDamaged", "AttachmentMissing", "AttachmentsFull", "CheckpointFailed",
        "DaemonUnavailable", "EdiCheckpointError", "Fenced", "FlushTimeout", "NotFound", "OutboxFull", "ProtocolError",
        "SessionBusy", "SessionClosed", "SessionForked", "SessionIdError", "StateValueError", "UsageError",
        "VersionMismatch", "WrongFolder",
    ),
    "model": ("CheckpointInfo", "Durable", "Gap", "NamedFile", "ResumeReport", "SessionInfo", "Verdict"),
    "session.session": ("Session",),
    "state_manager": ("StateManager",),
}  # fmt: skip
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> object:
    """Return a public name, imported from its module."""
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
