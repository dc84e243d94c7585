"""What a user does with the service, on a machine with a real systemd: `steps.py 1` before a reboot, `2` after.

Run by `machine.py`, in the machine, as a user who lingers. Each step is a promise; they build on one another.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Home, Publisher, eventually

FULL = bool(os.environ.get("EDI_TEST_FULL"))
RESTARTS, SECONDS = (50, 600) if FULL else (5, 10)
SERVICE, SOCKET = "edi-checkpointd.service", "edi-checkpointd.socket"
UNITS = Path.home() / ".config" / "systemd" / "user"
DROP_IN = UNITS / f"{SERVICE}.d" / "watchdog.conf"
LISTENING = Path(f"/run/user/{os.geteuid()}/edi-checkpoint/daemon.sock")

EDI = """
import time
from edi_checkpoint import connect
session = connect().session("open")
session["n"] = 1
time.sleep(1e6)
"""

home = Home(Path.home())
home.sessions = Path.home() / ".edi" / "sessions"
home.state = Path.home() / ".local" / "state" / "edi-checkpoint"
del home.environment["EDI_CHECKPOINT_HOME"], home.environment["EDI_CHECKPOINT_AUTOSTART"]
AWAIT_SYSTEMD = {"EDI_CHECKPOINT_AUTOSTART": "0"}  # nothing but the socket starts a daemon


def does(*words: str, expect: int = 0) -> str:
    """Run a command; return what it writes."""
    done = subprocess.run(words, env=home.environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == expect, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def systemctl(*words: str, expect: int = 0) -> str:
    return does("systemctl", "--user", *words, expect=expect).strip()


def daemon_command(*words: str, expect: int = 0) -> str:
    return does(sys.executable, "-m", "edi_checkpointd", *words, expect=expect)


def told(name: str, unit: str = SERVICE) -> str:
    return systemctl("show", f"--property={name}", "--value", unit)


def main_pid() -> int:
    return int(told("MainPID"))


def served_by_another(pid: int, timeout_s: float = 30) -> int:
    """Wait until the service is another process than `pid`, and ready; return it."""
    eventually(lambda: told("ActiveState") == "active" and main_pid() not in (0, pid), timeout_s)
    return main_pid()


@contextlib.contextmanager
def drop_in(text: str) -> Iterator[None]:
    """Have the service run with other settings of its unit for a while."""
    DROP_IN.parent.mkdir()
    DROP_IN.write_text(f"[Service]\n{text}")
    systemctl("daemon-reload")
    try:
        yield
    finally:
        DROP_IN.unlink()
        DROP_IN.parent.rmdir()
        systemctl("daemon-reload")


def publishes(publisher: Publisher, session_id: str, number: int) -> None:
    """Have a publisher publish, and look from outside whether the journal has it."""
    publisher.do(f"session.update(n={number})")
    publisher.do("session.flush(timeout_s=30)", timeout_s=40)
    assert home.journaled(session_id)[session_id][-1]["values"]["n"] == number
    assert publisher.stderr == []


# -- the first boot ----------------------------------------------------------------------------------------------------


def a_dry_run_prints_both_units_and_changes_nothing() -> None:
    said = daemon_command("install", "--dry-run")
    assert "[Service]" in said
    assert "[Socket]" in said
    assert f"ExecStart={sys.executable} -I -m edi_checkpointd run" in said
    assert not UNITS.exists()


def what_cannot_work_is_refused_before_anything_is_written() -> None:
    home.environment["EDI_CHECKPOINT_HOME"] = "/home/ann/elsewhere"
    said = daemon_command("install", expect=1)
    del home.environment["EDI_CHECKPOINT_HOME"]
    assert "/home/ann/elsewhere" in said
    assert "unset" in said
    assert not UNITS.exists()


def install_writes_and_enables_the_units_and_a_second_time_changes_nothing() -> None:
    assert f"wrote      {UNITS / SERVICE}" in daemon_command("install")
    assert systemctl("is-enabled", SOCKET) == "enabled"
    assert told("ActiveState") == "inactive"
    assert f"removed    {UNITS / SERVICE}" in daemon_command("uninstall")
    assert not list(UNITS.glob("edi-checkpointd*"))
    assert "wrote" in daemon_command("install")
    said = daemon_command("install")
    assert "unchanged" in said
    assert "wrote" not in said


def systemd_finds_no_fault_in_the_units() -> None:
    assert does("systemd-analyze", "verify", "--user", str(UNITS / SERVICE), str(UNITS / SOCKET)) == ""


def the_first_client_has_the_service_started() -> None:
    publishes(home.publisher("first"), "first", 1)
    assert told("ActiveState") == "active"
    assert told("ActiveState", SOCKET) == "active"
    assert json.loads((home.sessions / ".daemon.lock").read_bytes())["pid"] == main_pid()


def ready_and_status_are_told() -> None:
    assert told("Type") == "notify"
    assert str(home.sessions) in told("StatusText")
    assert int(told("WatchdogTimestampMonotonic")) > 0


def after_a_stop_the_next_client_activates_it_by_the_socket() -> None:
    pid = main_pid()
    systemctl("stop", SERVICE)
    assert told("Result") == "success"
    assert LISTENING.is_socket()
    publishes(home.publisher("second", **AWAIT_SYSTEMD), "second", 1)
    assert served_by_another(pid)


def what_the_sandbox_promises_is_in_force() -> None:
    status = Path(f"/proc/{main_pid()}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    text = Path(f"/proc/{main_pid()}/limits").read_text()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
    assert limits["Max core file size"] == ["0", "0"]
    soft, hard = map(int, limits["Max open files"])
    assert 1024 < soft == hard <= 65536  # the machine may have set less
    lines = (UNITS / SERVICE).read_text().partition("\nNoNewPrivileges")[2].partition("\n[Install]")[0]
    sandbox = [word for line in f"NoNewPrivileges{lines}".split() for word in ("-p", line)]
    tries = """
import ctypes, mmap, os, socket
def refused(call):
    try:
        call()
    except (OSError, ValueError) as error:
        return True
libc = ctypes.CDLL(None, use_errno=True)
def fails(result):
    if result == -1: raise OSError(ctypes.get_errno(), "")
print(refused(lambda: socket.socket(socket.AF_INET)),
      refused(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)),
      refused(lambda: fails(libc.unshare(0x10000000))),
      refused(lambda: fails(libc.ptrace(0, 0, 0, 0))),
      refused(lambda: os.chmod(os.environ["HOME"] + "/.profile", 0o4755)),
      socket.socket(socket.AF_UNIX) is not None)
"""
    said = does("systemd-run", "--user", "--quiet", "--wait", "--pipe", *sandbox, sys.executable, "-c", tries)
    assert said.split() == ["True"] * 6, said


def the_journal_holds_the_fields_of_each_line() -> None:
    publisher = home.publisher("logged")
    publishes(publisher, "logged", 1)
    publisher.do("session.checkpoint(timeout_s=20)")
    words = ("--user", "--unit", SERVICE, "--output", "json", "EDI_CHECKPOINT_SESSION=logged")
    lines = eventually(lambda: does("journalctl", *words).splitlines())
    assert isinstance(lines, list)
    written = json.loads(lines[0])
    assert written["MESSAGE"].startswith("checkpoint written session=logged")
    assert (written["PRIORITY"], written["EDI_CHECKPOINT_KIND"]) == ("6", "manual")


def a_killed_daemon_is_restarted_and_recovers_and_no_publisher_notices() -> None:
    publisher = home.publisher("killed")
    publisher.send("publish(400, pause_s=0.005)")
    publisher.wait_line("acked ")
    pid = main_pid()
    os.kill(pid, signal.SIGKILL)
    served_by_another(pid)
    assert told("NRestarts") == "1"
    publisher.answer(60)
    publisher.do("session.flush(timeout_s=30)", timeout_s=40)
    assert publisher.stderr == []
    assert [entry["values"]["n"] for entry in home.journaled("killed")["killed"]] == list(range(1, 401))


def a_stopped_daemon_is_restarted_by_the_watchdog() -> None:
    assert told("WatchdogUSec") == "30s"
    with drop_in("WatchdogSec=2\n"):
        systemctl("restart", SERVICE)
        publisher = home.publisher("stopped")
        pid = main_pid()
        os.kill(pid, signal.SIGSTOP)
        publisher.do("session.update(n=1)")
        served_by_another(pid)
        logged = does("journalctl", "--user", "--unit", SERVICE, "--output", "cat")
        assert "Watchdog timeout" in logged
        assert "Fatal Python error: Aborted" in logged  # and where each thread was
        publishes(publisher, "stopped", 2)
    systemctl("restart", SERVICE)


def a_hung_intake_is_restarted_by_the_watchdog_and_a_slow_disk_is_not() -> None:
    brake = Path.home() / "brake"
    program = f"{sys.executable} /srv/tests/stalling_daemon.py {{}} {brake} run"
    for point, hangs in (("COMMIT_BEGUN", False), ("RECEIVED_NOT_COMMITTED", True)):
        with drop_in(f"WatchdogSec=2\nExecStart=\nExecStart={program.format(point)}\n"):
            systemctl("restart", SERVICE)
            publisher = home.publisher(f"held-{hangs}")
            pid = main_pid()
            brake.touch()
            publisher.do("session.update(n=1)")
            if hangs:
                eventually(lambda pid=pid: main_pid() not in (0, pid), 30)
            else:
                time.sleep(6)  # three times what would have it restarted
                assert main_pid() == pid
            brake.unlink()
            publishes(publisher, f"held-{hangs}", 2)
            publisher.do("client.close()")
    systemctl("restart", SERVICE)


def a_second_daemon_exits_5_beside_the_service() -> None:
    assert str(main_pid()) in daemon_command("run", expect=5)
    systemctl("stop", SERVICE)
    said = daemon_command("run", expect=5)  # the socket is systemd's, and so is the daemon
    assert "is in use" in said


def the_service_exits_5_without_restarts_beside_a_daemon_started_by_hand() -> None:
    systemctl("stop", SOCKET, SERVICE)
    assert not LISTENING.exists()
    by_hand = home.daemon()
    systemctl("reset-failed")
    systemctl("start", SERVICE, expect=1)
    assert (told("ExecMainStatus"), told("NRestarts"), told("ActiveState")) == ("5", "0", "failed")
    assert told("ActiveState", SOCKET) == "inactive"
    publisher = home.publisher("by-hand")
    publishes(publisher, "by-hand", 1)
    assert by_hand.popen.poll() is None
    assert f"process {by_hand.pid}" in daemon_command("install", "--now")
    assert by_hand.wait() == 0
    publishes(publisher, "by-hand", 2)
    assert told("ActiveState", SOCKET) == "active"


def a_service_that_cannot_start_leaves_its_clients_to_a_daemon_on_demand() -> None:
    systemctl("stop", SERVICE)
    with drop_in("ExecStart=\nExecStart=/bin/false\n"):
        early = home.publisher("early")
        eventually(lambda: told("ActiveState", SOCKET) == "failed")
        (home.state / ".autostart").unlink(missing_ok=True)  # as if ten seconds had passed
        publishes(home.publisher("late"), "late", 1)
        publishes(early, "early", 1)
    said = daemon_command("install", "--now")
    assert "ended      the daemon that systemd had not started" in said
    print(said, end="")
    publishes(early, "early", 2)
    assert told("ActiveState") == "active"


def settings_that_cannot_be_used_are_told_and_not_tried_again() -> None:
    config = Path.home() / ".config" / "edi-checkpoint" / "config.toml"
    config.parent.mkdir()
    config.write_text("autosave_every_s = 'often'\n")
    systemctl("restart", SERVICE, expect=1)
    assert (told("ExecMainStatus"), told("NRestarts")) == ("2", "0")
    assert "autosave_every_s" in systemctl("status", SERVICE, expect=3)
    config.write_text("autosave_every_s = 1\n")
    systemctl("start", SERVICE)
    config.write_text("autosave_every_s = 2\n")
    pid = main_pid()
    systemctl("reload", SERVICE)
    assert told("ActiveState") == "active"
    assert main_pid() == pid
    config.unlink()


def an_upgrade_in_place_restarts_what_ran_and_no_publisher_notices() -> None:
    publisher = home.publisher("upgraded")
    publisher.send("publish(400, pause_s=0.005)")
    publisher.wait_line("acked ")
    pid = main_pid()
    for unit in (SERVICE, SOCKET):  # as an older version wrote them
        text = (UNITS / unit).read_text()
        (UNITS / unit).write_text(
            text.replace("Description=", "Description=an older ").replace("RemoveOnStop=yes\n", "")
        )
    said = daemon_command("install")
    assert f"restarted  process {served_by_another(pid)}" in said
    assert (UNITS / SOCKET).read_text() in said or f"wrote      {UNITS / SOCKET}" in said
    publisher.answer(60)
    publishes(publisher, "upgraded", 401)
    assert len(home.journaled("upgraded")["upgraded"]) == 401


def publishers_see_no_error_and_nothing_is_lost_over_many_restarts() -> None:
    pause_s = 0.02 if FULL else 0.005
    each = int(SECONDS / RESTARTS / pause_s)
    publishers = [home.publisher(f"r{number}") for number in range(4)]
    begun_s = time.monotonic()
    for restart in range(RESTARTS):
        for publisher in publishers:
            publisher.send(f"publish({each}, pause_s={pause_s}, attempt={restart})")
        systemctl("restart", SERVICE)
        late = home.publisher(f"late{restart}")
        publishes(late, f"late{restart}", 1)
        late.do("client.close()")
        late.close()
        for publisher in publishers:
            publisher.answer(timeout_s=100)
    for publisher in publishers:
        publisher.do("session.flush(timeout_s=60)", timeout_s=80)
        assert publisher.stderr == []
    held = home.journaled(*(f"r{number}" for number in range(4)))
    numbers = {session_id: [entry["values"]["n"] for entry in entries] for session_id, entries in held.items()}
    lost = sum(RESTARTS * each - len(set(found)) for found in numbers.values())
    took_s = time.monotonic() - begun_s
    print(f"publishers=4 restarts={RESTARTS} seconds={took_s:.0f} published={4 * RESTARTS * each} lost={lost}")
    assert all(found == list(range(1, RESTARTS * each + 1)) for found in numbers.values())


def a_reboot_comes_while_a_session_is_open() -> None:
    does("systemd-run", "--user", "--quiet", "--unit=edi", sys.executable, "-c", EDI)
    eventually(lambda: home.journaled("open").get("open"))
    assert home.json("show", "open")["condition"] == "live"


# -- the second boot ---------------------------------------------------------------------------------------------------


def after_a_reboot_the_socket_listens_and_the_first_client_activates_the_service() -> None:
    eventually(lambda: told("ActiveState", SOCKET) == "active")
    assert told("ActiveState") == "inactive"
    client = home.publisher(**AWAIT_SYSTEMD)
    found = client.do("[info.session_id for info in client.interrupted()]")
    assert isinstance(found, list)
    assert "open" in found
    assert told("ActiveState") == "active"
    client.do("session = client.session('open')")
    assert client.do("session['n']") == 1
    publishes(client, "open", 2)


def uninstall_leaves_the_data_and_says_where() -> None:
    checkpoints = len(home.checkpoints("open"))
    said = daemon_command("uninstall")
    print(said, end="")
    assert f"kept       {home.sessions}" in said
    assert f"kept       {home.state}" in said
    assert not list(UNITS.glob("edi-checkpointd*"))
    assert systemctl("show", "--property=LoadState", "--value", SERVICE) == "not-found"
    assert not LISTENING.exists()
    assert len(home.checkpoints("open")) >= checkpoints > 0
    assert home.json("show", "open")["state_info"]["n"] == 2
    assert "no service is installed" in daemon_command("uninstall")


def without_the_service_a_client_starts_a_daemon_on_demand() -> None:
    publishes(home.publisher("after"), "after", 1)
    daemon_command("stop")


BOOTS: dict[str, list[Callable[[], None]]] = {
    "1": [
        a_dry_run_prints_both_units_and_changes_nothing,
        what_cannot_work_is_refused_before_anything_is_written,
        install_writes_and_enables_the_units_and_a_second_time_changes_nothing,
        systemd_finds_no_fault_in_the_units,
        the_first_client_has_the_service_started,
        ready_and_status_are_told,
        after_a_stop_the_next_client_activates_it_by_the_socket,
        what_the_sandbox_promises_is_in_force,
        the_journal_holds_the_fields_of_each_line,
        a_killed_daemon_is_restarted_and_recovers_and_no_publisher_notices,
        a_stopped_daemon_is_restarted_by_the_watchdog,
        a_hung_intake_is_restarted_by_the_watchdog_and_a_slow_disk_is_not,
        a_second_daemon_exits_5_beside_the_service,
        the_service_exits_5_without_restarts_beside_a_daemon_started_by_hand,
        a_service_that_cannot_start_leaves_its_clients_to_a_daemon_on_demand,
        settings_that_cannot_be_used_are_told_and_not_tried_again,
        an_upgrade_in_place_restarts_what_ran_and_no_publisher_notices,
        publishers_see_no_error_and_nothing_is_lost_over_many_restarts,
        a_reboot_comes_while_a_session_is_open,
    ],
    "2": [
        after_a_reboot_the_socket_listens_and_the_first_client_activates_the_service,
        uninstall_leaves_the_data_and_says_where,
        without_the_service_a_client_starts_a_daemon_on_demand,
    ],
}

if __name__ == "__main__":
    eventually(LISTENING.parent.parent.is_dir)
    for step in BOOTS[sys.argv[1]]:
        print(f"step {step.__name__.replace('_', ' ')}", flush=True)
        try:
            step()
        except Exception:  # noqa: BLE001 - the next step is tried all the same
            traceback.print_exc()
            print(does("journalctl", "--user", "--lines", "30", "--output", "short-precise"), flush=True)
            print("failed", flush=True)
        else:
            print("passed", flush=True)
        home.close()
        home.processes.clear()
        subprocess.run(["systemctl", "--user", "reset-failed"], check=False)
    print("all steps of this boot are done", flush=True)
