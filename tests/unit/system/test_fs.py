from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edi_checkpoint import faults
from edi_checkpointd.faults import CrashPoint
from edi_checkpointd.system import fs, writeback
from edi_checkpointd.system.fs import Reserve, set_aside, sweep_temporaries, write_atomic

NAME = "s_checkpoint_20261123_061232_123456.json"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def short_writes(sizes: Sequence[int]) -> Callable[[int, list[memoryview]], int]:
    """`os.writev` on a disk that takes so many bytes at a time."""
    left = list(sizes)

    def writev(fd: int, views: list[memoryview]) -> int:
        take = left.pop(0) if left else sum(map(len, views))
        return os.write(fd, b"".join(views)[:take])

    return writev


def reader_thread(number: int) -> Callable[..., int]:
    """Linux's `sync_file_range` where it fails with that error."""

    def call(*_: int) -> int:
        ctypes.set_errno(number)
        return -1

    return call


def refuse(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- write_atomic ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=12), st.lists(st.integers(1, 40), max_size=20), st.integers(1, 5))
def test_the_file_is_its_parts_however_the_disk_takes_them(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], sizes: list[int], at_once: int
) -> None:
    path = tmp_path_factory.mktemp("f") / NAME
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "_IOV_MAX", at_once)
        patch.setattr(fs.os, "writev", short_writes(sizes))
        assert write_atomic(path, parts) == len(b"".join(parts))
    assert path.read_bytes() == b"".join(parts)
    assert names(path.parent) == [NAME]


@pytest.mark.parametrize("count", [0, 1, fs._IOV_MAX - 1, fs._IOV_MAX, fs._IOV_MAX + 1, 5000])
def test_any_number_of_parts_is_written(tmp_path: Path, count: int) -> None:
    parts = [b"" if number % 3 == 0 else b"%d," % number for number in range(count)]
    path = tmp_path / NAME
    assert write_atomic(path, parts) == len(b"".join(parts))
    assert path.read_bytes() == b"".join(parts)


LARGE = [b"%d" % number * 40_000 for number in range(40)] + [b"x" * 3_000_000]


def test_a_large_file_is_its_parts_with_or_without_a_kernel_that_writes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / NAME
    for call in (writeback._sync_file_range(), None, reader_thread(errno.ENOSYS), reader_thread(errno.EPERM)):
        monkeypatch.setattr(writeback, "_sync_file_range", lambda call=call: call)
        assert write_atomic(path, LARGE) == len(b"".join(LARGE))
        assert path.read_bytes() == b"".join(LARGE)


def test_what_the_disk_does_not_take_on_the_way_is_told_since_the_fsync_would_not_tell_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / NAME
    write_atomic(path, [b"older"])
    monkeypatch.setattr(writeback, "_sync_file_range", lambda: reader_thread(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_atomic(path, LARGE)
    assert names(tmp_path) == [NAME]
    assert path.read_bytes() == b"older"


def test_no_more_than_the_bound_is_given_to_the_disk_before_it_has_taken_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, most = set[int](), 0

    def call(_: int, start: int, length: int, how: int) -> int:
        nonlocal most
        if how & writeback._WAIT_AFTER:
            begun.remove(start)
        else:
            begun.add(start)
        most = max(most, len(begun))
        assert length < 2 * writeback.PART_BYTES
        return 0

    monkeypatch.setattr(writeback, "_sync_file_range", lambda: call)
    write_atomic(tmp_path / NAME, LARGE)
    assert most == writeback.PARTS_MAX


def test_the_kernel_takes_as_many_parts_at_once_as_we_give_it() -> None:
    assert os.sysconf("SC_IOV_MAX") >= fs._IOV_MAX


@pytest.mark.parametrize("parts", [[], [b""], [b"", b""]])
def test_nothing_is_an_empty_file(tmp_path: Path, parts: list[bytes]) -> None:
    assert write_atomic(tmp_path / NAME, parts) == 0
    assert (tmp_path / NAME).read_bytes() == b""


def test_a_file_is_private_whatever_the_umask_and_the_older_file_say(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"older")
    path.chmod(0o666)
    before = os.umask(0)
    try:
        write_atomic(path, [b"newer"])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"newer"


def test_a_reader_of_the_older_file_goes_on_reading_that(tmp_path: Path) -> None:
    path = tmp_path / NAME
    write_atomic(path, [b"older"])
    with path.open("rb") as file:
        write_atomic(path, [b"newer, and longer"])
        assert file.read() == b"older"
    assert path.read_bytes() == b"newer, and longer"


@pytest.mark.parametrize("fails", ["writev", "fsync", "rename"])
@pytest.mark.parametrize("older", [None, b"older"])
def test_a_failure_leaves_no_temporary_and_the_older_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, older: bytes | None
) -> None:
    path = tmp_path / NAME
    if older is not None:
        write_atomic(path, [older])
    if fails == "rename":
        monkeypatch.setattr(Path, "rename", refuse)
    else:
        monkeypatch.setattr(fs.os, fails, refuse)
    descriptors = len(names(Path("/proc/self/fd")))
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, [b"newer"])
    assert len(names(Path("/proc/self/fd"))) == descriptors
    assert names(tmp_path) == ([] if older is None else [NAME])
    assert older is None or path.read_bytes() == older


def test_a_disk_that_fills_in_the_middle_leaves_the_older_file(tmp_path: Path) -> None:
    """The kernel itself stops the write, by a limit on the file's size."""
    script = """
import resource, sys
from pathlib import Path
from edi_checkpointd.system.fs import write_atomic

path = Path(sys.argv[1])
write_atomic(path, [b"older"])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    write_atomic(path, [b"x" * 30_000] * 9)
except OSError as error:
    print(error.errno)
"""
    path = tmp_path / NAME
    child = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.stdout.strip() == str(errno.EFBIG), child.stderr
    assert names(tmp_path) == [NAME]
    assert path.read_bytes() == b"older"


def test_an_interruption_leaves_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(point: CrashPoint) -> None:
        if point is CrashPoint.TEMPORARY_WRITTEN:
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "hook", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / NAME, [b"newer"])
    assert names(tmp_path) == []


def test_the_data_is_synced_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(fd: int) -> None:
        order.append("sync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else f"sync {os.fstat(fd).st_size} bytes")
        fsync(fd)

    def watched_rename(path: Path, target: Path) -> Path:
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(fs.os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    write_atomic(tmp_path / NAME, [b"12", b"345"])
    assert order == ["sync 5 bytes", "rename", "sync folder"]


def test_the_temporary_never_has_a_name_that_a_reader_looks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edi_checkpoint.documents.names import parse_autosave_name, parse_checkpoint_name

    seen: list[str] = []

    def look(point: CrashPoint) -> None:
        if point is CrashPoint.TEMPORARY_WRITTEN:
            seen.extend(names(tmp_path))

    monkeypatch.setattr(faults, "hook", look)
    for name in (NAME, "s.json"):
        write_atomic(tmp_path / name, [b"x"])
        (temporary,) = [found for found in seen if found.endswith(".tmp")]
        assert temporary.startswith(".")
        assert parse_checkpoint_name(temporary) is parse_autosave_name(temporary) is None
        seen.clear()


def test_a_left_over_temporary_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.tmp").write_bytes(b"torn, and longer than what comes")
    write_atomic(tmp_path / NAME, [b"whole"])
    assert names(tmp_path) == [NAME]
    assert (tmp_path / NAME).read_bytes() == b"whole"


@pytest.mark.parametrize("planted", [f".{NAME}.tmp", NAME])
@pytest.mark.parametrize("to", ["a file", "nothing"])
def test_a_planted_link_is_not_followed(tmp_path: Path, planted: str, to: str) -> None:
    folder, elsewhere = tmp_path / "sessions", tmp_path / "elsewhere"
    folder.mkdir()
    if to == "a file":
        elsewhere.write_bytes(b"somebody else's")
    (folder / planted).symlink_to(elsewhere)
    write_atomic(folder / NAME, [b"ours"])
    assert names(folder) == [NAME]
    assert not (folder / NAME).is_symlink()
    assert (folder / NAME).read_bytes() == b"ours"
    if to == "a file":
        assert elsewhere.read_bytes() == b"somebody else's"
    else:
        assert not elsewhere.exists()


@pytest.mark.parametrize("planted", [f".{NAME}.tmp", NAME])
def test_a_folder_in_the_way_is_one_error(tmp_path: Path, planted: str) -> None:
    (tmp_path / planted).mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / NAME, [b"ours"])
    assert names(tmp_path) == [planted]


def test_a_missing_folder_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "gone" / NAME, [b"ours"])


# -- sweeping and setting aside ----------------------------------------------------------------------------------------


def test_sweeping_takes_our_temporaries_and_nothing_else(tmp_path: Path) -> None:
    ours = [f".{NAME}.tmp", ".s.json.tmp", ".s.v2.json.tmp"]
    others = [
        NAME, "s.json", "s_checkpoint_20261123_061232.tmp.json", "notes.tmp", ".hidden", ".tmp", ".s.tmp", "s.json.tmp",
        ".s.json.tmp.bak", ".s.json", ".daemon.lock", ".edi-checkpoint",
    ]  # fmt: skip
    for name in (*ours, *others):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / ".s.json.tmp").touch()
    assert sweep_temporaries(tmp_path) == len(ours)
    assert names(tmp_path) == sorted([*others, "damaged"])
    assert names(tmp_path / "damaged") == [".s.json.tmp"]
    assert sweep_temporaries(tmp_path) == 0


def test_sweeping_follows_no_link_and_passes_over_folders(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    (tmp_path / "elsewhere").write_bytes(b"somebody else's")
    (folder / ".a.json.tmp").symlink_to(tmp_path / "elsewhere")
    (folder / ".b.json.tmp").mkdir()
    (folder / ".c.json.tmp").touch()
    sweep_temporaries(folder)
    assert names(folder) == [".b.json.tmp"]
    assert (tmp_path / "elsewhere").read_bytes() == b"somebody else's"


def test_what_is_set_aside_replaces_nothing(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    kept = []
    for content in (b"1", b"2", b"3"):
        (tmp_path / NAME).write_bytes(content)
        kept.append(set_aside(tmp_path / NAME, damaged))
    assert [path.read_bytes() for path in kept] == [b"1", b"2", b"3"]
    assert names(tmp_path) == ["damaged"]
    assert names(damaged) == [NAME, f"{NAME}.1", f"{NAME}.2"]


# -- the reserve -------------------------------------------------------------------------------------------------------


def test_the_reserve_holds_blocks_until_it_is_released(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", 1 << 20)
    assert reserve.hold()
    status = (tmp_path / "reserve").stat()
    assert status.st_size == 1 << 20
    assert status.st_blocks * 512 >= 1 << 20
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert reserve.hold()
    assert (tmp_path / "reserve").stat().st_ino == status.st_ino
    reserve.release()
    assert names(tmp_path) == []
    reserve.release()
    assert reserve.hold()


def test_a_reserve_cut_short_is_filled_up(tmp_path: Path) -> None:
    (tmp_path / "reserve").write_bytes(b"x" * 100)
    assert Reserve(tmp_path / "reserve", 1 << 20).hold()
    assert (tmp_path / "reserve").stat().st_size == 1 << 20


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_reserve_that_does_not_fit_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_room(fd: int, offset: int, size: int) -> None:
        os.write(fd, b"some of it")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fs.os, "posix_fallocate", no_room)
    assert not Reserve(tmp_path / "reserve", 1 << 20).hold()
    assert names(tmp_path) == []


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
def test_a_reserve_leaves_alone_what_a_planted_name_leads_to(tmp_path: Path, plant) -> None:
    (tmp_path / "elsewhere").write_bytes(b"somebody else's")
    plant(tmp_path / "reserve", tmp_path / "elsewhere")
    assert Reserve(tmp_path / "reserve", 1 << 20).hold()
    assert (tmp_path / "elsewhere").read_bytes() == b"somebody else's"
    assert not (tmp_path / "reserve").is_symlink()
