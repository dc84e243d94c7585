"""Kills a process at a crash point, continues with another, and judges the files."""

from __future__ import annotations

import contextlib
import signal
from enum import Enum

from crash import steps
from crash.cases import CASES, Case
from crash.stage import Stage
from crash.verdict import Verdict, documents, history, judge_entries, judge_files, judge_states, left_over
from harness import PATIENCE_S, Home, eventually

from edi_checkpoint.documents.reader import Document
from edi_checkpoint.home.offline import load_state

FLAGS = (
    "--transition-keys", "attempt", "--transition-quiet-s", "0.02", "--keep-per-session", "3",
    "--autosave-every-s", "0.1", "--checkpoint-every-s", "0.3", "--collect-every-s", "0.1",
)  # fmt: skip


def die_at(point: Enum, home: Home, *, hits: int = 1, load: int = 0) -> Verdict:
    """Kill a process at `point`, reached for the nth time; judge its files, and those after a restart.

    Raises AssertionError if the point is not reached, or if the home does not come to rest.
    """
    case, stage = CASES[point], Stage(home, load)
    if case.before is not None:
        stage.daemon = home.daemon(*FLAGS, *case.flags)
        stage.enter("s1", "s1")
        case.before(stage)
        stage.daemon.kill()
    _begin(stage, case, point, hits)
    eventually(lambda: stage.dead or case.step(stage), 2 * PATIENCE_S)
    assert stage.victim is not None
    code = stage.victim.wait()
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
        if case.step is not steps.waits:
            eventually(lambda: stage.dead or stage.daemon.has_said("ready "))
        if "s1" not in stage.publishers:
            stage.enter("s1", "s1")
        return
    if case.daemon_runs:
        stage.daemon = home.daemon(*FLAGS, *case.flags)
    stage.enter("s1", "s1")
    session_id = "" if case.step is steps.victim_takes_over else "victim"
    victim = home.start_dying_publisher(point.name, hits, session_id, **dict(case.environment))
    stage.victim = stage.enter("victim", publisher=victim)
    if case.step is not steps.waits:
        victim.wait_line("attached ")


def _acknowledged_is_there(stage: Stage, case: Case) -> Verdict:
    """Judge the dead daemon's acknowledged entries: in the journal or, if it was lost before, in other files."""
    if not case.journal_lost:
        return judge_entries(history(stage.paths), stage.acknowledged()) if case.keeps_history else Verdict()
    verdict = Verdict()
    found = load_state(stage.paths, "s1").state
    missing = stage.acknowledged()["s1"] - int(found.get("n", b"0"))
    verdict.find(f"s1: the files lack {missing} of what was acknowledged", lost=max(0, missing))
    return verdict


def _come_to_rest(stage: Stage, case: Case) -> Verdict:
    """Start a daemon, publish a little more, end all writers, and judge the files."""
    home = stage.home
    if stage.daemon is None or stage.daemon.popen.poll() is not None:
        stage.daemon = home.daemon(*FLAGS, *case.flags)
    for who in [who for who in stage.publishers if who != "s1"]:
        stage.kill(who)
    if case.after is not None:
        case.after(stage)
    stage.publish("s1", 20)
    stage.writer.do(f"session.flush(timeout_s={PATIENCE_S})")
    name = stage.writer.do(f"session.checkpoint('last', timeout_s={PATIENCE_S})")["name"]
    verdict = Verdict()
    written = {path.name: document for path, document in documents(stage.paths)}.get(name)
    n = str(stage.told()["s1"]).encode()
    told = isinstance(written, Document) and written.values["n"] == n
    verdict.find(f"{name}: told of, but not there as it was", torn=not told)
    eventually(lambda: stage.writer.do("session.update(turn=1)") or not any(path.exists() for path in stage.unnamed))
    stage.writer.do("client.close()")
    home.json("sessions")  # a question makes the daemon drain writers of whose death it has not heard
    if case.swept_at_start:
        stage.daemon.kill()
        stage.daemon = home.daemon(*FLAGS)
    with contextlib.suppress(AssertionError):  # a loss may be the cause, so it is counted first
        eventually(lambda: not left_over(stage.paths))
    stage.daemon.kill(signal.SIGTERM)  # looked for now, when no save is running that may use a temporary
    assert stage.daemon.popen.returncode == 0, stage.daemon.stderr
    held = history(stage.paths)
    verdict.add(judge_files(stage.paths))
    if case.keeps_history and not case.journal_lost:
        verdict.add(judge_entries(held, stage.told()))
        verdict.add(judge_states(stage.paths, held, ["s1", *(one for one in held if one.startswith("fork-"))]))
    assert verdict or not left_over(stage.paths), f"left: {left_over(stage.paths)}"
    assert stage.writer.stderr == []
    return verdict
