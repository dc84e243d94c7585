"""The client's settings, and the functions that read and check a setting.

A value comes from the configuration file (TOML), or from `EDI_CHECKPOINT_<KEY>`, which overrides the file. The daemon
reads its settings with the same functions (`edi_checkpointd.config`), and does not start with a bad value. A client
must not stop EDI: it logs a warning and ignores the bad value.
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
_FILE_MAX_BYTES: Final = 1 << 20
SHOWN_MAX: Final = 60  # of a value in a message


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. Its range includes `low` and `high`; for a list they limit the number of names."""

    key: str
    default: Value
    low: float
    high: float
    unit: str
    help: str

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return PREFIX + self.key.upper()

    @property
    def flag(self) -> str:
        """The name of the command-line flag; with underscores it works too."""
        return "--" + self.key.replace("_", "-")

    @property
    def expected(self) -> str:
        """A description of the allowed values."""
        if isinstance(self.default, tuple):
            return f"a list of {self.low} to {self.high} names, none of them empty"
        kind = "a number" if isinstance(self.default, float) else "a whole number"
        return f"{kind} of {self.unit} from {self.low} to {self.high}"


class Limits(NamedTuple):
    """The client's settings; `SETTINGS` has their units and ranges."""

    outbox_max_bytes: int = 256 << 20
    value_max_bytes: int = (64 << 20) - 1024  # an entry has at most 64 MiB, with its other fields
    value_max_depth: int = 100


_DEFAULTS = Limits()
SETTINGS: Final = (
    Setting("outbox_max_bytes", _DEFAULTS.outbox_max_bytes, 1 << 16, 1 << 40, "bytes",
            "an outbox is compacted if its unacknowledged entries exceed this size"),
    Setting("value_max_bytes", _DEFAULTS.value_max_bytes, 1024, _DEFAULTS.value_max_bytes, "bytes",
            "largest single value, as JSON text"),
    Setting("value_max_depth", _DEFAULTS.value_max_depth, 1, _DEFAULTS.value_max_depth, "levels",
            "deepest nesting of a value"),
)  # fmt: skip


def limits(config: Path, environ: Mapping[str, str]) -> tuple[Limits, list[str]]:
    """Return the client's settings from the file `config` (it may be missing) and `environ`, and warnings for the log.

    A bad value is ignored; its warning names the key, the place and the line. Other keys are the daemon's.
    """
    values: dict[str, int] = {}
    warnings: list[str] = []

    def take(setting: Setting, read: Callable[[Setting, Any, str], Value], given: object, where: str) -> None:
        try:
            values[setting.key] = cast(int, read(setting, given, where))
        except ConfigError as error:
            warnings.append(f"{error}; it is ignored")

    try:
        in_file = {key: (value, where) for key, value, where in read_file(config)}
    except ConfigError as error:
        in_file = {}
        warnings.append(f"{error}; the file is ignored")
    for setting in SETTINGS:
        if setting.key in in_file:
            take(setting, checked, *in_file[setting.key])
        if text := environ.get(setting.variable):
            take(setting, parsed, text, setting.variable)
    return Limits(**values), warnings


def read_file(path: Path) -> Iterator[tuple[str, object, str]]:
    """Yield the keys of the TOML file `path`, each with its value and place (file and line). The file may be missing.

    Raises `ConfigError`, if possible with the line, for a file that is not TOML or cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror or error}",
            hint=f"make it a file that you may read, or set {CONFIG} to another",
        ) from error
    if len(raw) > _FILE_MAX_BYTES:
        raise ConfigError(f"{path} is larger than {_FILE_MAX_BYTES} bytes, too large for a configuration")
    import tomllib  # most users have no file, and this import takes time

    try:
        text = raw.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        bad = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} line {bad} is not UTF-8", hint="save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:  # also for huge numbers and deep nesting
        raise ConfigError(f"{path} is no TOML: {error}", hint="correct the place that the message names") from error
    for key, value in table.items():
        line = _line_of(key, text)
        yield key, value, f"{path} line {line}" if line else str(path)


def _line_of(key: str, text: str) -> int | None:
    # tomllib gives no lines. A line of a multi-line text may match instead; then only the message is wrong.
    found = re.search(rf"""^[ \t]*(?:\[+[ \t]*)?["']?{re.escape(key)}["']?[ \t]*[=.\]]""", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else None


def parsed(setting: Setting, text: str, where: str) -> Value:
    """Return the value of a text from the environment or a command line. Raises `ConfigError`."""
    if isinstance(setting.default, tuple):
        return checked(setting, [name.strip() for name in text.split(",")] if text.strip() else [], where)
    try:
        number = float(text) if isinstance(setting.default, float) else int(text)
    except ValueError:
        raise _bad_value(setting, text, where) from None
    return checked(setting, number, where)


def checked(setting: Setting, value: object, where: str) -> Value:
    """Return a value in the setting's type. Raises `ConfigError` for another type, or a value out of range."""
    low, high, fractional = setting.low, setting.high, isinstance(setting.default, float)
    if isinstance(setting.default, tuple):
        if isinstance(value, list) and low <= len(value) <= high and all(isinstance(one, str) and one for one in value):
            return tuple(value)
    # A bool is an int, and NaN is in no range.
    elif (
        isinstance(value, (int, float) if fractional else int) and not isinstance(value, bool) and low <= value <= high
    ):
        return float(value) if fractional else value
    raise _bad_value(setting, value, where)


def _bad_value(setting: Setting, value: object, where: str) -> ConfigError:
    return ConfigError(
        f"{setting.key} = {shown(value)} in {where}: has to be {setting.expected}",
        hint=f"correct it, or remove it to use the default {as_text(setting.default)}",
    )


def as_text(value: Value) -> str:
    """Return a value as text for the environment or the command line."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def shown(value: object) -> str:
    """Return `value` as text for a message, cut to a readable length."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print a number of thousands of digits
        return "a number that is far too long"
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"
