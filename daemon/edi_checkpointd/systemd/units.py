"""The texts of the user units. They come from the repository's folder `systemd`, which the package contains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.link.autostart import UNIT

SERVICE: Final = UNIT
SOCKET: Final = "edi-checkpointd.socket"


class UnitRefused(EdiCheckpointError):
    """The installed service would not work; nothing was changed."""

    code = "unit_refused"


def texts(command: Sequence[str]) -> Mapping[str, str]:
    """Return the text of each unit by name; `command` runs `edi-checkpointd`.

    Raises `UnitRefused` for a command that a unit cannot contain.
    """
    words = " ".join(_quoted(word) for word in command)
    return {name: (_folder() / name).read_text().replace("@COMMAND@", words) for name in (SERVICE, SOCKET)}


def _folder() -> Path:
    shipped = Path(__file__).with_name("unit_files")
    return shipped if shipped.is_dir() else Path(__file__).parents[3] / "systemd"  # a checkout


def _quoted(word: str) -> str:
    """Return `word` quoted for systemd.service(5), with `%` escaped."""
    if not word.isprintable():
        raise UnitRefused(
            f"a unit cannot contain the path {word!r}", hint="install edi-checkpoint in a folder with a plain name"
        )
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if escaped == word and " " not in word and "'" not in word else f'"{escaped}"'
