"""Every setting in one table (default, range, unit, description), and the function that loads all of them.

The table is the class `Config`. The keys of the TOML file, the variables `EDI_CHECKPOINT_<KEY>` and the flags `--<key>`
are derived from it. Flags override the environment, which overrides the file. A bad value is an error even if another
source overrides it, so that its author notices.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

from edi_checkpoint.errors import ConfigError
from edi_checkpoint.system import paths as places
from edi_checkpoint.system import settings
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.settings import PREFIX, SHOWN_MAX, Setting, Value, as_text, checked, parsed, read_file, shown

Source = Literal["default", "file", "environment", "flag"]

NOT_SETTINGS = frozenset((places.HOME, places.SESSIONS_DIR, places.STATE_DIR, places.RUNTIME_DIR, places.CONFIG)) | {
    "EDI_CHECKPOINT_AUTOSTART",
    "EDI_CHECKPOINT_DISABLE",
}
CLIENT_KEYS = frozenset(setting.key for setting in settings.SETTINGS)  # EDI reads them when it connects
_Default = TypeVar("_Default", float, int, tuple[str, ...])


def _setting(default: _Default, low: float, high: float, unit: str, meaning: str) -> _Default:
    field: _Default = dataclasses.field(default=default, metadata={"range": (low, high), "unit": unit, "help": meaning})
    return field


def _of_client(key: str) -> int:
    row = next(setting for setting in settings.SETTINGS if setting.key == key)
    return _setting(cast(int, row.default), row.low, row.high, row.unit, row.help)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings, checked. Two configurations are equal if their values are, whatever set them."""

    autosave_every_s: float = _setting(5.0, 0.1, 3600, "s", "interval of writing <id>.json of a changed session")
    checkpoint_every_s: float = _setting(60.0, 0.1, 86400, "s", "interval of checkpoints of a changed session")
    transition_quiet_s: float = _setting(
        0.25, 0, 10, "s", "a transition's checkpoint is made after this time without changes"
    )
    transition_max_s: float = _setting(2.0, 0, 60, "s", "longest delay of a transition's checkpoint")
    transition_keys: tuple[str, ...] = _setting(
        ("current_stage", "status", "current_iteration", "attempt"), 0, 64, "names", "keys whose change is a transition"
    )
    keep_per_session: int = _setting(10, 1, 1000, "checkpoints", "checkpoints kept per session, without pinned ones")
    keep_automatic: int = _setting(2, 0, 1000, "checkpoints", "how many of these may be made by timers and exits")
    keep_best: int = _setting(
        0, 0, 1000, "checkpoints", "this many more are kept: those with the best validation.score"
    )
    keep_stages: int = _setting(
        0, 0, 1000, "checkpoints", "this many more are kept: the last of each of the newest stages"
    )
    keep_sessions: int = _setting(100, 1, 1_000_000, "sessions", "how many ended and unfinished sessions are kept")
    keep_closed_days: float = _setting(30.0, 0, 36500, "days", "how long ended and unfinished sessions are kept")
    trash_days: float = _setting(7.0, 0, 36500, "days", "how long a session in the trash can be restored")
    sessions_max_bytes: int = _setting(
        2 << 30, 1 << 16, 1 << 50, "bytes", "the oldest documents, also in the trash, are deleted beyond this size"
    )
    history_hours: float = _setting(24.0, 0, 87600, "hours", "how long the history keeps every single change")
    history_max_bytes: int = _setting(256 << 20, 0, 1 << 50, "bytes", "the oldest history is deleted beyond this size")
    outbox_max_bytes: int = _of_client("outbox_max_bytes")
    value_max_bytes: int = _of_client("value_max_bytes")
    value_max_depth: int = _of_client("value_max_depth")
    damaged_max_bytes: int = _setting(
        1 << 30, 0, 1 << 50, "bytes", "the oldest files set aside as damaged are deleted beyond this size"
    )
    attachments_max_bytes: int = _setting(
        2 << 30, 0, 1 << 50, "bytes", "new attachments are refused beyond this total size"
    )
    collect_every_s: float = _setting(86400.0, 0.1, 604800, "s", "interval of the search for unused attachments")
    idle_exit_s: float = _setting(
        300.0, 0, 604800, "s", "a daemon started by a client ends after this time without clients (0 = never)"
    )

    origins: Mapping[str, tuple[Source, str]] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """For each key that was set: the kind of source, and the exact place (file and line, variable, flag)."""
    warnings: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    """Sentences for the log, about variables that look like settings but are not."""

    def value(self, key: str) -> Value:
        """Return the value of `key`, a key of `SETTINGS`."""
        value: Value = getattr(self, key)
        return value

    def source(self, key: str) -> Source:
        """Return the kind of source that set the value of `key`."""
        return self.origins.get(key, ("default", ""))[0]


def _row(field: dataclasses.Field[Any]) -> Setting:
    low, high = field.metadata["range"]
    return Setting(field.name, cast(Value, field.default), low, high, field.metadata["unit"], field.metadata["help"])


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {field.name: _row(field) for field in dataclasses.fields(Config) if field.metadata}
)


def load(paths: Paths, environ: Mapping[str, str], flags: Mapping[str, str] | None = None) -> Config:
    """Load the settings from `paths.config` (it may be missing), `environ` and `flags`; later ones override.

    `flags` maps keys to texts, as `flags_of` returns them. An empty variable counts as unset. Raises `ConfigError` for
    the first bad value; the error names key, value, place and range.
    """
    values: dict[str, Value] = {}
    origins: dict[str, tuple[Source, str]] = {}
    warnings: list[str] = []

    def use(key: str, value: Value, source: Source, where: str) -> None:
        values[key], origins[key] = value, (source, where)

    for key, value, where in read_file(paths.config):
        if key not in SETTINGS:
            raise ConfigError(f"{shown(key)} in {where} is not a setting{_meant(key, SETTINGS)}")
        use(key, checked(SETTINGS[key], value, where), "file", where)
    keys = {setting.variable: key for key, setting in SETTINGS.items()}
    for variable in sorted(name for name in environ if name.startswith(PREFIX) and name not in NOT_SETTINGS):
        if variable not in keys:
            warnings.append(f"the variable {variable} is not a setting and has no effect{_meant(variable, keys)}")
        elif environ[variable]:
            setting = SETTINGS[keys[variable]]
            use(setting.key, parsed(setting, environ[variable], variable), "environment", variable)
    for name, text in (flags or {}).items():
        key = name.removeprefix("--").replace("-", "_")
        if key not in SETTINGS:
            raise ConfigError(f"--{name.removeprefix('--')} is not a setting{_meant(key, SETTINGS)}")
        setting = SETTINGS[key]
        use(key, parsed(setting, text, setting.flag), "flag", setting.flag)
    # mypy cannot know that each value has its key's type; `checked` has ensured it.
    return Config(**values, origins=MappingProxyType(origins), warnings=tuple(warnings))  # type: ignore[arg-type]


def explain(config: Config) -> list[dict[str, object]]:
    """Return a row for each setting, as `config --json` prints it: key, value, unit, source, range, description."""
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
            "read_by": "client" if key in CLIENT_KEYS else "daemon",
        }
        for key, setting in SETTINGS.items()
    ]


class LiveConfig:
    """The settings in force. Each part reads `now` when it decides; a reload replaces them as a whole."""

    def __init__(self, config: Config) -> None:
        """Start with the settings `config`."""
        self.now = config

    def replace(self, config: Config) -> None:
        """Replace the settings in force by `config`."""
        self.now = config


def changes(before: Config, after: Config) -> list[str]:
    """Return a sentence for each setting that has another value in `after` than in `before`."""
    return [
        f"{key} is {as_text(after.value(key))} now, was {as_text(before.value(key))}"
        + ("; for clients that connect from now on" if key in CLIENT_KEYS else "")
        for key in SETTINGS
        if before.value(key) != after.value(key)
    ]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting to `parser`, as `--keep-sessions` and `--keep_sessions`; `load` checks the texts."""
    group = parser.add_argument_group("settings", "override the environment and the configuration file")
    for key, setting in SETTINGS.items():
        group.add_argument(
            setting.flag,
            f"--{key}",
            dest=key,
            default=argparse.SUPPRESS,
            metavar=setting.unit.upper(),
            help=f"{setting.help}, {_range(setting)} (default {as_text(setting.default)})".replace("%", "%%"),
        )


def _range(setting: Setting) -> str:
    counted = " names" if isinstance(setting.default, tuple) else ""
    return f"{setting.low} to {setting.high}{counted}"


def flags_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the settings in the parsed `arguments`, as `load` takes them."""
    return {key: text for key, text in vars(arguments).items() if key in SETTINGS}


def _meant(name: str, known: Mapping[str, object]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name[:SHOWN_MAX], known, n=1, cutoff=0.0)
    return f"; the closest one is {close[0]}"
