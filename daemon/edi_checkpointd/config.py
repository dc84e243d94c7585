"""Every setting: its default, range, unit and meaning in one table, and the one value made of them at start.

The table is the class `Config` itself; the keys of the TOML file, the variables `EDI_CHECKPOINT_<KEY>` and the flags
`--<key>` are all read off it. Flags win over the environment, the environment over the file. A bad value is refused
wherever it stands, also where another one would win: who wrote it wants to know.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

from edi_checkpoint import paths as places
from edi_checkpoint.errors import ConfigError
from edi_checkpoint.paths import Paths

Value = float | int | tuple[str, ...]
Source = Literal["default", "file", "environment", "flag"]

PREFIX = "EDI_CHECKPOINT_"
NOT_SETTINGS = frozenset((places.HOME, places.SESSIONS_DIR, places.STATE_DIR, places.RUNTIME_DIR, places.CONFIG)) | {
    "EDI_CHECKPOINT_AUTOSTART",
    "EDI_CHECKPOINT_DISABLE",
}
FILE_MAX_BYTES = 1 << 20
_SHOWN_MAX = 60
_Default = TypeVar("_Default", float, int, tuple[str, ...])


def _setting(default: _Default, low: float, high: float, unit: str, meaning: str) -> _Default:
    field: _Default = dataclasses.field(default=default, metadata={"range": (low, high), "unit": unit, "help": meaning})
    return field


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings, checked. Two are equal when their values are, wherever those came from."""

    autosave_every_s: float = _setting(5.0, 0.1, 3600, "s", "write <id>.json of changed sessions this often")
    checkpoint_every_s: float = _setting(60.0, 0.1, 86400, "s", "make an interval checkpoint of changed sessions")
    transition_quiet_s: float = _setting(0.25, 0, 10, "s", "a transition is written once its session was quiet so long")
    transition_max_s: float = _setting(2.0, 0, 60, "s", "... or at the latest so long after it began")
    transition_keys: tuple[str, ...] = _setting(
        ("current_stage", "status", "current_iteration", "attempt"), 0, 64, "names", "keys whose change is a transition"
    )
    keep_per_session: int = _setting(10, 1, 1000, "checkpoints", "checkpoints kept per session, pins not counted")
    keep_automatic: int = _setting(2, 0, 1000, "checkpoints", "of these, at most so many made by timers and on exits")
    keep_sessions: int = _setting(100, 1, 1_000_000, "sessions", "ended and unfinished sessions kept")
    keep_closed_days: float = _setting(30.0, 0, 36500, "days", "... and for how long")
    trash_days: float = _setting(7.0, 0, 36500, "days", "what was dropped can be restored for so long")
    sessions_max_bytes: int = _setting(2 << 30, 1 << 16, 1 << 50, "bytes", "the sessions folder is pruned beyond this")
    history_hours: float = _setting(24.0, 0, 87600, "hours", "one can go back to every single change of this window")
    history_max_bytes: int = _setting(256 << 20, 0, 1 << 50, "bytes", "... which is shortened beyond this")
    outbox_max_bytes: int = _setting(256 << 20, 1 << 16, 1 << 40, "bytes", "an unsent outbox is compacted beyond this")
    # One entry has at most 64 MiB; what is left is for its other fields.
    value_max_bytes: int = _setting((64 << 20) - 1024, 1024, (64 << 20) - 1024, "bytes", "the largest single value")
    value_max_depth: int = _setting(100, 1, 500, "levels", "the deepest nesting; JSON readers give up near 1,000")
    attachments_max_bytes: int = _setting(2 << 30, 0, 1 << 50, "bytes", "attachments of all sessions; more is refused")
    collect_every_s: float = _setting(
        86400.0, 0.1, 604800, "s", "attachments that nothing names are looked for so often"
    )
    idle_exit_s: float = _setting(300.0, 0, 604800, "s", "a daemon that a client started leaves when unused; 0 = never")

    origins: Mapping[str, tuple[Source, str]] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """For each key that was set: by what, and where exactly (file and line, variable, flag)."""
    warnings: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    """Sentences for the log: variables that look like settings and are none."""

    def value(self, key: str) -> Value:
        """Return the value of `key`, a key of `SETTINGS`."""
        value: Value = getattr(self, key)
        return value

    def source(self, key: str) -> Source:
        """Return what decided the value of `key`."""
        return self.origins.get(key, ("default", ""))[0]


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table; `low` and `high` belong to the range, and count the names of a list."""

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


def _row(field: dataclasses.Field[Any]) -> Setting:
    low, high = field.metadata["range"]
    return Setting(field.name, cast(Value, field.default), low, high, field.metadata["unit"], field.metadata["help"])


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {field.name: _row(field) for field in dataclasses.fields(Config) if field.metadata}
)


def load(paths: Paths, environ: Mapping[str, str], flags: Mapping[str, str] | None = None) -> Config:
    """Return the settings of the file `paths.config` (it may be missing), of `environ` and of `flags`, in rising rank.

    `flags` are texts by key, as `flags_of` gives them. An empty variable counts as unset. Raises `ConfigError` for the
    first value that cannot be used, naming key, value, place and range.
    """
    values: dict[str, Value] = {}
    origins: dict[str, tuple[Source, str]] = {}
    warnings: list[str] = []

    def take(key: str, value: Value, source: Source, where: str) -> None:
        values[key], origins[key] = value, (source, where)

    for key, value, where in _read_file(paths):
        take(key, _checked(SETTINGS[key], value, where), "file", where)
    keys = {setting.variable: key for key, setting in SETTINGS.items()}
    for variable in sorted(name for name in environ if name.startswith(PREFIX) and name not in NOT_SETTINGS):
        if variable not in keys:
            warnings.append(f"the variable {variable} is no setting and has no effect{_meant(variable, keys)}")
        elif environ[variable]:
            setting = SETTINGS[keys[variable]]
            take(setting.key, _parsed(setting, environ[variable], variable), "environment", variable)
    for name, text in (flags or {}).items():
        key = name.removeprefix("--").replace("-", "_")
        if key not in SETTINGS:
            raise ConfigError(f"--{name.removeprefix('--')} is no setting{_meant(key, SETTINGS)}")
        setting = SETTINGS[key]
        take(key, _parsed(setting, text, setting.flag), "flag", setting.flag)
    # mypy cannot know that each value has its key's type; _checked saw to it.
    return Config(**values, origins=MappingProxyType(origins), warnings=tuple(warnings))  # type: ignore[arg-type]


def explain(config: Config) -> list[dict[str, object]]:
    """Return a row for each setting, ready for `config --json`: key, value, unit, source and what else is known."""
    return [
        {
            "key": key,
            "value": config.value(key),
            "unit": setting.unit,
            "source": config.source(key),
            "where": config.origins.get(key, (None, None))[1],
            "default": setting.default,
            "low": setting.low,
            "high": setting.high,
            "help": setting.help,
        }
        for key, setting in SETTINGS.items()
    ]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give `parser` a flag for each setting, as `--keep-sessions` and `--keep_sessions`; the texts stay unchecked."""
    group = parser.add_argument_group("settings", "win over the environment and the configuration file")
    for key, setting in SETTINGS.items():
        group.add_argument(
            setting.flag,
            f"--{key}",
            dest=key,
            default=argparse.SUPPRESS,
            metavar=setting.unit.upper(),
            help=f"{setting.help}, {_range(setting)} (default {_as_text(setting.default)})".replace("%", "%%"),
        )


def _range(setting: Setting) -> str:
    counted = " names" if isinstance(setting.default, tuple) else ""
    return f"{setting.low} to {setting.high}{counted}"


def flags_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the settings among parsed `arguments`, as `load` takes them."""
    return {key: text for key, text in vars(arguments).items() if key in SETTINGS}


def _read_file(paths: Paths) -> Iterator[tuple[str, object, str]]:
    path = paths.config
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror or error}",
            hint=f"make it a file that you may read, or set {places.CONFIG} to another",
        ) from error
    if len(raw) > FILE_MAX_BYTES:
        raise ConfigError(f"{path} is larger than {FILE_MAX_BYTES} bytes: that is no configuration of ours")
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
        where = f"{path} line {line}" if line else str(path)
        if key not in SETTINGS:
            raise ConfigError(f"{_shown(key)} in {where} is no setting{_meant(key, SETTINGS)}")
        yield key, value, where


def _line_of(key: str, text: str) -> int | None:
    # tomllib does not tell; a line inside a text of several lines could mislead this, and only the message with it.
    found = re.search(rf"""^[ \t]*(?:\[+[ \t]*)?["']?{re.escape(key)}["']?[ \t]*[=.\]]""", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else None


def _parsed(setting: Setting, text: str, where: str) -> Value:
    if isinstance(setting.default, tuple):
        return _checked(setting, [name.strip() for name in text.split(",")] if text.strip() else [], where)
    try:
        number = float(text) if isinstance(setting.default, float) else int(text)
    except ValueError:
        raise _refused(setting, text, where) from None
    return _checked(setting, number, where)


def _checked(setting: Setting, value: object, where: str) -> Value:
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
        f"{setting.key} = {_shown(value)} in {where}: has to be {setting.wanted}",
        hint=f"correct it, or remove it to use the default {_as_text(setting.default)}",
    )


def _as_text(value: Value) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print a number of thousands of digits
        return "a number far too long"
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"


def _meant(name: str, known: Mapping[str, object]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name[:_SHOWN_MAX], known, n=1, cutoff=0.0)
    return f"; the closest one is {close[0]}"
