"""The texts of the user units. Their one source is the folder `systemd` of the repository, shipped with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from edi_checkpoint.autostart import UNIT
from edi_checkpoint.errors import EdiCheckpointError

SERVICE: Final = UNIT
SOCKET: Final = "edi-checkpointd.socket"


class UnitRefused(EdiCheckpointError):
    """The service cannot work as it would be installed; nothing was changed."""

    code = "unit_refused"


def texts(command: Sequence[str]) -> Mapping[str, str]:
    """Return the text of each unit by its name; `command` runs `edi-checkpointd`.

    Raises `UnitRefused` for a command that no unit can hold.
    """
    words = " ".join(_quoted(word) for word in command)
    return {name: (_folder() / name).read_text().replace("@COMMAND@", words) for name in (SERVICE, SOCKET)}


def _folder() -> Path:
    shipped = Path(__file__).with_name("systemd")
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "systemd"  # a checkout


def _quoted(word: str) -> str:
    """Return `word` as systemd.service(5) reads it back: quotes, and the `%` of specifiers."""
    if not word.isprintable():
        raise UnitRefused(
            f"the path {word!r} cannot stand in a unit", hint="install edi-checkpoint in a folder with a plain name"
        )
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if escaped == word and " " not in word and "'" not in word else f'"{escaped}"'
