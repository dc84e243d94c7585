"""Each fault that doctor knows, produced, reported with its remedy, the remedy followed: green again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from disks import SmallDisk
from harness import Home, eventually

from edi_checkpoint.documents.layout import Header, checkpoint_document
from edi_checkpoint.documents.names import checkpoint_name
from edi_checkpoint.model import Kind
from edi_checkpoint.system.paths import locate
from edi_checkpointd.cli.checks import CHECKS, finding_of, places, serving
from edi_checkpointd.cli.checks.finding import CheckResult
from edi_checkpointd.cli.checks.setup import Setup

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
VERSION = "0.1.0"
OLD_DAEMON = """
import sys
from edi_checkpointd import __main__; from edi_checkpointd.server import run as service
service.installed_version = lambda: "0.0.9"
sys.exit(__main__.main(["run"]))
"""
OLD_SQLITE = """
import sys, apsw
from edi_checkpointd.cli import main
if len(sys.argv) > 1:
    apsw.sqlite_lib_version = lambda: sys.argv[1]
sys.exit(main(["doctor", "--json"]))
"""
HOLD_THE_LOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(1000)
"""
SYSTEMCTL = """#!/bin/sh
case "$*" in
  *is-active*) cat {state} ;;
  *is-enabled*) echo enabled ;;
  *start*) echo active > {state} ;;
esac
"""

Followed = Literal["as a command", "by hand"]
"""Whether the remedy is run as it stands, or is followed by the fault itself when it is gone on with."""
FAULTS: dict[str, tuple[str, Callable[[Home], Iterator[Followed]]]] = {}


def of(check: str) -> Callable[[Callable[[Home], Iterator[Followed]]], Callable[[Home], Iterator[Followed]]]:
    """Take a function that produces a fault of `check` into the table."""

    def add(produce: Callable[[Home], Iterator[Followed]]) -> Callable[[Home], Iterator[Followed]]:
        FAULTS[produce.__name__] = (check, produce)
        return produce

    return add


def checked(home: Home, name: str) -> CheckResult:
    """Return what a check finds."""
    return finding_of(name, Setup(locate(home.environment), home.environment, VERSION))


def doctor(home: Home, *arguments: str, **environment: str) -> dict[str, dict]:
    """Return what the command finds, by check."""
    done = subprocess.run(
        [sys.executable, *(arguments or ("-m", "edi_checkpointd.cli", "doctor", "--json"))],
        env={**home.environment, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert (found["format"], done.returncode) == (1, 0 if found["ok"] else 6), done.stderr
    return {check["name"]: check for check in found["checks"]}


def follow(home: Home, command: str) -> None:
    """Run a remedy, as somebody who copies it."""
    path = f"{home.folder.parent}:{Path(sys.executable).parent}:{home.environment['PATH']}"
    command = command.replace("sudo ", "") if os.geteuid() == 0 else command
    subprocess.run(["sh", "-c", command], env={**home.environment, "PATH": path}, check=True, timeout=60)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A disk in memory."""
    folder.parent.mkdir(exist_ok=True)
    with closing(SmallDisk(folder, options)):
        yield


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def checkpoint_of_now(home: Home) -> Path:
    now = datetime.now(UTC)
    home.sessions.mkdir(parents=True, exist_ok=True)
    path = home.sessions / checkpoint_name("s1", now)
    header = Header(session_id="s1", timestamp=now, kind=Kind.MANUAL, sequence=1)
    path.write_bytes(b"".join(checkpoint_document(header, {})))
    return path


# -- places ----------------------------------------------------------------------------------------------------------


@of("configuration")
def a_setting_that_cannot_be(home: Home) -> Iterator[Followed]:
    home.folder.mkdir()
    (home.folder / "config.toml").write_text("keep_per_session = 0\n")
    yield "by hand"
    (home.folder / "config.toml").write_text("keep_per_session = 1\n")


@of("configuration")
def a_variable_that_is_no_setting(home: Home) -> Iterator[Followed]:
    home.environment["EDI_CHECKPOINT_KEEP_PER_SESION"] = "3"
    yield "by hand"
    del home.environment["EDI_CHECKPOINT_KEEP_PER_SESION"]


@of("sessions_folder")
def a_folder_open_to_others(home: Home) -> Iterator[Followed]:
    home.sessions.mkdir(parents=True, mode=0o755)
    yield "as a command"


@of("sessions_folder")
def a_file_in_the_place_of_a_folder(home: Home) -> Iterator[Followed]:
    home.folder.mkdir()
    home.sessions.write_text("mine")
    yield "as a command"
    assert home.sessions.with_name("sessions.moved").read_text() == "mine"


@of("sessions_folder")
def a_link_that_leads_nowhere(home: Home) -> Iterator[Followed]:
    home.folder.mkdir()
    home.sessions.symlink_to(home.folder / "unplugged")
    yield "as a command"


@of("sessions_folder")
def a_folder_of_somebody_else(home: Home) -> Iterator[Followed]:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    home.sessions.mkdir(parents=True, mode=0o700)
    os.chown(home.sessions, 65534, 65534)
    yield "as a command"


@of("runtime_folder")
def a_folder_closed_to_oneself(home: Home) -> Iterator[Followed]:
    (home.folder / "run").mkdir(parents=True, mode=0o300)
    yield "as a command"


@of("runtime_folder")
def a_folder_that_cannot_be_made(home: Home) -> Iterator[Followed]:
    if not os.geteuid():
        pytest.skip("root may write anywhere")
    home.folder.mkdir(mode=0o500)
    yield "as a command"


@of("state_folder")
def a_disk_that_is_read_only(home: Home) -> Iterator[Followed]:
    with mounted(home.folder, "size=1m"):
        home.state.mkdir(mode=0o700)
        remount(home.folder, "ro")
        yield "as a command"


@of("disk_space")
def a_disk_without_space(home: Home) -> Iterator[Followed]:
    with mounted(home.state, "size=4m"):
        yield "by hand"
        remount(home.state, "size=1g")
        yield "by hand"


@of("inodes")
def a_disk_without_inodes(home: Home) -> Iterator[Followed]:
    with mounted(home.state, "nr_inodes=50"):
        yield "by hand"
        remount(home.state, "nr_inodes=100000")
        yield "by hand"


@of("file_system")
def a_disk_in_memory(home: Home) -> Iterator[Followed]:
    with mounted(home.sessions, "size=4m"):
        yield "by hand"
        home.environment["EDI_CHECKPOINT_HOME"] = str(Path(__file__).parent / "not-made")
        yield "by hand"


@of("sync_folder")
def a_folder_in_dropbox(home: Home) -> Iterator[Followed]:
    together = home.environment["EDI_CHECKPOINT_HOME"]
    home.environment["EDI_CHECKPOINT_HOME"] = str(home.folder.parent / "Dropbox (Personal)" / "edi")
    yield "by hand"
    home.environment["EDI_CHECKPOINT_HOME"] = together


@of("sync_folder")
def a_folder_in_syncthing(home: Home) -> Iterator[Followed]:
    (home.folder / ".stfolder").mkdir(parents=True)
    yield "by hand"
    home.environment["EDI_CHECKPOINT_HOME"] = str(home.folder.parent / "elsewhere")


# -- who serves ------------------------------------------------------------------------------------------------------


def install(home: Home, program: str) -> Path:
    """Write our unit, as it stands in a home folder."""
    home.environment["HOME"] = str(home.folder)
    unit = home.folder / ".config/systemd/user/edi-checkpointd.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(f"[Service]\nExecStart={program} -m edi_checkpointd run\n")
    return unit


@of("service")
def a_unit_whose_interpreter_is_gone(home: Home) -> Iterator[Followed]:
    unit = install(home, str(home.folder / "old-venv/bin/python"))
    yield "by hand"  # `edi-checkpointd install` asks a service manager, which there is none of in a test
    unit.write_text(f"[Service]\nExecStart={sys.executable} -m edi_checkpointd run\n")


@of("service")
def a_unit_that_has_failed(home: Home) -> Iterator[Followed]:
    install(home, sys.executable)
    systemctl, state = home.folder.parent / "systemctl", home.folder / "state-of-the-unit"
    state.write_text("failed\n")
    systemctl.write_text(SYSTEMCTL.format(state=state))
    systemctl.chmod(0o700)
    before, serving.SYSTEMCTL = serving.SYSTEMCTL, systemctl
    try:
        yield "as a command"
    finally:
        serving.SYSTEMCTL = before


@of("service")
def nobody_who_may_start_a_daemon(home: Home) -> Iterator[Followed]:
    assert home.environment["EDI_CHECKPOINT_AUTOSTART"] == "0"
    yield "by hand"
    del home.environment["EDI_CHECKPOINT_AUTOSTART"]


@of("lock")
def a_link_in_the_place_of_the_lock(home: Home) -> Iterator[Followed]:
    home.sessions.mkdir(parents=True)
    (home.sessions / ".daemon.lock").symlink_to("/dev/null")
    yield "as a command"


@of("lock")
def a_lock_held_by_who_is_not_named(home: Home) -> Iterator[Followed]:
    home.sessions.mkdir(parents=True)
    holder = home.python(HOLD_THE_LOCK, str(home.sessions / ".daemon.lock"))
    holder.wait_line("held")
    yield "as a command"
    holder.wait()


@of("socket")
def a_file_in_the_place_of_the_socket(home: Home) -> Iterator[Followed]:
    (home.folder / "run").mkdir(parents=True, mode=0o700)
    (home.folder / "run/daemon.sock").touch()
    yield "as a command"


@of("socket")
def a_socket_open_to_others(home: Home) -> Iterator[Followed]:
    home.daemon()
    (home.folder / "run/daemon.sock").chmod(0o666)
    yield "as a command"


@of("socket")
def a_socket_of_somebody_else(home: Home) -> Iterator[Followed]:
    if os.geteuid():
        pytest.skip("only root can give a socket away")
    home.daemon().kill()
    os.chown(home.folder / "run/daemon.sock", 65534, 65534)
    yield "as a command"


@of("socket")
def a_socket_that_was_deleted(home: Home) -> Iterator[Followed]:
    home.daemon()
    (home.folder / "run/daemon.sock").unlink()
    yield "as a command"


@of("socket")
def a_path_too_long_for_a_socket(home: Home) -> Iterator[Followed]:
    home.environment["EDI_CHECKPOINT_RUNTIME_DIR"] = str(home.folder / ("long" * 30))
    yield "by hand"
    home.environment["EDI_CHECKPOINT_RUNTIME_DIR"] = str(home.folder / "r")


@of("daemon")
def a_daemon_that_hangs(home: Home) -> Iterator[Followed]:
    daemon = home.daemon()
    daemon.kill(signal.SIGSTOP)
    yield "as a command"
    daemon.wait()


@of("daemon")
def a_daemon_of_another_folder_on_our_socket(home: Home) -> Iterator[Followed]:
    home.daemon()
    home.environment["EDI_CHECKPOINT_SESSIONS_DIR"] = str(home.folder / "other")
    yield "by hand"
    home.environment["EDI_CHECKPOINT_RUNTIME_DIR"] = str(home.folder / "other-run")
    yield "by hand"


@of("daemon")
def a_daemon_whose_folder_was_made_anew(home: Home) -> Iterator[Followed]:
    daemon = home.daemon()
    home.sessions.rename(home.folder / "thrown-away")
    home.sessions.mkdir(mode=0o700)
    yield "as a command"
    daemon.wait()


@of("versions")
def a_daemon_that_is_still_the_old_one(home: Home) -> Iterator[Followed]:
    home.start([sys.executable, "-c", OLD_DAEMON], lines_from="stderr").wait_line("ready ")
    yield "as a command"


@of("descriptors")
def a_daemon_that_may_open_few_files(home: Home) -> Iterator[Followed]:
    daemon = home.daemon()
    subprocess.run(["prlimit", f"--pid={daemon.pid}", "--nofile=64:64"], check=True)
    yield "as a command"


# -- whether it works ------------------------------------------------------------------------------------------------


@of("status")
def a_damaged_document_that_was_set_aside(home: Home) -> Iterator[Followed]:
    damaged = home.sessions / "damaged"
    damaged.mkdir(parents=True)
    (damaged / "s1.json").touch()
    yield "by hand"
    (damaged / "s1.json").unlink()


@pytest.mark.leaves("mode")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_and_green_again_when_its_remedy_was_followed(home: Home, name: str) -> None:
    check, produce = FAULTS[name]
    fault = produce(home)
    try:
        followed = next(fault)
        found = checked(home, check)
        assert found.ok is False
        assert found.message
        assert found.remedy
        if followed == "as a command":
            assert found.command
            follow(home, found.remedy)
        else:
            next(fault, None)  # gone on with to where the remedy is followed
        eventually(lambda: checked(home, check).ok is not False)  # a process that was told to end may take a moment
        next(fault, None)
    finally:
        fault.close()


def test_sqlite_of_a_version_that_loses_commits_is_reported_until_it_is_replaced(home: Home) -> None:
    found = doctor(home, "-c", OLD_SQLITE, "3.51.2")["sqlite"]
    assert found["ok"] is False
    assert "apsw" in found["remedy"]
    assert doctor(home, "-c", OLD_SQLITE)["sqlite"]["ok"] is True


@pytest.mark.leaves("mode")
@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed")
def test_a_clock_that_was_set_back_is_reported_until_it_is_right(home: Home) -> None:
    checkpoint_of_now(home)
    found = doctor(home, LD_PRELOAD=str(FAKETIME), FAKETIME="-2h")["clock"]
    assert (found["ok"], found["command"]) == (False, True)
    assert doctor(home)["clock"]["ok"] is True


def test_few_descriptors_are_reported_before_a_daemon_has_to_do_with_them(home: Home) -> None:
    limited = ("import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200));"
               "from edi_checkpointd.cli import main; raise SystemExit(main(['doctor', '--json']))")  # fmt: skip
    found = doctor(home, "-c", limited)["descriptors"]
    assert found["ok"] is False
    assert "limits.conf" in found["remedy"]
    assert doctor(home)["descriptors"]["ok"] is True


def test_no_check_is_without_a_fault_that_was_produced() -> None:
    elsewhere = {"sqlite", "clock", "round_trip"}
    assert {check for check, _ in FAULTS.values()} | elsewhere == set(CHECKS)


@pytest.mark.parametrize(
    ("folder", "by"),
    [
        ("/home/ann/Dropbox/edi", "Dropbox"),
        ("/home/ann/OneDrive - Company/edi", "OneDrive"),
        ("/Users/ann/Library/Mobile Documents/com~apple~CloudDocs/edi", "iCloud"),
        ("/home/ann/Nextcloud/edi", "Nextcloud"),
        ("/home/ann/Google Drive/edi", "Google Drive"),
        ("/home/ann/Syncthing", "Syncthing"),
        ("/home/ann/dropbox-old/edi", None),
    ],
)
def test_a_synchronised_folder_is_known_by_its_name(folder: str, by: str | None) -> None:
    assert places.synced_by(Path(folder)) == by


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p", "tmpfs"])
def test_a_disk_that_is_none_of_this_machine_is_known_by_its_kind(kind: str) -> None:
    assert places.fault_of(kind)


def test_a_round_trip_without_a_daemon_is_reported_until_one_runs(home: Home) -> None:
    found = doctor(home)["round_trip"]
    assert found["ok"] is False
    assert "edi-checkpointd run" in found["remedy"]
    home.daemon()
    assert doctor(home)["round_trip"]["ok"] is True


def test_where_all_is_well_people_are_told_so_in_lines_that_fit_and_nothing_is_left(home: Home) -> None:
    del home.environment["EDI_CHECKPOINT_AUTOSTART"]
    home.daemon()
    text = home.on_a_terminal("doctor", NO_COLOR="1")
    assert all(len(line) <= 80 or str(home.folder) in line for line in text.splitlines())
    *rows, empty, last = text.splitlines()
    assert empty == ""
    assert last == f"all is well: {len(CHECKS) - 1} checks passed"  # no unit is installed
    for name in CHECKS:
        assert any(row.startswith(("ok", "skipped")) and name in row for row in rows), text
    assert home.json("sessions")["sessions"] == []
    files = [path for path in home.folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if b"doctor-" in path.read_bytes() or "doctor-" in path.name] == []


@pytest.mark.leaves("mode")
def test_a_remedy_stands_in_a_line_of_its_own_to_be_copied(home: Home) -> None:
    home.sessions.mkdir(parents=True, mode=0o755)
    lines = home.command("doctor", expect=6).splitlines()
    assert f"         $ chmod 700 {home.sessions}" in lines
    assert lines[-1].startswith("3 of ")  # nobody may start a daemon here
