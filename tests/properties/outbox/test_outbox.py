from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edi_checkpoint.errors import OutboxFull, SessionBusy
from edi_checkpoint.outbox import outbox as outbox_module
from edi_checkpoint.outbox.outbox import Outbox
from edi_checkpoint.outbox.segments import is_held, list_streams, read_records, remove_stream, share_lock
from edi_checkpoint.wire.entries import Update, encode_entry
from edi_checkpoint.wire.records import HEADER, Record, pack, scan, scan_all

SEGMENT_BYTES = 100
BACKLOG_BYTES = 400
ENTRIES = st.binary(max_size=2 * SEGMENT_BYTES)


class Disk:
    """`os` as the outbox sees it, on a disk that takes `room` bytes more (None: any number) and then refuses.

    A record that fits in part is written in part, as a full file system does it.
    """

    def __init__(self) -> None:
        self.room: int | None = None
        self.cuts = True

    def ftruncate(self, fd: int, size: int) -> None:
        if not self.cuts:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.ftruncate(fd, size)

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def writev(self, fd: int, parts: Sequence[bytes]) -> int:
        data = b"".join(parts)
        if self.room is None:
            return os.write(fd, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(fd, data[: self.room])
        self.room -= written
        return written


@contextmanager
def small(disk: Disk | None = None) -> Iterator[None]:
    """Small segments and a small backlog, so that a few records meet every edge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox_module, "SEGMENT_BYTES", SEGMENT_BYTES)
        patch.setattr(outbox_module, "BACKLOG_BYTES", BACKLOG_BYTES)
        if disk is not None:
            patch.setattr(outbox_module, "os", disk)
        yield


def publish(box: Outbox, *entries: bytes) -> None:
    for entry in entries:
        with box.lock:
            box.append(entry)


def sent_from(box: Outbox, after: int, limit: int = 1 << 20) -> list[tuple[int, bytes]]:
    """All that a link sends which knows that `after` has arrived."""
    found: list[tuple[int, bytes]] = []
    while (frame := box.frame(after, limit)) is not None:
        records = scan_all(frame[0])
        assert records[-1].number == frame[1] > after
        after = frame[1]
        found += [(number, entry) for number, entry, _ in records]
    return found


def on_file(box: Outbox, limit: int = 1 << 20) -> list[Record]:
    """All that a reader of the folder finds, who needs no lock."""
    (files,) = list_streams(box.folder)
    return [record for data in read_records(files, limit) for record in scan_all(data)]


# -- any interleaving --------------------------------------------------------------------------------------------------


class Traffic(RuleBasedStateMachine):
    """A publisher, a link and a daemon that acknowledges, in any order, on a disk that may refuse."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.disk = Disk()
        self.patch = small(self.disk)
        self.patch.__enter__()
        self.box = Outbox(self.root, "s", app="edi")
        self.entries: list[bytes] = []
        self.sent = 0
        self.covered = 0
        self.never_on_file = 0  # acknowledged from memory

    @rule(entry=ENTRIES)
    def publishes(self, entry: bytes) -> None:
        waiting = sum(HEADER.size + len(waits) for waits in self.entries[self.box.spooled :])
        try:
            publish(self.box, entry)
        except OutboxFull:
            assert waiting + HEADER.size + len(entry) > BACKLOG_BYTES
        else:
            self.entries.append(entry)
        assert self.box.published == len(self.entries)

    @rule(limit=st.integers(1, 3 * SEGMENT_BYTES))
    def sends(self, limit: int) -> None:
        frame = self.box.frame(self.sent, limit)
        if frame is None:
            assert self.sent == len(self.entries)
            return
        data, last = frame
        records = scan_all(data)
        assert len(data) <= limit or len(records) == 1
        assert [record.number for record in records] == list(range(records[0].number, last + 1))
        assert records[0].number == max(self.sent + 1, self.box.first)
        assert [record.entry for record in records] == self.entries[records[0].number - 1 : last]
        self.sent = last

    @rule(data=st.data())
    def loses_its_connection(self, data: st.DataObject) -> None:
        self.sent = data.draw(st.integers(min(self.never_on_file, self.sent), self.sent))

    @rule(data=st.data())
    def a_file_covers_some(self, data: st.DataObject) -> None:
        self.covered = data.draw(st.integers(self.covered, max(self.covered, self.sent)))
        if self.covered > self.box.spooled:
            self.never_on_file = self.covered
        self.box.acknowledged(self.covered)
        self.box.trim(self.covered)
        assert self.box.first <= self.covered + 1

    @rule()
    def rolls(self) -> None:
        self.box.roll()

    @rule()
    def spools(self) -> None:
        if self.box.spool():
            assert not self.box.backlog

    @rule(room=st.none() | st.integers(0, 2 * SEGMENT_BYTES), cuts=st.booleans())
    def the_disk_fills_or_is_freed(self, room: int | None, cuts: bool) -> None:
        """Full, it may also refuse to cut a torn record off."""
        self.disk.room, self.disk.cuts = room, cuts

    @precondition(lambda self: hasattr(self, "box"))
    @invariant()
    def what_is_on_file_is_whole_and_in_order(self) -> None:
        found = [(number, entry) for number, entry, _ in on_file(self.box, 2 * SEGMENT_BYTES)]
        numbers = [number for number, _ in found]
        assert found == [(number, self.entries[number - 1]) for number in numbers]
        # Behind the numbers that the daemon acknowledged without them, none is missing.
        assert numbers == sorted(set(numbers))
        assert set(range(self.box.first, self.box.spooled + 1)) - set(numbers) <= set(range(self.covered + 1))

    @precondition(lambda self: hasattr(self, "box"))
    @invariant()
    def counts_agree(self) -> None:
        assert self.box.spooled <= self.box.published == len(self.entries)
        assert self.box.backlog or self.box.spooled == self.box.published or self.covered >= self.box.published

    def teardown(self) -> None:
        if hasattr(self, "box"):
            self.disk.room, self.disk.cuts = None, True
            if self.covered < self.box.published:
                assert self.box.spool()
            assert [entry for number, entry in sent_from(self.box, self.sent)] == self.entries[
                max(self.sent, self.box.first - 1) :
            ]
            self.box.close()
            self.patch.__exit__(None, None, None)
            shutil.rmtree(self.root)


def test_any_interleaving_gives_each_record_once_and_in_order() -> None:
    run_state_machine_as_test(
        Traffic,
        settings=settings(
            deadline=None, max_examples=100, stateful_step_count=30, suppress_health_check=list(HealthCheck)
        ),
    )


@settings(deadline=None)
@given(st.lists(ENTRIES, max_size=12), st.integers(HEADER.size, 3 * SEGMENT_BYTES), st.integers(0, 12))
def test_the_reading_side_sees_what_the_sending_side_sends(entries: list[bytes], limit: int, after: int) -> None:
    with tempfile.TemporaryDirectory() as root, small():
        box = Outbox(Path(root), "s", app="edi")
        for entry in entries:
            publish(box, entry)
            box.roll()
        expected = list(enumerate(entries, start=1))
        assert sent_from(box, 0, limit) == [record[:2] for record in on_file(box, limit)] == expected
        assert sent_from(box, after, limit) == expected[after:]
        box.close()
        assert [record[:2] for record in on_file(box, limit)] == expected


@settings(deadline=None)
@given(st.lists(ENTRIES, min_size=1, max_size=8), st.data())
def test_a_torn_tail_on_file_is_passed_over(entries: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as root:
        box = Outbox(Path(root), "s", app="edi")
        publish(box, *entries)
        box.close()
        ((path,),) = [files.segments for files in list_streams(box.folder)]
        whole = path.read_bytes()
        kept = sum(HEADER.size + len(entry) for entry in entries[:-1])
        os.truncate(path, data.draw(st.integers(kept, len(whole) - 1)))
        if data.draw(st.booleans()):  # a power cut may leave a longer file with nothing in it
            os.truncate(path, len(whole) + data.draw(st.integers(0, 4096)))
        assert [record.entry for record in on_file(box, data.draw(st.integers(16, 400)))] in (entries[:-1], entries)
        assert [record.entry for record in on_file(box)][: len(entries) - 1] == entries[:-1]


def test_a_reader_stops_at_the_first_damaged_record(tmp_path: Path) -> None:
    with small():
        box = Outbox(tmp_path, "s", app="edi")
        for number in range(9):
            publish(box, bytes([number]) * SEGMENT_BYTES)
            box.roll()
    box.close()
    (files,) = list_streams(box.folder)
    assert len(files.segments) > 4
    damaged = bytearray(files.segments[3].read_bytes())
    damaged[-1] ^= 1
    files.segments[3].write_bytes(damaged)
    numbers = [record.number for record in on_file(box)]
    assert numbers == list(range(1, numbers[-1] + 1))
    assert numbers[-1] < 9


def test_a_segment_that_its_owner_has_trimmed_is_passed_over(tmp_path: Path) -> None:
    with small():
        box = Outbox(tmp_path, "s", app="edi")
        for number in range(4):
            publish(box, bytes([number]) * SEGMENT_BYTES)
            box.roll()
        (files,) = list_streams(box.folder)
        reading = read_records(files)
        assert scan(next(reading))[0].number == 1
        box.trim(2)
        assert [record.number for data in reading for record in scan(data)] == [3, 4]
        assert [number for number, _ in sent_from(box, 0)] == [3, 4]
        assert box.first == 3


def test_one_record_larger_than_a_reader_takes_at_once_is_read(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "s", app="edi")
    publish(box, b"small", b"x" * 5000, b"small again")
    assert [len(record.entry) for record in on_file(box, 100)] == [5, 5000, 11]
    assert [len(scan(box.frame(after, 100)[0])) for after in range(3)] == [1, 1, 1]  # type: ignore[index]


# -- a publisher and the link at the same moment -----------------------------------------------------------------------


class Moved(outbox_module._Segment):
    """A segment that is appended to, by another thread, just when one of its fields is looked at."""

    def __init__(self, segment: outbox_module._Segment, field: str, append: object) -> None:
        super().__init__(segment.path, segment.fd, segment.size, segment.last)
        self._field, self._append = field, append

    def _looked_at(self, field: str) -> None:
        if self._field == field:
            self._field = ""
            self.thread = threading.Thread(target=self._append)  # type: ignore[arg-type]
            self.thread.start()
            self.thread.join(0.05)  # with the lock held, it comes later

    def _get(self, field: str) -> int:
        value: int = getattr(outbox_module._Segment, field).__get__(self)
        self._looked_at(field)
        return value

    size = property(
        lambda self: self._get("size"), lambda self, value: outbox_module._Segment.size.__set__(self, value)
    )
    last = property(
        lambda self: self._get("last"), lambda self, value: outbox_module._Segment.last.__set__(self, value)
    )


@pytest.mark.parametrize(("field", "rewound"), [("size", False), ("size", True), ("last", True)])
@pytest.mark.parametrize("refused", [False, True])
def test_what_is_published_while_the_link_looks_is_sent_next(
    tmp_path: Path, field: str, rewound: bool, refused: bool
) -> None:
    disk = Disk()
    with small(disk):
        box = Outbox(tmp_path, "s", app="edi")
        publish(box, b"1", b"2")
        assert len(sent_from(box, 0)) == 2
        box.frame(2, 100)

        def append() -> None:
            publish(box, b"3")
            if refused:
                disk.room = 0
            publish(box, b"4")

        moved = Moved(box._segments[-1], field, append)
        box._segments[-1] = moved
        if rewound:
            box._cursor.number = -1
        sent = sent_from(box, 2)
        moved.thread.join()
        sent += sent_from(box, 2 + len(sent))
        assert sent == [(3, b"3"), (4, b"4")]


def test_two_threads_lose_and_double_nothing(tmp_path: Path) -> None:
    with small():
        box = Outbox(tmp_path, "s", app="edi")
        count = 3000

        def publishes() -> None:
            for number in range(1, count + 1):
                publish(box, b"%d" % number)

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        publisher = threading.Thread(target=publishes)
        publisher.start()
        try:
            sent, turns = 0, 0
            while sent < count:
                turns += 1
                box.roll()
                frame = box.frame(sent, 1 << 12)
                if frame is None:
                    continue
                assert [record.number for record in scan(frame[0])] == list(range(sent + 1, frame[1] + 1))
                sent = frame[1]
                box.trim(sent - 10)
                if turns % 3 == 0:
                    sent -= min(5, sent)
        finally:
            sys.setswitchinterval(before)
            publisher.join()


# -- the disk refuses --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=8), st.integers(0, 200), st.integers(1, 200))
def test_what_the_disk_refuses_waits_and_is_written_in_order(entries: list[bytes], room: int, again: int) -> None:
    disk = Disk()
    with tempfile.TemporaryDirectory() as root, small(disk):
        box = Outbox(Path(root), "s", app="edi")
        disk.room = room
        publish(box, *entries)
        assert box.published == len(entries)
        assert len(on_file(box)) == box.spooled
        assert box.backlog == (box.spooled < box.published)
        assert [entry for _, entry in sent_from(box, 0)] == entries  # from file and memory
        disk.room = again
        written = box.spool()
        assert written == (box.spooled == box.published) == (not box.backlog)
        assert [entry for _, entry in sent_from(box, 0)] == entries
        disk.room = None
        assert box.spool()
        publish(box, b"after")
        assert [record.entry for record in on_file(box)] == [*entries, b"after"]


def test_a_full_backlog_publishes_nothing_more(tmp_path: Path) -> None:
    disk = Disk()
    with small(disk):
        box = Outbox(tmp_path, "s", app="edi")
        publish(box, b"on file")
        disk.room = 0
        fits = BACKLOG_BYTES // (HEADER.size + 4)
        publish(box, *[b"wait"] * fits)
        with pytest.raises(OutboxFull, match="the disk refuses"):
            publish(box, b"wait")
        assert (box.published, box.spooled) == (1 + fits, 1)
        box.acknowledged(3)  # the journal has two of those that wait: there is room again
        publish(box, b"more")
        assert [entry for _, entry in sent_from(box, 3)] == [b"wait"] * (fits - 2) + [b"more"]
        disk.room = None
        assert box.spool()
        assert box.spooled == box.published == fits + 2


def test_an_outbox_that_was_let_go_of_on_a_full_disk_is_let_go_of_again_without_harm(tmp_path: Path) -> None:
    disk = Disk()
    with small(disk):
        box = Outbox(tmp_path, "s", app="edi")
        disk.room = 0
        publish(box, b"wait")
        for spooled in (False, True):  # the link does both for a stream that is fenced, and again when it is closed
            assert box.spool() is spooled
            box.close()


def test_on_a_full_file_the_records_wait_and_nothing_torn_stays(tmp_path: Path) -> None:
    """The kernel itself refuses here, in the middle of a record, by a limit on the file's size."""
    script = """
import json, resource, sys
from pathlib import Path
from edi_checkpoint.outbox import outbox
from edi_checkpoint.errors import OutboxFull
from edi_checkpoint.outbox.segments import list_streams, read_records
from edi_checkpoint.wire.records import scan

outbox.BACKLOG_BYTES = 1000
box = outbox.Outbox(Path(sys.argv[1]), "s", app="edi")
told = []

def publish(count):
    for _ in range(count):
        with box.lock:
            box.append(b"%084d" % (box.published + 1))  # records of 100 bytes

def tell():
    (files,) = list_streams(box.folder)
    numbers = [record.number for data in read_records(files) for record in scan(data)]
    size = sum(path.stat().st_size for path in files.segments)
    told.append([box.published, box.spooled, len(numbers), size])

resource.setrlimit(resource.RLIMIT_FSIZE, (1050, resource.RLIM_INFINITY))
publish(20)
tell()
try:
    publish(1)
except OutboxFull:
    tell()
assert not box.spool()
resource.setrlimit(resource.RLIMIT_FSIZE, (1250, resource.RLIM_INFINITY))
assert not box.spool()
tell()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
assert box.spool()
publish(1)
tell()
print(json.dumps(told))
"""
    child = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == [[20, 10, 10, 1000], [20, 10, 10, 1000], [20, 12, 12, 1200], [21, 21, 21, 2100]]


def test_published_is_safe_from_the_publishers_death(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from edi_checkpoint.outbox.outbox import Outbox

box = Outbox(Path(sys.argv[1]), "s", app="edi")
for number in range(1000):
    with box.lock:
        box.append(b"%d" % number)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60, check=False)
    (files,) = list_streams(tmp_path / "s")
    assert not is_held(files.lock)
    assert [r.entry for data in read_records(files) for r in scan(data)] == [b"%d" % number for number in range(1000)]


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "s", app="edi")
    with pytest.raises(SessionBusy, match=rf"process {os.getpid()} \(edi\) writes to it since 20") as busy:
        Outbox(tmp_path, "s", app="other")
    assert busy.value.pid == os.getpid()
    assert busy.value.since.endswith("Z")
    assert len(list_streams(box.folder)) == 1  # the second left nothing
    assert not [path for path in box.folder.iterdir() if path.name.startswith(".") and path.name != ".attach"]
    publish(box, b"still mine")
    box.close()
    again = Outbox(tmp_path, "s", app="other")
    orders = [files.owner.order for files in list_streams(box.folder)]
    assert orders == [1, 2]
    again.close()


def test_another_process_is_told_the_pid_of_the_writer(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from edi_checkpoint.outbox.outbox import Outbox

box = Outbox(Path(sys.argv[1]), "s", app="edi")
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with pytest.raises(SessionBusy) as busy:
            Outbox(tmp_path, "s", app="edi")
        assert busy.value.pid == child.pid
        child.kill()
        child.wait(20)
        Outbox(tmp_path, "s", app="edi").close()  # nothing has to be waited for


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from edi_checkpoint.outbox.outbox import Outbox

box = Outbox(Path(sys.argv[1]), "s", app="edi")
going, stay = os.pipe()
forked, told = os.pipe()
if os.fork() == 0:
    os.close(stay)
    os.write(told, b"x")
    os.read(going, 1)
    os._exit(0)
os.close(going)
os.read(forked, 1)
box.close()
Outbox(Path(sys.argv[1]), "s", app="edi").close()
print("free", flush=True)
os.write(stay, b"x")
os.wait()
"""
    child = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.stdout == "free\n", child.stderr


def test_a_dead_streams_files_can_be_removed_and_the_folder_goes_with_the_last(tmp_path: Path) -> None:
    first = Outbox(tmp_path, "s", app="edi")
    first.close()
    second = Outbox(tmp_path, "s", app="edi")
    streams = list_streams(tmp_path / "s")
    assert [is_held(files.lock) for files in streams] == [False, True]
    fd = share_lock(streams[0].lock)
    assert fd is not None
    remove_stream(streams[0])
    os.close(fd)
    assert list_streams(tmp_path / "s") == streams[1:]
    assert share_lock(streams[1].lock) is None
    second.close()
    remove_stream(streams[1])
    assert not (tmp_path / "s").exists()
    Outbox(tmp_path, "s", app="edi").close()


def test_files_that_are_no_streams_are_passed_over(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "s", app="edi")
    stream = box.stream
    lock = (box.folder / f"{stream}.lock").read_bytes()
    (box.folder / ("0" * 32 + ".lock")).write_bytes(lock)  # says that it is another
    (box.folder / ("1" * 32 + ".lock")).write_bytes(b"\xff\0")
    (box.folder / ("2" * 32 + ".lock")).mkdir()
    (box.folder / ("3" * 32 + ".00000000.seg")).write_bytes(pack(1, b"nobody's"))
    (box.folder / ".lock").touch()
    (box.folder / "notes.txt").touch()
    assert [files.owner.stream for files in list_streams(box.folder)] == [stream]
    assert list_streams(tmp_path / "none") == []
    (tmp_path / "stray").touch()
    assert list_streams(tmp_path / "stray") == []


def test_files_are_private(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox", "s", app="edi")
    publish(box, b"x")
    modes = {path.name.rpartition(".")[2]: path.stat().st_mode & 0o777 for path in box.folder.iterdir()}
    assert modes == {"attach": 0o600, "lock": 0o600, "seg": 0o600}
    assert box.folder.stat().st_mode & 0o777 == (tmp_path / "outbox").stat().st_mode & 0o777 == 0o700


def test_syncing_is_not_hindered_by_a_trim_at_the_same_moment(tmp_path: Path) -> None:
    """A publisher syncs while the link unlinks what a file covers."""

    class Trimming(Disk):
        def fdatasync(self, fd: int) -> None:
            os.fdatasync(fd)
            box.trim(3)

    with small(Trimming()):
        box = Outbox(tmp_path, "s", app="edi")
        for number in range(5):
            publish(box, bytes([number]) * 90)
            box.roll()
        box.sync()
        assert [record.number for record in on_file(box)] == [4, 5]


def test_what_cannot_be_synced_is_told(tmp_path: Path) -> None:
    class Broken(Disk):
        def fdatasync(self, fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with small(Broken()):
        box = Outbox(tmp_path, "s", app="edi")
        publish(box, b"x")
        with pytest.raises(OSError, match="error"):
            box.sync()


def test_what_cannot_be_thinned_is_not_thinned_again_and_again(tmp_path: Path) -> None:
    """Transitions stay, each: an outbox of nothing else would be read and written anew at each publishing call."""
    with small():
        box = Outbox(tmp_path, "s", app="edi", max_bytes=1000)
        thinned = 0
        for number in range(200):
            publish(box, encode_entry(Update(0, {"current_stage": b'"%060d"' % number})))
            thinned += box.compact(0)
        assert 1 <= thinned <= 8
        assert [number for number, _ in sent_from(box, 0)] == list(range(1, 201))


def test_what_is_synced_is_all_that_is_spooled(tmp_path: Path) -> None:
    synced: list[int] = []

    class Watching(Disk):
        def fdatasync(self, fd: int) -> None:
            synced.append(os.fstat(fd).st_size)
            os.fdatasync(fd)

    with small(Watching()):
        box = Outbox(tmp_path, "s", app="edi")
        for number in range(5):
            publish(box, bytes([number]) * 90)
            box.roll()
        box.sync()
        (files,) = list_streams(box.folder)
        assert synced == [path.stat().st_size for path in files.segments]
