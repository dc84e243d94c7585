from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"apscheduler", "watchdog", "apsw", "sqlite3", "cyclopts", "rich", "numpy", "PIL", "asyncio", "zmq"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that `code` loads in a new interpreter, by the interpreter's own account."""
    child = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]
    lines = [line for line in child.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_importing_the_client_loads_nothing_heavy() -> None:
    loaded = loaded_by("import edi_checkpoint")
    assert "edi_checkpoint" in loaded
    assert not loaded & HEAVY
    assert "msgspec" not in loaded
    assert "platformdirs" not in loaded


@pytest.mark.parametrize("name", ["errors", "SessionBusy", "SessionInfo"])
def test_catching_an_error_or_naming_a_type_loads_nothing_heavy(name: str) -> None:
    assert not loaded_by(f"from edi_checkpoint import {name}") & HEAVY


def test_connecting_loads_nothing_of_the_daemon() -> None:
    loaded = loaded_by("from edi_checkpoint import connect, StateManager, Session, Client")
    assert {"zmq", "msgspec"} <= loaded
    assert not loaded & (HEAVY - {"zmq", "asyncio"})
    assert "edi_checkpointd" not in loaded


def test_a_client_pays_for_reading_toml_only_where_there_is_a_file(tmp_path: Path) -> None:
    code = "from pathlib import Path; from edi_checkpoint.system import settings; settings.limits(Path(%r), {})"
    config = tmp_path / "config.toml"
    assert "tomllib" not in loaded_by(code % str(config))
    config.write_text("value_max_depth = 3\n")
    assert "tomllib" in loaded_by(code % str(config))


def test_publishing_bytes_and_plain_values_loads_no_numpy() -> None:
    code = (
        "from edi_checkpoint.values.codec import encode; encode({'a': [1, b'bytes', {'b': bytearray(3)}], 'c': {1, 2}})"
    )
    assert not loaded_by(code) & {"numpy", "PIL"}


def test_the_account_would_show_a_heavy_module() -> None:
    assert loaded_by("import sqlite3, asyncio") >= {"sqlite3", "asyncio"}


def test_every_public_name_can_be_loaded_and_is_known_to_type_checkers() -> None:
    import edi_checkpoint

    tree = ast.parse(Path(edi_checkpoint.__file__).read_text())
    [typed] = [part for part in tree.body if isinstance(part, ast.If)]
    names = [alias.asname for line in typed.body if isinstance(line, ast.ImportFrom) for alias in line.names]
    assert sorted(map(str, names)) == edi_checkpoint.__all__
    for name in edi_checkpoint.__all__:
        assert getattr(edi_checkpoint, name).__module__.startswith("edi_checkpoint"), name
    assert dir(edi_checkpoint) == edi_checkpoint.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        edi_checkpoint.nothing  # noqa: B018
