"""Settings: what one is, how its value is read and checked, and those that the client itself goes by.

A value comes from the configuration file (TOML), or from `EDI_CHECKPOINT_<KEY>`, which wins. The daemon's settings are
read by the same functions (`edi_checkpointd.config`), and a bad one stops it; here nothing may stop EDI: what cannot be
used is told and passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from edi_checkpoint.errors import ConfigError
from edi_checkpoint.system.paths import CONFIG

Value = float | int | tuple[str, ...]

PREFIX: Final = "EDI_CHECKPOINT_"
FILE_MAX_BYTES: Final = 1 << 20
SHOWN_MAX: Final = 60  # of a value in a message


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting; `low` and `high` belong to the range, and count the names of a list."""

    key: str
    default: Value
    low: float
    high: float
    unit: str
    help: str

    @property
    def variable(self) -> str:
        """The environment's name of this setting."""
        return PREFIX + self.key.upper()

    @property
    def flag(self) -> str:
        """The command line's name of this setting; with underscores it works too."""
        return "--" + self.key.replace("_", "-")

    @property
    def wanted(self) -> str:
        """What a value has to be, in words."""
        if isinstance(self.default, tuple):
            return f"a list of {self.low} to {self.high} names, none of them empty"
        kind = "a number" if isinstance(self.default, float) else "a whole number"
        return f"{kind} of {self.unit} from {self.low} to {self.high}"


class Limits(NamedTuple):
    """What a client goes by; `SETTINGS` has the units and ranges."""

    outbox_max_bytes: int = 256 << 20
    value_max_bytes: int = (64 << 20) - 1024  # one entry has at most 64 MiB; what is left is for its other fields
    value_max_depth: int = 100


_DEFAULTS = Limits()
SETTINGS: Final = (
    Setting(
        "outbox_max_bytes", _DEFAULTS.outbox_max_bytes, 1 << 16, 1 << 40, "bytes",
        "an outbox is compacted if its unacknowledged entries exceed this size",
    ),
    Setting(
        "value_max_bytes", _DEFAULTS.value_max_bytes, 1024, _DEFAULTS.value_max_bytes, "bytes",
        "largest single value, as JSON text",
    ),
    Setting(
        "value_max_depth", _DEFAULTS.value_max_depth, 1, _DEFAULTS.value_max_depth, "levels",
        "deepest nesting of a value",
    ),
)  # fmt: skip


def limits(config: Path, environ: Mapping[str, str]) -> tuple[Limits, list[str]]:
    """Return the client's settings by the file `config` (it may be missing) and `environ`, and sentences for the log.

    Whatever cannot be used is named there, with key, place and line, and does not count. Other keys are the daemon's.
    """
    values: dict[str, int] = {}
    warnings: list[str] = []

    def take(setting: Setting, read: Callable[[Setting, Any, str], Value], given: object, where: str) -> None:
        try:
            values[setting.key] = cast(int, read(setting, given, where))
        except ConfigError as error:
            warnings.append(f"{error}; it is passed over")

    try:
        in_file = {key: (value, where) for key, value, where in read_file(config)}
    except ConfigError as error:
        in_file = {}
        warnings.append(f"{error}; the file is passed over")
    for setting in SETTINGS:
        if setting.key in in_file:
            take(setting, checked, *in_file[setting.key])
        if text := environ.get(setting.variable):
            take(setting, parsed, text, setting.variable)
    return Limits(**values), warnings


def read_file(path: Path) -> Iterator[tuple[str, object, str]]:
    """Yield key, value and place (file and line) of what the TOML file `path` sets; nothing when it is missing.

    Raises `ConfigError`, naming the line where it can, for what is no TOML or cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror or error}",
            hint=f"make it a file that you may read, or set {CONFIG} to another",
        ) from error
    if len(raw) > FILE_MAX_BYTES:
        raise ConfigError(f"{path} is larger than {FILE_MAX_BYTES} bytes: that is no configuration of ours")
    import tomllib  # most have no file, and need not pay for what reads it

    try:
        text = raw.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        bad = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} line {bad} is not UTF-8", hint="save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:  # also numbers and nestings beyond what Python takes
        raise ConfigError(f"{path} is no TOML: {error}", hint="correct the place named") from error
    for key, value in table.items():
        line = _line_of(key, text)
        yield key, value, f"{path} line {line}" if line else str(path)


def _line_of(key: str, text: str) -> int | None:
    # tomllib does not tell; a line inside a text of several lines could mislead this, and only the message with it.
    found = re.search(rf"""^[ \t]*(?:\[+[ \t]*)?["']?{re.escape(key)}["']?[ \t]*[=.\]]""", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else None


def parsed(setting: Setting, text: str, where: str) -> Value:
    """Return the value that a text from the environment or a command line gives. Raises `ConfigError`."""
    if isinstance(setting.default, tuple):
        return checked(setting, [name.strip() for name in text.split(",")] if text.strip() else [], where)
    try:
        number = float(text) if isinstance(setting.default, float) else int(text)
    except ValueError:
        raise _refused(setting, text, where) from None
    return checked(setting, number, where)


def checked(setting: Setting, value: object, where: str) -> Value:
    """Return a value as the setting keeps it. Raises `ConfigError` for another type, or one out of range."""
    if isinstance(setting.default, tuple):
        if isinstance(value, list) and setting.low <= len(value) <= setting.high:
            names = tuple(name for name in value if isinstance(name, str) and name)
            if len(names) == len(value):
                return names
        raise _refused(setting, value, where)
    fractional = isinstance(setting.default, float)
    if isinstance(value, bool) or not isinstance(value, (int, float) if fractional else int):  # Python's true is an int
        raise _refused(setting, value, where)
    if not setting.low <= value <= setting.high:  # NaN is in no range
        raise _refused(setting, value, where)
    return float(value) if fractional else value


def _refused(setting: Setting, value: object, where: str) -> ConfigError:
    return ConfigError(
        f"{setting.key} = {shown(value)} in {where}: has to be {setting.wanted}",
        hint=f"correct it, or remove it to use the default {as_text(setting.default)}",
    )


def as_text(value: Value) -> str:
    """Return a value as the environment and the command line would give it."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def shown(value: object) -> str:
    """Return `value` for a message, cut to a readable length."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print a number of thousands of digits
        return "a number far too long"
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"
