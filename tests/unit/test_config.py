from __future__ import annotations

import argparse
import dataclasses
import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.errors import ConfigError
from edi_checkpoint.system.paths import Paths, locate
from edi_checkpoint.system.settings import Setting, as_text
from edi_checkpointd.config import SETTINGS, Config, add_flags, explain, flags_of, load

KEYS = {
    "autosave_every_s": 5.0,
    "checkpoint_every_s": 60.0,
    "transition_quiet_s": 0.25,
    "transition_max_s": 2.0,
    "transition_keys": ("current_stage", "status", "current_iteration", "attempt"),
    "keep_per_session": 10,
    "keep_automatic": 2,
    "keep_best": 0,
    "keep_stages": 0,
    "keep_sessions": 100,
    "keep_closed_days": 30.0,
    "trash_days": 7.0,
    "sessions_max_bytes": 2 * 1024**3,
    "history_hours": 24.0,
    "history_max_bytes": 256 * 1024**2,
    "outbox_max_bytes": 256 * 1024**2,
    "value_max_bytes": 64 * 1024**2 - 1024,
    "value_max_depth": 100,
    "damaged_max_bytes": 1 << 30,
    "attachments_max_bytes": 2 * 1024**3,
    "collect_every_s": 86400.0,
    "idle_exit_s": 300.0,
}
NUMBERS = [setting for setting in SETTINGS.values() if not isinstance(setting.default, tuple)]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return locate({"EDI_CHECKPOINT_HOME": str(tmp_path)})


def by_name(setting: Setting) -> str:
    return setting.key


def wrong_edges(setting: Setting) -> list[float]:
    step = 0.001 if isinstance(setting.default, float) else 1
    return [setting.low - step, setting.high + step]


# the table


def test_every_key_is_there_with_its_default() -> None:
    assert {key: setting.default for key, setting in SETTINGS.items()} == KEYS
    assert {key: Config().value(key) for key in SETTINGS} == KEYS


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=by_name)
def test_every_setting_says_what_it_is(setting: Setting) -> None:
    assert setting.help and setting.unit
    assert "\n" not in setting.help
    number = len(setting.default) if isinstance(setting.default, tuple) else setting.default
    assert setting.low <= number <= setting.high


def test_the_table_in_the_documents_is_that_of_the_code() -> None:
    rows = [
        f"| `{key}` | {setting.unit} | {setting.low} to {setting.high} | {as_text(setting.default)} | {setting.help} |"
        for key, setting in SETTINGS.items()
    ]
    text = Path(__file__).parents[2].joinpath("docs", "settings.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows


def test_the_settings_cannot_be_changed_after_the_start() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().keep_sessions = 3  # type: ignore[misc]


# load


def test_without_a_file_and_variables_the_defaults_hold(paths: Paths) -> None:
    config = load(paths, {})
    assert config == Config()
    assert config.warnings == ()
    assert {config.source(key) for key in SETTINGS} == {"default"}


@pytest.mark.parametrize("setting", NUMBERS, ids=by_name)
def test_both_ends_of_a_range_belong_to_it_wherever_they_are_set(paths: Paths, setting: Setting) -> None:
    for number in (setting.low, setting.high):
        paths.config.write_text(f"{setting.key} = {number}\n")
        for config in (
            load(paths, {}),
            load(paths, {setting.variable: str(number)}),
            load(paths, {}, {setting.key: str(number)}),
        ):
            assert config.value(setting.key) == number
            assert type(config.value(setting.key)) is type(setting.default)


@pytest.mark.parametrize("setting", NUMBERS, ids=by_name)
def test_a_number_out_of_range_is_refused_with_key_value_place_and_range(paths: Paths, setting: Setting) -> None:
    for number in wrong_edges(setting):
        paths.config.write_text(f"# ours\n\n{setting.key} = {number}\n")
        said = []
        for environ, flags in (({}, {}), ({setting.variable: str(number)}, {}), ({}, {setting.key: str(number)})):
            if environ or flags:
                paths.config.unlink(missing_ok=True)
            with pytest.raises(ConfigError) as caught:
                load(paths, environ, flags)
            said.append(str(caught.value))
            assert said[-1].startswith(f"{setting.key} = ")
            assert str(number) in said[-1]
            assert said[-1].endswith(f" of {setting.unit} from {setting.low} to {setting.high}")
            assert f"default {setting.default}" in caught.value.hint
        assert f"in {paths.config} line 3:" in said[0]
        assert f"in {setting.variable}:" in said[1]
        assert f"in {setting.flag}:" in said[2]


def test_flags_win_over_the_environment_and_that_over_the_file(paths: Paths) -> None:
    paths.config.write_text("keep_sessions = 1\nkeep_automatic = 1\ntrash_days = 1\n")
    environ = {"EDI_CHECKPOINT_KEEP_SESSIONS": "2", "EDI_CHECKPOINT_KEEP_AUTOMATIC": "2"}
    config = load(paths, environ, {"keep_sessions": "3"})
    assert (config.keep_sessions, config.keep_automatic, config.trash_days) == (3, 2, 1.0)
    assert [config.source(key) for key in ("keep_sessions", "keep_automatic", "trash_days", "idle_exit_s")] == [
        "flag",
        "environment",
        "file",
        "default",
    ]


def test_a_bad_value_is_refused_also_where_another_wins(paths: Paths) -> None:
    paths.config.write_text("keep_sessions = 0\n")
    with pytest.raises(ConfigError, match="line 1"):
        load(paths, {}, {"keep_sessions": "3"})


def test_two_configs_are_equal_when_their_values_are(paths: Paths) -> None:
    paths.config.write_text("trash_days = 7\n")
    assert load(paths, {}) == load(paths, {"EDI_CHECKPOINT_TRASH_DAYS": "7.0"}) == Config()


@pytest.mark.parametrize("value", ["true", "false", '"5"', "nan", "inf", "-inf", "[5]", "{}", "2026-11-23", "1e400"])
@pytest.mark.parametrize("key", ["autosave_every_s", "keep_sessions"])
def test_what_is_no_number_is_refused_from_the_file(paths: Paths, key: str, value: str) -> None:
    paths.config.write_text(f"{key} = {value}\n")
    with pytest.raises(ConfigError, match=f"{key} = .* in .*config.toml line 1: has to be a"):
        load(paths, {})


@pytest.mark.parametrize("text", ["five", "5s", "nan", "inf", " ", "5,0", "1e400", "9" * 5000])
@pytest.mark.parametrize("key", ["autosave_every_s", "keep_sessions"])
def test_what_is_no_number_is_refused_from_the_environment(paths: Paths, key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = .* in {SETTINGS[key].variable}: has to be a") as caught:
        load(paths, {SETTINGS[key].variable: text})
    assert len(str(caught.value)) < 300


def test_a_whole_number_is_no_fraction(paths: Paths) -> None:
    paths.config.write_text("keep_sessions = 10.0\n")
    with pytest.raises(ConfigError, match=r"keep_sessions = 10\.0 .* has to be a whole number of sessions"):
        load(paths, {})


def test_an_empty_variable_counts_as_unset(paths: Paths) -> None:
    assert load(paths, {"EDI_CHECKPOINT_KEEP_SESSIONS": "", "EDI_CHECKPOINT_TRANSITION_KEYS": ""}) == Config()


def test_a_list_comes_from_the_file_as_a_list_and_from_elsewhere_with_commas(paths: Paths) -> None:
    assert load(paths, {}, {"transition_keys": "a, b"}).transition_keys == ("a", "b")
    assert load(paths, {"EDI_CHECKPOINT_TRANSITION_KEYS": "a,b"}).transition_keys == ("a", "b")
    assert load(paths, {}, {"transition_keys": ""}).transition_keys == ()
    paths.config.write_text('transition_keys = ["a", "b"]\n')
    assert load(paths, {}).transition_keys == ("a", "b")


@pytest.mark.parametrize("value", ['"a"', "[1]", '[""]', '["a", 1]', str(["x"] * 65), "5"])
def test_a_list_of_anything_but_names_is_refused(paths: Paths, value: str) -> None:
    paths.config.write_text(f"transition_keys = {value}\n")
    with pytest.raises(ConfigError, match="transition_keys = .* line 1: has to be a list of 0 to 64 names"):
        load(paths, {})


def test_an_empty_name_in_a_variable_is_refused(paths: Paths) -> None:
    with pytest.raises(ConfigError, match="EDI_CHECKPOINT_TRANSITION_KEYS: has to be a list"):
        load(paths, {"EDI_CHECKPOINT_TRANSITION_KEYS": "a,,b"})


# the file


@pytest.mark.parametrize(
    ("text", "name", "line"),
    [
        ("keep_session = 3\n", "keep_session", 1),
        ("keep_sessions = 3\n\n# more\nautosave_s = 3\n", "autosave_s", 4),
        ('"autosave every s" = 3\n', "autosave every s", 1),
        ("\n[daemon]\nkeep_sessions = 3\n", "daemon", 2),
        ("\n[[daemon]]\n", "daemon", 2),
        ("daemon.keep_sessions = 3\n", "daemon", 1),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_closest_key(
    paths: Paths, text: str, name: str, line: int
) -> None:
    paths.config.write_text(text)
    with pytest.raises(
        ConfigError, match=f"'{name}' in {paths.config} line {line} is not a setting; the closest one is"
    ):
        load(paths, {})


def test_the_closest_key_is_the_one_that_was_meant(paths: Paths) -> None:
    for wrong, meant in (("keep_session", "keep_sessions"), ("autosave_s", "autosave_every_s")):
        paths.config.write_text(f"{wrong} = 3\n")
        with pytest.raises(ConfigError, match=f"the closest one is {meant}$"):
            load(paths, {})


def test_broken_toml_is_refused_with_its_line(paths: Paths) -> None:
    paths.config.write_text("keep_sessions = 3\ntrash_days = \n")
    with pytest.raises(ConfigError, match=r"config\.toml is no TOML: .*line 2"):
        load(paths, {})


def test_a_file_that_is_no_utf8_is_refused_with_its_line(paths: Paths) -> None:
    paths.config.write_bytes(b"# ours\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"config\.toml line 2 is not UTF-8"):
        load(paths, {})


@pytest.mark.parametrize(
    "text",
    ["keep_sessions = " + "9" * 5000, "keep_sessions = 0x" + "f" * 5000, "keep_sessions = " + "[" * 5000],
    ids=["decimal", "hexadecimal", "nested"],
)
def test_what_python_itself_refuses_to_read_ends_in_a_config_error(paths: Paths, text: str) -> None:
    paths.config.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load(paths, {})


@given(noise=st.binary(max_size=200))
def test_noise_in_the_file_raises_only_config_errors(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    paths = locate({"EDI_CHECKPOINT_HOME": str(tmp_path_factory.getbasetemp())})
    paths.config.write_bytes(noise)
    try:
        config = load(paths, {})
    except ConfigError as error:
        assert error.hint and str(paths.config) in str(error)
    else:
        assert config == Config()


def test_a_folder_in_place_of_the_file_is_refused(paths: Paths) -> None:
    paths.config.mkdir()
    with pytest.raises(ConfigError, match=r"config\.toml cannot be read: Is a directory") as caught:
        load(paths, {})
    assert "EDI_CHECKPOINT_CONFIG" in caught.value.hint


def test_a_file_that_is_far_too_large_is_not_read(paths: Paths) -> None:
    with paths.config.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="is larger than"):
        load(paths, {})


def test_an_empty_file_is_fine(paths: Paths) -> None:
    paths.config.write_text("# nothing yet\n")
    assert load(paths, {}) == Config()


# the environment


def test_an_unknown_variable_is_only_worth_a_warning(paths: Paths) -> None:
    config = load(paths, {"EDI_CHECKPOINT_KEEP_SESSION": "3", "OTHER": "4"})
    assert config == Config()
    (warning,) = config.warnings
    assert "EDI_CHECKPOINT_KEEP_SESSION is not a setting" in warning
    assert warning.endswith("the closest one is EDI_CHECKPOINT_KEEP_SESSIONS")


def test_places_and_the_client_s_variables_are_no_settings(paths: Paths) -> None:
    names = ("HOME", "SESSIONS_DIR", "STATE_DIR", "RUNTIME_DIR", "CONFIG", "AUTOSTART", "DISABLE")
    assert load(paths, {f"EDI_CHECKPOINT_{name}": "1" for name in names}).warnings == ()


# flags


def parsed(*arguments: str) -> dict[str, str]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--detached", action="store_true")
    add_flags(parser)
    return flags_of(parser.parse_args(arguments))


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=by_name)
def test_every_setting_is_a_flag_in_both_spellings(setting: Setting) -> None:
    assert parsed(setting.flag, "7") == parsed(f"--{setting.key}", "7") == {setting.key: "7"}


def test_flags_that_were_not_given_decide_nothing() -> None:
    assert parsed("--detached") == {}


def test_flags_are_taken_with_dashes_too(paths: Paths) -> None:
    assert load(paths, {}, {"--keep-sessions": "3"}) == load(paths, {}, {"keep_sessions": "3"})


def test_an_unknown_flag_is_refused_with_the_closest_one(paths: Paths) -> None:
    with pytest.raises(ConfigError, match="--keep-session is not a setting; the closest one is keep_sessions"):
        load(paths, {}, {"keep-session": "3"})


def test_help_names_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert all(setting.flag in text for setting in SETTINGS.values())
    assert "(default 300.0)" in text


# explain


def test_explain_says_for_every_setting_what_decided_it_and_where(paths: Paths) -> None:
    paths.config.write_text("\nkeep_sessions = 3\n")
    rows = {row["key"]: row for row in explain(load(paths, {"EDI_CHECKPOINT_TRASH_DAYS": "1"}))}
    assert list(rows) == list(SETTINGS)
    assert rows["autosave_every_s"].items() >= {"value": 5.0, "unit": "s", "source": "default", "where": None}.items()
    assert (rows["keep_sessions"]["source"], rows["keep_sessions"]["where"]) == ("file", f"{paths.config} line 2")
    assert (rows["trash_days"]["source"], rows["trash_days"]["where"]) == ("environment", "EDI_CHECKPOINT_TRASH_DAYS")


def test_the_fields_of_the_config_are_the_settings_and_their_sources() -> None:
    assert set(inspect.signature(Config).parameters) == {*SETTINGS, "origins", "warnings"}
