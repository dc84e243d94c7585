from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edi_checkpoint.system.daemon_lock import read_holder, running
from edi_checkpointd.system.lock import DaemonRuns, acquire, end

HOLD = """
import sys
from pathlib import Path
from edi_checkpointd.system.lock import acquire

fd = acquire(Path(sys.argv[1]), "/run/theirs.sock", "0.9")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".daemon.lock"


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            child.kill()


def test_the_lock_file_says_who_holds_it(path: Path) -> None:
    fd = acquire(path, "/run/daemon.sock", "0.1.0")
    (line,) = path.read_text().splitlines()
    told = json.loads(line)
    assert told.pop("started").endswith("+00:00")
    assert told == {"pid": os.getpid(), "socket": "/run/daemon.sock", "version": "0.1.0"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not os.get_inheritable(fd)
    holder = running(path)
    assert holder is not None
    assert holder.pid == os.getpid()
    os.close(fd)


def test_a_second_daemon_is_told_the_pid_of_the_first(path: Path) -> None:
    with held_by_another_process(path) as child:
        before = path.read_bytes()
        with pytest.raises(DaemonRuns, match=rf"served by process {child.pid} since 20") as refused:
            acquire(path, "/run/daemon.sock", "0.1.0")
        assert refused.value.code == "daemon_runs"
        assert "edi-checkpointd stop" in refused.value.hint
        assert path.read_bytes() == before
        holder = running(path)
        assert holder is not None
        assert (holder.pid, holder.socket, holder.version) == (child.pid, "/run/theirs.sock", "0.9")


def test_the_lock_of_a_killed_daemon_is_free_though_its_file_stays(path: Path) -> None:
    with held_by_another_process(path) as child:
        child.kill()
        child.wait(20)
        assert running(path) is None
        assert read_holder(path) is not None
        fd = acquire(path, "/run/daemon.sock", "0.1.0")
        holder = read_holder(path)
        assert holder is not None
        assert holder.pid == os.getpid()
        os.close(fd)


def test_a_longer_line_of_the_daemon_before_leaves_nothing(path: Path) -> None:
    path.write_text(json.dumps({"pid": 1, "socket": "/" + "x" * 500, "version": "1", "started": "now"}) + "\n")
    fd = acquire(path, "/s", "2")
    assert len(path.read_text().splitlines()) == 1
    assert json.loads(path.read_text())["socket"] == "/s"
    os.close(fd)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}", b"[1]", b'{"pid": "x"}', b'{"pid": 1, "sock'])
def test_a_lock_file_that_says_nothing_is_no_hindrance(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read_holder(path) is None
    assert running(path) is None
    fd = acquire(path, "/s", "2")
    path.write_bytes(content)  # somebody wrote into it: the lock holds all the same
    with pytest.raises(DaemonRuns, match="another process"):
        acquire(path, "/s", "2")
    os.close(fd)


def test_without_a_lock_file_no_daemon_runs(path: Path) -> None:
    assert running(path) is None
    assert read_holder(path) is None
    assert not path.exists()


def test_a_planted_link_is_not_followed(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.symlink_to(elsewhere)
    with pytest.raises(OSError):
        acquire(path, "/s", "2")
    assert running(path) is None
    assert not elsewhere.exists()


def test_a_folder_that_was_removed_and_made_again_gets_a_lock_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    old = acquire(folder / ".daemon.lock", "/s", "1")
    shutil.rmtree(folder)
    folder.mkdir()
    assert running(folder / ".daemon.lock") is None
    new = acquire(folder / ".daemon.lock", "/s", "2")
    os.close(old)
    with pytest.raises(DaemonRuns):
        acquire(folder / ".daemon.lock", "/s", "3")
    os.close(new)


def test_ending_a_daemon_returns_when_its_process_is_gone(path: Path) -> None:
    with held_by_another_process(path) as child:
        holder = running(path)
        assert holder is not None
        assert end(path, holder, 20.0)
        assert child.wait(0.1) == -signal.SIGTERM
        assert end(path, holder, 0.0)  # gone already


def test_a_process_that_got_the_number_of_a_daemon_that_left_is_not_ended(path: Path) -> None:
    with held_by_another_process(path) as child:
        holder = running(path)
        assert holder is not None
        path.unlink()
        assert end(path, holder, 5.0)
        assert child.poll() is None


def test_who_only_looks_keeps_no_daemon_from_starting(path: Path) -> None:
    """Hundreds of clients may look, one of them stopped by the kernel while it does."""
    os.close(acquire(path, "/s", "1"))
    stop = threading.Event()

    def looks() -> None:
        while not stop.is_set():
            running(path)

    lookers = [threading.Thread(target=looks) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(20):
            os.close(acquire(path, "/s", "2"))
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_a_daemon_starts_though_one_who_looked_was_suspended_meanwhile(path: Path) -> None:
    os.close(acquire(path, "/s", "1"))
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.4, os.close, (looking,)).start()
    os.close(acquire(path, "/s", "2"))


def test_a_folder_has_one_daemon_however_many_start(path: Path) -> None:
    held: list[int] = []
    refused: list[DaemonRuns] = []
    together = threading.Barrier(6)

    def starts() -> None:
        together.wait(20)
        try:
            held.append(acquire(path, "/s", "1"))
        except DaemonRuns as error:
            refused.append(error)

    starters = [threading.Thread(target=starts) for _ in range(6)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert (len(held), len(refused)) == (1, 5)
    os.close(held[0])
