"""What `install` can show and refuse without a systemd; `tests/systemd` installs on a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import Home

from edi_checkpointd.systemd import units

RUNS_SYSTEMD = Path("/run/systemd/system").is_dir()


def run(home: Home, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edi_checkpointd", *words],
        env={**home.environment, "HOME": str(home.folder), **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_dry_run_prints_both_units_with_this_interpreter_and_writes_nothing(home: Home) -> None:
    done = run(home, "install", "--dry-run")
    assert done.returncode == 0
    assert f"ExecStart={sys.executable} -I -m edi_checkpointd run\n" in done.stdout
    assert "\nListenStream=%t/edi-checkpoint/daemon.sock\n" in done.stdout
    assert "@" not in done.stdout.replace("@system-service", "")
    assert not home.folder.exists()


@pytest.mark.skipif(RUNS_SYSTEMD, reason="this machine runs systemd")
@pytest.mark.skipif(
    Path(sys.prefix).is_relative_to(tempfile.gettempdir()), reason="these tests run from a temporary folder: told first"
)
def test_without_systemd_install_says_what_happens_instead_and_changes_nothing(home: Home) -> None:
    done = run(home, "install")
    assert done.returncode == 1
    assert "the first client starts a daemon" in done.stderr
    assert not home.folder.exists()
    done = run(home, "uninstall")
    assert done.returncode == 0
    assert "no service is installed" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_install_by_sudo_is_refused_and_names_who_should_run_it(home: Home) -> None:
    done = run(home, "install", SUDO_UID="1000", SUDO_USER="ann")
    assert done.returncode == 1
    assert "run it as ann, without sudo" in done.stderr


def test_an_interpreter_in_a_temporary_folder_is_refused(home: Home, tmp_path: Path) -> None:
    here = Path(sys.prefix)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    folder = "lib/python{}.{}/site-packages".format(*sys.version_info)
    shutil.rmtree(tmp_path / "venv" / folder)
    (tmp_path / "venv" / folder).symlink_to(here / folder)
    done = subprocess.run(
        [tmp_path / "venv/bin/python", "-m", "edi_checkpointd", "install"],
        env=home.environment | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"{tmp_path}/venv/bin/python is in" in done.stderr


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/opt/python3", "/opt/python3"),
        ("/opt/my python/bin/python3", '"/opt/my python/bin/python3"'),
        ("/opt/100%/python3", '"/opt/100%%/python3"'),
        ('/opt/"quoted"\\/python3', '"/opt/\\"quoted\\"\\\\/python3"'),
        ("/opt/ann's/python3", '"/opt/ann\'s/python3"'),
    ],
)
def test_an_interpreter_is_written_as_systemd_reads_it(word: str, written: str) -> None:
    assert (
        f"\nExecStart={written} -m edi_checkpointd run\n" in units.texts([word, "-m", "edi_checkpointd"])[units.SERVICE]
    )


def test_a_path_that_no_unit_can_hold_is_refused() -> None:
    with pytest.raises(units.UnitRefused, match="a unit cannot contain"):
        units.texts(["/opt/two\nlines/python3"])
