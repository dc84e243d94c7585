from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.system.settings import SETTINGS, Limits, Setting, limits

DEFAULTS = Limits()


def test_without_a_file_and_variables_the_clients_defaults_hold(tmp_path: Path) -> None:
    assert limits(tmp_path / "config.toml", {}) == (DEFAULTS, [])


def test_the_clients_settings_come_from_the_file_and_the_environment_wins(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("value_max_depth = 7\nvalue_max_bytes = 5000\nkeep_sessions = 3\n")
    found, warnings = limits(config, {"EDI_CHECKPOINT_VALUE_MAX_BYTES": "6000", "EDI_CHECKPOINT_VALUE_MAX_DEPTH": ""})
    assert found == DEFAULTS._replace(value_max_depth=7, value_max_bytes=6000)
    assert warnings == []


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_a_bad_value_is_told_with_key_place_and_line_and_does_not_count(tmp_path: Path, setting: Setting) -> None:
    config = tmp_path / "config.toml"
    for bad in (setting.low - 1, setting.high + 1, "'x'", "1.5", "true"):
        config.write_text(f"# ours\n{setting.key} = {bad}\n")
        found, (warning,) = limits(config, {})
        assert found == DEFAULTS
        assert f"{setting.key} = " in warning and f"{config} line 2: has to be {setting.expected}" in warning
    found, warnings = limits(tmp_path / "none", {setting.variable: "1e3"})
    assert found == DEFAULTS
    assert setting.variable in warnings[0]


def test_a_variable_that_cannot_be_used_leaves_the_files_value(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("value_max_depth = 7\n")
    found, warnings = limits(config, {"EDI_CHECKPOINT_VALUE_MAX_DEPTH": "many"})
    assert found.value_max_depth == 7
    assert len(warnings) == 1


@given(noise=st.binary(max_size=200))
def test_no_bytes_in_the_file_can_keep_edi_from_its_work(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    config = tmp_path_factory.getbasetemp() / "noise.toml"
    config.write_bytes(noise)
    found, warnings = limits(config, {})
    assert found == DEFAULTS
    assert all(str(config) in warning for warning in warnings)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    found, (warning,) = limits(tmp_path, {})
    assert found == DEFAULTS
    assert f"{tmp_path} cannot be read" in warning
