from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Home, Refused, eventually

AUTOSTART = {"EDI_CHECKPOINT_AUTOSTART": "1"}
FULL = bool(os.environ.get("EDI_TEST_FULL"))
MANY = 200 if FULL else 20

# What EDI may carry about that a daemon must not keep: open files, a folder, a mask, signals blocked and ignored.
LADEN = """
import fcntl, os, signal, sys
os.chdir(sys.argv[1])
os.umask(0o000)
kept = os.open("kept", os.O_RDWR | os.O_CREAT)
for fd in (kept, 40):
    os.dup2(kept, fd) if fd != kept else None
    os.set_inheritable(fd, True)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1})
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
from edi_checkpoint import connect
with connect() as client, client.session("s1") as session:
    session["n"] = 1
    session.flush(timeout_s=20)
    print("flushed", os.getsid(0), flush=True)
    sys.stdin.readline()
"""


def holder(home: Home) -> dict:
    return json.loads((home.sessions / ".daemon.lock").read_bytes())


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def daemons(home: Home) -> list[int]:
    """The daemons that run for this home, by the kernel's account of their environments."""
    found = []
    wanted = f"EDI_CHECKPOINT_HOME={home.folder}".encode()
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().split(b"\0")
            if b"edi_checkpointd" in command and wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home whose daemons, which are nobody's children, are killed at the end too."""
    made = Home(tmp_path / "h")
    yield made
    made.close()
    for pid in daemons(made):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_daemon_on_demand_inherits_nothing_of_the_client_that_started_it(home: Home, tmp_path: Path) -> None:
    laden = home.start(
        [sys.executable, "-c", LADEN, str(tmp_path)],
        **AUTOSTART, PYTHONPATH="/nowhere", LD_LIBRARY_PATH="/nowhere", OPENAI_API_KEY="secret", LANG="C.UTF-8",
    )  # fmt: skip
    client_session = int(laden.wait_line("flushed").split()[1])
    (pid,) = daemons(home)
    assert pid == holder(home)["pid"]
    proc = Path(f"/proc/{pid}")
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    parent, group, session, terminal = (int(field) for field in fields[1:5])
    assert parent not in (laden.pid, os.getpid())
    assert session not in (client_session, os.getsid(0))
    assert (group, terminal) == (session, 0)
    assert (proc / "cwd").readlink() == Path("/")
    opened = {int(link.name): str(link.readlink()) for link in (proc / "fd").iterdir()}
    assert [opened[fd] for fd in range(3)] == ["/dev/null"] * 3
    assert not any(target.startswith(str(tmp_path / "kept")) for target in opened.values())
    assert 40 not in opened
    pipes = Counter(target for target in opened.values() if target.startswith("pipe:"))
    assert set(pipes.values()) <= {2}  # whose ends are both here was made here
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
    assert int(status["SigBlk"], 16) == 0
    ignored = {number for number in signal.valid_signals() if int(status["SigIgn"], 16) >> (number - 1) & 1}
    assert ignored <= {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP}  # Python's own, and the daemon's
    assert status["Umask"].strip() == "0077"
    names = {entry.split(b"=")[0].decode() for entry in (proc / "environ").read_bytes().split(b"\0") if entry}
    assert {"HOME", "LANG", "EDI_CHECKPOINT_HOME"} <= names
    assert not names & {"PYTHONPATH", "LD_LIBRARY_PATH", "OPENAI_API_KEY", "PATH"}
    assert stat.S_IMODE((home.state / "daemon.log").stat().st_mode) == 0o600
    assert (proc / "cmdline").read_bytes().split(b"\0")[:4] == [
        sys.executable.encode(),
        b"-I",
        b"-m",
        b"edi_checkpointd",
    ]
    laden.kill()
    assert is_running(pid)


def test_a_program_called_like_ours_in_path_is_never_run(home: Home, tmp_path: Path) -> None:
    for name in ("edi-checkpointd", "python", "python3", "systemctl", Path(sys.executable).name):
        planted = tmp_path / "bin" / name
        planted.parent.mkdir(exist_ok=True)
        planted.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        planted.chmod(0o755)
    publisher = home.publisher("s1", **AUTOSTART, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    publisher.do("session.flush(timeout_s=20)")
    assert publisher.do("client.connected")
    assert not (tmp_path / "ran").exists()


def test_many_clients_that_start_at_once_without_a_daemon_end_with_one_daemon_and_all_are_served(home: Home) -> None:
    code = """
import sys
from edi_checkpoint import connect
client = connect()
session = client.session(sys.argv[1])
session["n"] = sys.argv[1]
session.flush(timeout_s=100)
print("served", client.status()["daemon"]["pid"], flush=True)
sys.stdin.readline()
"""
    clients = [home.python(code, f"s{number}", **AUTOSTART) for number in range(MANY)]
    told = {client.wait_line("served", 110) for client in clients}
    assert told == {f"served {holder(home)['pid']}"}
    assert daemons(home) == [holder(home)["pid"]]
    assert [client.stderr for client in clients] == [[]] * MANY
    assert home.json("show", f"s{MANY - 1}")["condition"] == "live"
    journaled = home.journaled(*(f"s{number}" for number in range(MANY)))
    assert all(len(entries) == 1 for entries in journaled.values())


def test_a_daemon_that_cannot_run_is_tried_once_in_ten_seconds_and_waited_for_by_nobody(home: Home) -> None:
    home.folder.mkdir()
    (home.folder / "config.toml").write_text("autosave_every_s = 'often'\n")
    code = """
import logging, sys, time
from edi_checkpoint import connect
logging.basicConfig(stream=sys.stdout, format="%(message)s")
begun = time.monotonic()
client = connect(timeout_s=60)
print("connected", time.monotonic() - begun < 30, flush=True)
session = client.session()
session["n"] = 1
"""
    first = home.python(code, **AUTOSTART)
    assert first.wait() == 0
    assert "connected True" in first.stdout
    told = [line for line in first.stdout if "could not be started" in line]
    assert len(told) == 1
    assert "autosave_every_s" in " ".join(first.stdout)
    second = home.python(code, **AUTOSTART)
    assert second.wait() == 0
    assert "connected True" in second.stdout
    assert not [line for line in second.stdout if "could not be started" in line]


def test_without_leave_to_start_one_a_client_starts_none(home: Home) -> None:
    publisher = home.publisher("s1")
    publisher.do("session.update(n=1)")
    assert not publisher.do("client.connected")
    assert daemons(home) == []
    asking = home.python("from edi_checkpoint import connect; print(connect(autostart=False).connected)", **AUTOSTART)
    assert asking.wait() == 0
    assert asking.stdout == ["False"]
    assert daemons(home) == []


def test_a_client_that_comes_while_an_idle_daemon_leaves_is_served_by_the_next(home: Home) -> None:
    """The first daemon stops reading at the worst moment: after the client was let into its socket."""
    first = home.daemon()
    first.kill(signal.SIGSTOP)
    publisher = home.start_publisher("s1", **AUTOSTART)
    eventually(lambda: (home.state / "outbox" / "s1").exists())  # it found the daemon, and waits for its answer
    first.kill(signal.SIGKILL)
    publisher.wait_line("attached ")
    publisher.do("session.update(n=1)")
    publisher.do("session.flush(timeout_s=20)")
    assert publisher.do("client.status()['daemon']['pid']") not in (None, first.pid)


def test_clients_that_come_at_the_moment_an_idle_daemon_leaves_lose_nothing(home: Home) -> None:
    rounds = 50 if FULL else 2
    publisher = home.publisher(**AUTOSTART, EDI_CHECKPOINT_IDLE_EXIT_S="0.7")
    log = home.state / "daemon.log"
    for number in range(1, rounds + 1):
        eventually(lambda least=number: log.read_text().count(" leaving: ") >= least)
        (home.state / ".autostart").unlink(missing_ok=True)  # as if it had left by now, or ten seconds had passed
        publisher.do("mine = edi_checkpoint.connect(); session = mine.session('s1')")
        assert publisher.do("session.get('n', 0)") == number - 1
        publisher.do(f"session.update(n={number})")
        publisher.do("mine.close()")
    (home.state / ".autostart").unlink(missing_ok=True)
    last = home.publisher("s1", **AUTOSTART)
    last.do("session.flush(timeout_s=20)")
    entries = home.journaled("s1")["s1"]
    assert [entry["values"]["n"] for entry in entries if entry["values"]] == list(range(1, rounds + 1))
    assert publisher.stderr == []


def test_stop_ends_a_daemon_on_demand_and_the_next_client_starts_another_at_once(home: Home) -> None:
    publisher = home.publisher("s1", **AUTOSTART)
    publisher.do("session.update(n=1)")
    publisher.do("session.flush(timeout_s=20)")
    first = holder(home)["pid"]
    assert home.start([sys.executable, "-m", "edi_checkpointd", "stop"]).wait() == 0
    assert not is_running(first)
    publisher.do("session.update(n=2)")
    with pytest.raises(Refused, match="FlushTimeout"):
        publisher.do("session.flush(timeout_s=0.7)")
    assert daemons(home) == []  # who ended it is not overruled
    second = home.publisher("s2", **AUTOSTART)
    publisher.do("session.flush(timeout_s=20)")
    assert second.do("client.status()['daemon']['pid']") not in (None, first)
    assert publisher.stderr == []


def test_a_daemon_that_was_killed_is_followed_by_another_while_a_session_is_open(home: Home) -> None:
    publisher = home.publisher("s1", **AUTOSTART)
    publisher.do("session.update(n=1)")
    publisher.do("session.flush(timeout_s=20)")
    first = holder(home)["pid"]
    (home.state / ".autostart").unlink()  # as if ten seconds had passed
    os.kill(first, signal.SIGKILL)
    publisher.do("session.update(n=2)")
    publisher.do("session.flush(timeout_s=20)")
    assert publisher.do("client.status()['daemon']['pid']") not in (None, first)
    assert [entry["values"] for entry in home.journaled("s1")["s1"]] == [{"n": 1}, {"n": 2}]


SYSTEMCTL = """#!/bin/sh
echo "$@" >> {folder}/asked
env | sort >> {folder}/environment
{then}
"""
CONNECT = """
import sys
from pathlib import Path
from edi_checkpoint.link import autostart; from edi_checkpoint import connect
autostart.SYSTEMCTL = Path(sys.argv[1])
autostart._UNIT_FOLDERS = autostart._UNIT_FOLDERS[:2]
with connect(timeout_s=20) as client:
    print(client.connected)
"""


def connects_by(home: Home, folder: Path, then: str, *, installed: bool = True, **environment: str) -> str:
    """What a client with the default places below `folder` asks of a service manager that does `then`."""
    (folder / "run").mkdir(mode=0o700)
    unit = folder / ".config" / "systemd" / "user" / "edi-checkpointd.service"
    unit.parent.mkdir(parents=True)
    if installed:
        unit.touch()
    systemctl = folder / "systemctl"
    systemctl.write_text(SYSTEMCTL.format(folder=folder, then=then))
    systemctl.chmod(0o700)
    del home.environment["EDI_CHECKPOINT_HOME"]
    home.environment = {key: text for key, text in home.environment.items() if not key.startswith("XDG_")}
    places = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run")}
    client = home.python(CONNECT, str(systemctl), **{**AUTOSTART, **places, "SECRET": "1", **environment})
    assert client.wait() == 0, client.stderr
    assert client.stdout == ["True"]
    lock = Path(environment.get("EDI_CHECKPOINT_SESSIONS_DIR", folder / ".edi" / "sessions")) / ".daemon.lock"
    os.kill(json.loads(lock.read_bytes())["pid"], signal.SIGKILL)
    asked = folder / "asked"
    return asked.read_text() if asked.exists() else ""


def test_an_installed_unit_is_started_by_the_service_manager(home: Home, tmp_path: Path) -> None:
    begin = f"exec {sys.executable} -m edi_checkpointd run --detached"
    assert connects_by(home, tmp_path, begin) == "--user --quiet start edi-checkpointd.service\n"
    assert "SECRET" not in (tmp_path / "environment").read_text()


@pytest.mark.parametrize("then", ["exit 1", *(["sleep 60"] if FULL else [])])
def test_a_service_manager_that_fails_or_hangs_is_passed_over(home: Home, tmp_path: Path, then: str) -> None:
    assert connects_by(home, tmp_path, then) == "--user --quiet start edi-checkpointd.service\n"


def test_without_the_unit_the_service_manager_is_not_asked(home: Home, tmp_path: Path) -> None:
    assert connects_by(home, tmp_path, "exit 1", installed=False) == ""


def test_for_places_that_the_unit_does_not_serve_the_service_manager_is_not_asked(home: Home, tmp_path: Path) -> None:
    elsewhere = {"EDI_CHECKPOINT_SESSIONS_DIR": str(tmp_path / "elsewhere")}
    assert connects_by(home, tmp_path, "exit 1", **elsewhere) == ""


def test_a_socket_that_the_service_manager_listens_on_is_used_and_nothing_is_started(home: Home) -> None:
    """Systemd's part is played here: it listens, and starts the daemon when somebody connects."""
    with home.listen() as listening:
        client = home.start_publisher("s1", **AUTOSTART)
        assert select.select([listening], [], [], 20)[0]
        daemon = home.start_activated(listening)
        daemon.wait_line("ready ")
    client.wait_line("attached ")
    client.do("session.update(n=1)")
    client.do("session.flush(timeout_s=20)")
    assert daemons(home) == [daemon.pid]
    assert not (home.state / ".autostart").exists()
