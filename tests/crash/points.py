"""Every crash point: what leads there, a process that dies there, and what is left.

A case is what is done so that the point is reached; who dies is the daemon for a `CrashPoint` and a publisher for a
`ClientPoint`, but for the few steps of the client package that the daemon does. A member without a case is an error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from pathlib import Path

from crash.verdict import Verdict, documents, history, judge_entries, judge_files, judge_states, left_over
from harness import Home, Process, Publisher, Refused, eventually

from edi_checkpoint.document import Document
from edi_checkpoint.faults import ClientPoint
from edi_checkpoint.names import attachment_name
from edi_checkpoint.offline import load_state
from edi_checkpoint.paths import Paths, ensure_private, locate
from edi_checkpointd.faults import CrashPoint

FLAGS = (
    "--transition-keys", "attempt", "--transition-quiet-s", "0.02", "--keep-per-session", "3",
    "--autosave-every-s", "0.1", "--checkpoint-every-s", "0.3", "--collect-every-s", "0.1",
)  # fmt: skip
CLEANS_UP = ("--keep-closed-days", "0")
TRIMS = ("--history-max-bytes", str(1 << 20))
TURNS = 10
DIES_WITHIN_S = 20.0
SECRET = "the old lighthouse keeper"  # typed into a session that is purged


@dataclass
class Stage:
    """A home with its processes: the writer of `s1`, the daemon, and whoever else takes part."""

    home: Home
    load: int  # writers that publish all the time beside what the case does
    paths: Paths = field(init=False)
    publishers: dict[str, Publisher] = field(default_factory=dict)  # by what their entries call them
    names: Iterable[int] = field(default_factory=count)
    daemon: Process | None = None
    victim: Process | None = None
    unnamed: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.paths = locate(self.home.environment)

    @property
    def writer(self) -> Publisher:
        return self.publishers["s1"]

    @property
    def dead(self) -> bool:
        """Whether the process that is to die has died."""
        return self.victim is not None and self.victim.popen.poll() is not None

    def publish(self, who: str, number: int, **how: object) -> None:
        """Have a publisher publish some more and wait for it; no daemon need be there."""
        options = "".join(f", {key}={value!r}" for key, value in how.items())
        self.publishers[who].send(f"publish({number}, who={who!r}, tell=True, each=1{options})")
        if self.victim is self.publishers[who]:
            waits(self)
        else:
            self.publishers[who].answer()

    def enter(self, who: str, session_id: str = "", publisher: Publisher | None = None) -> Publisher:
        """Let a publisher in; not waited for when it is given."""
        self.publishers[who] = publisher or self.home.publisher(session_id)
        return self.publishers[who]

    def attempt(self, code: str) -> bool:
        """Have the writer do it; who waits for a daemon that has died is told so, and nothing else may fail."""
        try:
            self.writer.do(code)
        except Refused as refused:
            if refused.type not in ("FlushTimeout", "DaemonUnavailable"):
                raise
            return False
        return True

    def kill(self, who: str) -> None:
        self.publishers[who].kill()

    def told(self) -> dict[str, int]:
        """Return of each publisher how many of its calls have returned."""
        return {who: publisher.returned for who, publisher in self.publishers.items()}

    def acknowledged(self) -> dict[str, int]:
        """Return of each publisher how many it has seen acknowledged."""
        return {who: publisher.acknowledged_here for who, publisher in self.publishers.items()}


Step = Callable[[Stage], None]


@dataclass(frozen=True)
class Case:
    """How a point is reached: `step` is done again until it is; `before` is done with a daemon that then is killed."""

    step: Step
    before: Step | None = None
    flags: tuple[str, ...] = ()
    journal_lost: bool = False  # what was acknowledged is in files then, its history is not
    keeps_history: bool = True
    daemon_dies: bool = True
    daemon_runs: bool = True  # while a publisher dies
    environment: tuple[tuple[str, str], ...] = ()
    swept_at_start: bool = False  # what is left of it goes when the next daemon starts
    after: Step | None = None  # done when a daemon is there again


# -- what leads there --------------------------------------------------------------------------------------------------


def waits(stage: Stage) -> None:
    """A start, or upkeep, leads there by itself."""
    eventually(lambda: stage.dead, DIES_WITHIN_S)


def publishes(stage: Stage) -> None:
    stage.publish("s1", 250)


def publishes_much(stage: Stage) -> None:
    """More than the rows that a snapshot is due after, and than a WAL is left to hold."""
    stage.publish("s1", 250, padding=6000)


def marks(stage: Stage) -> None:
    """Five transitions with attachments, each with a mark."""
    for _ in range(5):
        number = next(iter(stage.names))
        stage.writer.do(f"session.update(attempt={number}, raw=[b'{number}', bytes({number})])")
        if not stage.attempt(f"session.checkpoint('mark {number}', timeout_s=0.5)"):
            break


def saves(stage: Stage) -> None:
    """What is published comes into the auto-save, and the journal notes it."""
    stage.publish("s1", 20)
    if stage.attempt("session.flush('checkpointed', timeout_s=0.5)") and stage.victim is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):  # nothing tells of a note; the step is done again
            stage.victim.popen.wait(0.2)


def goes_back(stage: Stage) -> None:
    """Back to the checkpoint before, which is pinned for a while, and to a fork of it."""
    marks(stage)
    if stage.attempt("told = session.rollback()") and stage.attempt("session.amend(told.name, pinned=True)"):
        stage.attempt(f"session.fork(told, session_id='fork-{next(iter(stage.names))}')")
        stage.attempt("session.amend(told.name, pinned=False)")


def other_dies(stage: Stage) -> None:
    """A publisher of another session is killed, and the next one goes on with that."""
    who = f"other-{next(iter(stage.names))}"
    stage.enter(who, "other")
    stage.publish(who, 50, attempt=1, raw=b"of another")
    stage.kill(who)
    eventually(lambda: stage.dead or not (stage.paths.outbox / "other").exists())


def fought_over(stage: Stage) -> None:
    """A writer that hears nothing is taken over from, and publishes on before it dies."""
    hung, taker = f"hung-{next(iter(stage.names))}", f"taker-{next(iter(stage.names))}"
    stage.enter(hung, "fought").do("publish(0)")
    stage.publish(hung, 20)
    stage.publishers[hung].go_deaf()
    stage.enter(taker).do("session = client.session('fought', takeover=True)")
    stage.publishers[taker].do("session.update(taken=True)")
    stage.publish(hung, 10)
    stage.kill(hung)
    eventually(lambda: stage.dead or any(stage.paths.sessions.glob("fought-stranded-*_checkpoint_*.json")))
    stage.kill(taker)


def sends_garbage(stage: Stage) -> None:
    """A record that is no entry: it is refused, and uses up its number."""
    stage.publish("s1", 5)
    stage.writer.do("session.flush(timeout_s=20)")
    stage.writer.do("session._stream.outbox.append(b'no entry') and session._link.wake()")
    waits(stage)


def hears_of_garbage(stage: Stage) -> None:
    """The publisher's next call raises what was refused."""

    def refused() -> bool:
        try:
            stage.writer.do("session.flush(timeout_s=20)")
        except Refused as refused:
            return refused.code == "protocol"
        return False

    eventually(refused)


def is_ended(stage: Stage) -> None:
    stage.publish("s1", 20)
    assert stage.daemon is not None
    stage.daemon.popen.send_signal(signal.SIGTERM)
    waits(stage)


def meets_foreign_file(stage: Stage) -> None:
    (stage.paths.sessions / "foreign.json").write_text('{"session_id": "foreign", "current_stage": "theirs"}')
    stage.enter("foreign", "foreign")
    stage.publish("foreign", 20)
    waits(stage)


def plants_unnamed(stage: Stage) -> None:
    """Attachments that nothing names, old enough to be collected."""
    marks(stage)
    for number in range(4):
        path = stage.paths.attachments / attachment_name(f"{number:064}", "raw")
        ensure_private(path.parent)
        path.write_bytes(b"nothing names it")
        os.utime(path, (1e9, 1e9))
        stage.unnamed.append(path)


def saved_once(stage: Stage) -> None:
    stage.publish("s1", 60, padding=100_000)  # more than a segment: what files cover is trimmed from the outbox
    stage.writer.do("session.flush('checkpointed', timeout_s=10)")
    stage.publish("s1", 10)
    stage.writer.do("session.flush(timeout_s=10)")


def cleans_up(stage: Stage) -> None:
    """A session is left, and goes into the trash, and (by flags) from there for good; that of the writer is pinned."""
    stage.attempt("session.checkpoint('stays', pin=True, timeout_s=0.5)")
    left = stage.home.publisher(f"left-{next(iter(stage.names))}")
    for number in range(2):
        left.do(f"session.update(step={number})")
        left.do("session.checkpoint()")
    left.do("client.close()")
    left.close()
    for _ in range(2):
        pruning = stage.home.start([sys.executable, "-m", "edi_checkpointd.cli", "prune", "--apply"])
        eventually(lambda pruning=pruning: stage.dead or pruning.popen.poll() is not None)


def comes_back(stage: Stage) -> None:
    """Somebody opens a session that lies in the trash."""
    cleans_up(stage)
    for folder in stage.paths.trash.iterdir():
        opener = stage.home.start_publisher(folder.name)
        waits(stage)
        opener.kill()


def whole_or_gone(stage: Stage) -> None:
    """Each session that was left lies whole in its place, or whole in the trash and noted there, or is gone."""

    def lies_whole(session_id: str) -> bool:
        here = [path for path in stage.paths.sessions.glob(f"{session_id}*.json") if not path.name.startswith(".")]
        folder = stage.paths.trash / session_id
        there = {path.name for path in folder.iterdir()} if folder.exists() else set()
        return (len(here), len(there)) in ((3, 0), (0, 0)) or (not here and len(there) == 4 and ".trashed" in there)

    for number in range(next(iter(stage.names))):
        eventually(lambda number=number: lies_whole(f"left-{number}"))


def damages_journal(stage: Stage) -> None:
    saved_once(stage)
    assert stage.daemon is not None
    stage.daemon.kill()
    stage.paths.journal.write_bytes(b"damaged" * 10_000)


def nothing_damaged_is_destroyed(stage: Stage) -> None:
    kept = {path.name for path in stage.paths.damaged.iterdir()}
    assert {"journal.sqlite", "journal.sqlite-wal"} <= kept, kept


def loses_journal(stage: Stage) -> None:
    saved_once(stage)
    assert stage.daemon is not None
    stage.daemon.kill()
    for path in stage.paths.state.glob("journal.sqlite*"):
        path.unlink()


def purges(stage: Stage) -> None:
    """A session whose writer died is purged; whoever asks for it need not hear of it."""
    doomed, asker = stage.home.publisher("doomed-session"), stage.home.publisher()
    doomed.do(f"session.update(prompt='{SECRET}', raw=b'{SECRET}')")
    doomed.do("session.checkpoint('one')")
    doomed.do(f"session.update(prompt='{SECRET}, once more')")
    doomed.kill()
    asker.send("client.ask(lambda n: edi_checkpoint.protocol.Purge(n, ('doomed-session',)), 20)")
    eventually(lambda: stage.dead or asker.has_said("= "))
    asker.kill()


def nothing_purged_is_left(stage: Stage) -> None:
    for path in stage.home.folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert "doomed" not in path.name, path
        assert SECRET.encode() not in data, path
        assert b"doomed" not in data, path


# -- of a publisher ----------------------------------------------------------------------------------------------------


def victim_publishes(stage: Stage) -> None:
    stage.publish("victim", 200)


def victim_tears(stage: Stage) -> None:
    """The disk takes all but the last byte of a record."""
    short = "lambda fd, data: os.write(fd, data[:-1] if len(data) > 9000 else data)"
    stage.publishers["victim"].do(
        f"import types; edi_checkpoint.outbox.os = types.SimpleNamespace(**{{**vars(os), 'write': {short}}})"
    )
    stage.publishers["victim"].do("publish(50, who='victim', tell=True)")
    stage.publish("victim", 1, padding=9000)


def victim_is_trimmed(stage: Stage) -> None:
    stage.publishers["victim"].send(
        "publish(150, who='victim', tell=True, padding=100_000), session.flush('checkpointed', timeout_s=10)"
    )
    waits(stage)


def victim_thins(stage: Stage) -> None:
    """No daemon takes what it publishes, and its outbox may have few bytes."""
    stage.publish("victim", 150, padding=100_000)


def victim_leaves(stage: Stage) -> None:
    stage.publishers["victim"].do("publish(20, who='victim', tell=True)")
    stage.publishers["victim"].send("client.close()")
    waits(stage)


def victim_takes_over(stage: Stage) -> None:
    stage.enter("hung", "fought")
    stage.publish("hung", 20)
    stage.publishers["victim"].send("client.session('fought', takeover=True)")
    waits(stage)


THINS = Case(
    victim_thins, daemon_dies=False, daemon_runs=False, keeps_history=False,
    environment=(("EDI_CHECKPOINT_OUTBOX_MAX_BYTES", str(1 << 20)),),
)  # fmt: skip
CASES: dict[Enum, Case] = {
    CrashPoint.LOCKED: Case(waits, before=publishes),
    CrashPoint.JOURNAL_MADE: Case(waits),
    CrashPoint.RECEIVED_NOT_COMMITTED: Case(publishes),
    CrashPoint.COMMIT_BEGUN: Case(publishes, before=publishes),
    CrashPoint.COMMITTED_NOT_ACKNOWLEDGED: Case(publishes),
    CrashPoint.MARK_COMMITTED: Case(marks),
    CrashPoint.TEMPORARY_WRITTEN: Case(marks),
    CrashPoint.RENAMED: Case(marks),
    CrashPoint.CHECKPOINT_WRITTEN: Case(marks),
    CrashPoint.BEFORE_ROLLBACK_WRITTEN: Case(goes_back),
    CrashPoint.CHECKPOINT_AMENDED: Case(goes_back),
    CrashPoint.CHECKPOINT_EVICTED: Case(marks),
    CrashPoint.FOREIGN_KEPT: Case(meets_foreign_file),
    CrashPoint.AUTOSAVE_WRITTEN: Case(saves),
    CrashPoint.SAVED_NOTED: Case(saves),
    CrashPoint.SNAPSHOT_WRITTEN: Case(publishes_much),
    CrashPoint.ROWS_TRIMMED: Case(publishes_much, flags=TRIMS, keeps_history=False),
    CrashPoint.CARRIED_OVER: Case(publishes_much),
    CrashPoint.SESSION_BEGUN: Case(other_dies),
    CrashPoint.STATE_ADOPTED: Case(waits, before=loses_journal, journal_lost=True),
    CrashPoint.REFUSED_KEPT: Case(sends_garbage, after=hears_of_garbage),
    CrashPoint.OUTBOX_DRAINED: Case(other_dies),
    CrashPoint.STREAM_CLOSED: Case(other_dies),
    CrashPoint.LEFT_NOTED: Case(other_dies),
    CrashPoint.FENCED_READ: Case(fought_over),
    CrashPoint.EPOCH_RAISED: Case(fought_over),
    CrashPoint.BRANCH_BEGUN: Case(fought_over),
    CrashPoint.BLOBS_COMMITTED: Case(marks),
    CrashPoint.ATTACHMENTS_FILED: Case(marks),
    CrashPoint.BLOBS_FILED: Case(lambda stage: (marks(stage), saves(stage))[0]),
    CrashPoint.COLLECTION_CUT: Case(saves, before=plants_unnamed),
    CrashPoint.TRASHING_CUT: Case(cleans_up, flags=CLEANS_UP, after=whole_or_gone),
    CrashPoint.TRASHED: Case(cleans_up, flags=CLEANS_UP, after=whole_or_gone),
    CrashPoint.RETURN_CUT: Case(comes_back, flags=CLEANS_UP, after=whole_or_gone),
    CrashPoint.CONDEMNED: Case(cleans_up, flags=(*CLEANS_UP, "--trash-days", "0"), after=whole_or_gone),
    **{point: Case(purges, after=nothing_purged_is_left) for point in CrashPoint if "FORG" in point.name},
    CrashPoint.WAL_EMPTIED: Case(purges, after=nothing_purged_is_left),
    CrashPoint.SET_ASIDE: Case(waits, before=damages_journal, journal_lost=True, after=nothing_damaged_is_destroyed),
    CrashPoint.JOURNAL_SET_ASIDE: Case(
        waits, before=damages_journal, journal_lost=True, after=nothing_damaged_is_destroyed
    ),
    CrashPoint.LEAVING: Case(is_ended),
    CrashPoint.RECOVERED: Case(waits, before=publishes),
    ClientPoint.AUTOSTART_CLAIMED: Case(
        waits, daemon_dies=False, daemon_runs=False, environment=(("EDI_CHECKPOINT_AUTOSTART", "1"),)
    ),
    ClientPoint.LOCK_UNNAMED: Case(waits, daemon_dies=False, swept_at_start=True),
    ClientPoint.LOCK_NAMED: Case(waits, daemon_dies=False),
    ClientPoint.SEGMENT_MADE: Case(waits, daemon_dies=False),
    ClientPoint.TAKEN_OVER: Case(victim_takes_over, daemon_dies=False),
    ClientPoint.APPENDED: Case(victim_publishes, daemon_dies=False),
    ClientPoint.APPEND_TORN: Case(victim_tears, daemon_dies=False),
    ClientPoint.SEGMENT_TRIMMED: Case(victim_is_trimmed, daemon_dies=False),
    ClientPoint.COMPACTION_WRITTEN: THINS,
    ClientPoint.COMPACTION_RENAMED: THINS,
    ClientPoint.LAST_MARK_PUBLISHED: Case(victim_leaves, daemon_dies=False),
    ClientPoint.SEGMENTS_UNLINKED: Case(other_dies),
    ClientPoint.FOLDER_EMPTIED: Case(other_dies),
}
POINTS: tuple[Enum, ...] = (*CrashPoint, *ClientPoint)
ONCE = {  # in the life of a process, as its case leads there
    CrashPoint.LOCKED, CrashPoint.JOURNAL_MADE, CrashPoint.STATE_ADOPTED, CrashPoint.SET_ASIDE,
    CrashPoint.JOURNAL_SET_ASIDE, CrashPoint.LEAVING, CrashPoint.RECOVERED, CrashPoint.FOREIGN_KEPT,
    ClientPoint.AUTOSTART_CLAIMED, ClientPoint.LOCK_UNNAMED, ClientPoint.LOCK_NAMED, ClientPoint.SEGMENT_MADE,
    CrashPoint.REFUSED_KEPT, ClientPoint.TAKEN_OVER, ClientPoint.APPEND_TORN, ClientPoint.LAST_MARK_PUBLISHED,
}  # fmt: skip


# -- dying, and what is left -------------------------------------------------------------------------------------------


def die_at(point: Enum, home: Home, *, hits: int = 1, load: int = 0) -> Verdict:
    """Have a process die at `point`, reached for the nth time, and judge what it left, and what came after it.

    Raises AssertionError when the point is not reached, and when what is left does not come to rest.
    """
    case, stage = CASES[point], Stage(home, load)
    if case.before is not None:
        stage.daemon = home.daemon(*FLAGS, *case.flags)
        stage.enter("s1", "s1")
        case.before(stage)
        stage.daemon.kill()
    _begin(stage, case, point, hits)
    for _ in range(TURNS):
        if stage.dead:
            break
        case.step(stage)
    assert stage.victim is not None
    code = stage.victim.wait(DIES_WITHIN_S)
    assert code == -signal.SIGKILL, f"{point} was not reached: exit {code}"
    verdict = judge_files(stage.paths)
    if case.daemon_dies:
        verdict.add(_acknowledged_is_there(stage, case))
    verdict.add(_come_to_rest(stage, case))
    return verdict


def _begin(stage: Stage, case: Case, point: Enum, hits: int) -> None:
    home = stage.home
    for number in range(stage.load):
        stage.enter(f"load-{number}", publisher=home.start_publisher(f"load-{number}"))
        stage.publishers[f"load-{number}"].send(
            f"publish(10**6, who='load-{number}', tell=True, each=1, pause_s=0.001, attempt=1)"
        )
    if case.daemon_dies:
        stage.daemon = stage.victim = home.start_dying(point.name, hits, *FLAGS, *case.flags)
        if case.step is not waits:
            eventually(lambda: stage.dead or stage.daemon.has_said("ready "), DIES_WITHIN_S)
        if "s1" not in stage.publishers:
            stage.enter("s1", "s1")
        return
    if case.daemon_runs:
        stage.daemon = home.daemon(*FLAGS, *case.flags)
    stage.enter("s1", "s1")
    session_id = "" if case.step is victim_takes_over else "victim"
    victim = home.start_dying_publisher(point.name, hits, session_id, **dict(case.environment))
    stage.victim = stage.enter("victim", publisher=victim)
    if case.step is not waits:
        victim.wait_line("attached ")


def _acknowledged_is_there(stage: Stage, case: Case) -> Verdict:
    """What the dead daemon had acknowledged, in its journal or, when that was lost before, in files and outboxes."""
    if not case.journal_lost:
        return judge_entries(history(stage.paths), stage.acknowledged()) if case.keeps_history else Verdict()
    verdict = Verdict()
    found = load_state(stage.paths, "s1").state
    missing = stage.acknowledged()["s1"] - int(found.get("n", b"0"))
    verdict.find(f"s1: the files lack {missing} of what was acknowledged", lost=max(0, missing))
    return verdict


def _come_to_rest(stage: Stage, case: Case) -> Verdict:
    """Start a daemon, go on for a little, end all writers, and judge what there is then."""
    home = stage.home
    if stage.daemon is None or stage.daemon.popen.poll() is not None:
        stage.daemon = home.daemon(*FLAGS, *case.flags)
    for who in [who for who in stage.publishers if who != "s1"]:
        stage.kill(who)
    if case.after is not None:
        case.after(stage)
    stage.publish("s1", 20)
    stage.writer.do("session.flush(timeout_s=20)")
    name = stage.writer.do("session.checkpoint('last', timeout_s=20)")["name"]
    verdict = Verdict()
    written = {path.name: document for path, document in documents(stage.paths)}.get(name)
    n = str(stage.told()["s1"]).encode()
    told = isinstance(written, Document) and written.values["n"] == n
    verdict.find(f"{name}: told of, but not there as it was", torn=not told)
    eventually(lambda: stage.writer.do("session.update(turn=1)") or not any(path.exists() for path in stage.unnamed))
    stage.writer.do("client.close()")
    home.json("sessions")  # whoever asks has those drained that died before the daemon had heard of them
    if case.swept_at_start:
        stage.daemon.kill()
        stage.daemon = home.daemon(*FLAGS)
    with contextlib.suppress(AssertionError):  # what is lost may be why: that is counted first
        eventually(lambda: not left_over(stage.paths), 20)
    held = history(stage.paths)
    verdict.add(judge_files(stage.paths))
    if case.keeps_history and not case.journal_lost:
        verdict.add(judge_entries(held, stage.told()))
        verdict.add(judge_states(stage.paths, held, ["s1", *(one for one in held if one.startswith("fork-"))]))
    assert verdict or not left_over(stage.paths), f"left: {left_over(stage.paths)}"
    assert stage.writer.stderr == []
    return verdict
