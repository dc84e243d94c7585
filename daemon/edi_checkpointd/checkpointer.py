"""The checkpointer: wishes to documents, documents to files, and the plan of what goes in their place.

One thread does all file work of a daemon, in order: names only rise, and a mark's file is never overtaken by a later
one. It is handed `State` values and tells results back; it decides nothing about when.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from msgspec import structs

from edi_checkpoint.catalog import Catalog
from edi_checkpoint.document import parse_autosave, parse_checkpoint
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError, NotFound
from edi_checkpoint.fragments import Fragment, fragment, parent_of, stage_of, summarise
from edi_checkpoint.layout import AUTOSAVE, Header, autosave_document, checkpoint_document
from edi_checkpoint.model import NOT_OURS, CheckpointInfo, Kind
from edi_checkpoint.named_files import paths_in
from edi_checkpoint.names import autosave_name, checkpoint_name, next_stamp, parse_checkpoint_name
from edi_checkpoint.opening import is_bad, read_regular
from edi_checkpoint.paths import Paths, ensure_private
from edi_checkpointd.attachments import Attachments
from edi_checkpointd.clock import Clock
from edi_checkpointd.collection import Collector
from edi_checkpointd.config import Config
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.fs import set_aside, write_atomic
from edi_checkpointd.policy import PINS_MAX, Amendment, Wish
from edi_checkpointd.retention import Dropped, Own, held_of, plan_session
from edi_checkpointd.sightings import Sightings
from edi_checkpointd.state import State

log = logging.getLogger(__name__)

IN_USE_S = 60.0  # for how long who asked for a checkpoint may still be about to ask for it again
T = TypeVar("T")


class Subject(NamedTuple):
    """Whose state it is, as documents tell it."""

    session_id: str
    parent_session: str | None
    started: datetime
    app: str
    pid: int
    seen: int  # the newest sequence shown to a writer that attached: `interrupted` checkpoints behind it are unseen
    keep: int | None  # the session's own number of checkpoints kept; None: the setting's


class Written(NamedTuple):
    """What became of a wish (`wish` None: of an auto-save): the checkpoint's row, or the error."""

    session_id: str
    state: State
    wish: Wish | Amendment | None
    checkpoint: CheckpointInfo | None
    error: EdiCheckpointError | OSError | None
    filed: Collection[str]  # digests of attachments that have come into files before it


class InUse:
    """The checkpoints that somebody has asked for by name within a minute, to go back, to fork or to copy: no rule
    deletes them under their hands. Any thread may note and look.
    """

    def __init__(self, clock: Clock) -> None:
        """Nothing is in use."""
        self._clock = clock
        self._until_s: dict[str, float] = {}

    def note(self, name: str) -> None:
        """Take note that the checkpoint `name` is used now."""
        now_s = self._clock.monotonic_s()
        self._until_s = {known: until_s for known, until_s in self._until_s.items() if until_s > now_s}
        self._until_s[name] = now_s + IN_USE_S

    def names(self) -> set[str]:
        """Return what is in use."""
        now_s = self._clock.monotonic_s()
        return {name for name, until_s in self._until_s.copy().items() if until_s > now_s}


class Checkpointer:
    """Writes documents and attachments, keeps `catalog` true, and calls `tell`, in its thread, with each result."""

    def __init__(
        self,
        paths: Paths,
        catalog: Catalog,
        attachments: Attachments,
        config: Config,
        clock: Clock,
        tell: Callable[[Written], None],
    ) -> None:
        """Start the thread; nothing is written before it is asked for."""
        self.config = config
        self._folder = paths.sessions
        self._damaged = paths.damaged_documents
        self._catalog = catalog
        self._attachments = attachments
        self._sightings = Sightings()
        self.in_use = InUse(clock)
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[tuple[Subject, Wish | Amendment]]] = {}
        self._autosaves: dict[str, tuple[Subject, State]] = {}
        self._files = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._collector = Collector(paths, attachments, clock, config.collect_every_s, self._submit)

    def use(self, config: Config) -> None:
        """Go by other settings from now on."""
        self.config = config
        self._collector.every_s = config.collect_every_s

    def checkpoint(self, subject: Subject, wish: Wish | Amendment) -> bool:
        """Write or amend a checkpoint as soon as earlier ones are written; return whether one more will be told of.

        Transitions that wait in greater number than are kept at all give way to newer ones: the queue is bounded by
        what could survive it.
        """
        with self._lock:
            waiting = self._waiting.setdefault(subject.session_id, deque())
            waiting.append((subject, wish))
            transitions = [item for item in waiting if isinstance(item[1], Wish) and item[1].kind == Kind.TRANSITION]
            if len(transitions) > (subject.keep or self.config.keep_per_session):
                waiting.remove(transitions[0])
                return False
        self._submit(self._next_checkpoint, subject.session_id)
        return True

    def keep_within_limits(self, subject: Subject) -> None:
        """Delete what the plan drops of a session's checkpoints; asked for when those who waited have their answer."""
        self._submit(self._keep_within_limits, subject)

    def delete(self, drop: Sequence[Dropped], then: Callable[[], None]) -> None:
        """Delete what a clean-up drops, and call `then`, in the files thread."""
        self._submit(self._delete, drop)
        self._submit(then)

    def look_at(self, names: Collection[str] | None, then: Callable[[set[str]], None]) -> None:
        """Look at files that others may have touched (None: at all), and call `then`, in the files thread, with the
        sessions that have none left.
        """
        self._submit(self._look_at, names, then)

    def _look_at(self, names: Collection[str] | None, then: Callable[[set[str]], None]) -> None:
        try:
            then(self._catalog.refresh(names))
        except OSError as error:  # the folder itself is gone, which is seen to elsewhere
            log.warning("sessions folder not looked at: %s", error)

    def autosave(self, subject: Subject, state: State) -> None:
        """Write the auto-save of `state`; one that still waits is replaced by this."""
        with self._lock:
            waits = subject.session_id in self._autosaves
            self._autosaves[subject.session_id] = (subject, state)
        if not waits:
            self._submit(self._next_autosave, subject.session_id)

    def checkpoint_at(self, session_id: str, sequence: int) -> CheckpointInfo | None:
        """Return the newest checkpoint of the state at exactly `sequence`, None when there is none."""
        found = [info for info in self._catalog.checkpoints(session_id) if info.sequence == sequence]
        return found[-1] if found else None

    def newest_before(self, session_id: str, sequence: int) -> CheckpointInfo | None:
        """Return the newest checkpoint of a state older than `sequence`, None when there is none."""
        found = [info for info in self._catalog.checkpoints(session_id) if 0 < info.sequence < sequence]
        return found[-1] if found else None

    def met_damaged(self, name: str) -> None:
        """Set a document aside that somebody could not read; any thread may tell of it."""
        self._submit(self._set_aside_if_damaged, name)

    def collect(self) -> None:
        """Look for attachments that nothing names any more, if it is time to."""
        self._submit(self._collector.look_if_due)

    def look_at_all(self) -> Future[None]:
        """Have all attachments deleted that nothing names, of whatever age; the future tells the end, or the error."""
        done: Future[None] = Future()
        self._submit(self._collector.look_at_all, done)
        return done

    def forget(self, session_ids: Iterable[str]) -> None:
        """Let go of what is asked for and not begun, of sessions that are being forgotten."""
        with self._lock:
            for session_id in session_ids:
                self._waiting.pop(session_id, None)
                self._autosaves.pop(session_id, None)

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Have `work` done by the thread that writes files, behind what is asked for already."""
        return self._files.submit(work)

    def close(self, within_s: float | None = None) -> None:
        """Write what is asked for already, as far as `within_s` goes (None: all of it), then end the thread."""
        with contextlib.suppress(TimeoutError):
            self._files.submit(lambda: None).result(within_s)
        self._files.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # closed: what is left undone, the next start finds and does
            self._files.submit(work, *arguments)

    # -- the files thread --------------------------------------------------------------------------------------------

    def _next_checkpoint(self, session_id: str) -> None:
        with self._lock:
            waiting = self._waiting.get(session_id)
            if waiting is None:
                return  # the session was forgotten meanwhile
            subject, wish = waiting.popleft()
            if not waiting:
                del self._waiting[session_id]
        reached(CrashPoint.MARK_COMMITTED)
        filed: Collection[str] = ()
        try:
            filed = self._attachments.store()
            info = self._amend(subject, wish) if isinstance(wish, Amendment) else self._write_checkpoint(subject, wish)
        except (EdiCheckpointError, OSError) as error:
            self._told(Written(session_id, wish.state, wish, None, error, filed))
            return
        reached(_written(wish))
        self._told(Written(session_id, wish.state, wish, info, None, filed))
        if isinstance(wish, Wish):  # who waits for it is told first
            _log_written(info)

    def _write_checkpoint(self, subject: Subject, wish: Wish) -> CheckpointInfo:
        stamp = next_stamp(self._clock.now(), self._catalog.last_stamp(subject.session_id))
        name = checkpoint_name(subject.session_id, stamp)
        pins = [info for info in self._catalog.checkpoints(subject.session_id) if info.pinned] if wish.pinned else ()
        pinned = wish.pinned and len(pins) < PINS_MAX
        if pinned != wish.pinned:
            log.warning("checkpoint not pinned session=%s: it has %d pins", subject.session_id, PINS_MAX)
        header = self._header(
            subject, wish.state, stamp, wish.kind, wish.reason, wish.label, pinned=pinned, rule=wish.rule
        )
        self._collector.keep(value.text for value in wish.state.fragments.values())
        size = write_atomic(self._folder / name, checkpoint_document(header, wish.state.fragments))
        info = CheckpointInfo(
            name, subject.session_id, wish.state.sequence, stamp, wish.kind, wish.reason, header.stage, wish.label,
            pinned, size, rule=wish.rule, score=header.score,
        )  # fmt: skip
        self._catalog.add(info)
        return info

    def _amend(self, subject: Subject, amendment: Amendment) -> CheckpointInfo:
        """Write a checkpoint anew under its own name, its header amended and its body as it is."""
        pin, held = amendment.pin, {info.name: info for info in self._catalog.checkpoints(subject.session_id)}
        if (info := held.get(pin.checkpoint)) is None:
            raise NotFound(f"session {subject.session_id} has no checkpoint {pin.checkpoint}")
        if info.kind in NOT_OURS:
            raise EdiCheckpointError(f"{info.name} was not written by us", hint="such files are never deleted by rule")
        if pin.pinned and not info.pinned and sum(one.pinned for one in held.values()) >= PINS_MAX:
            raise EdiCheckpointError(
                f"session {subject.session_id} has {PINS_MAX} pinned checkpoints", hint="unpin one of them first"
            )
        path = self._folder / info.name
        document = parse_checkpoint(read_regular(path), info.name)
        header = document.header
        amended = replace(
            header,
            pinned=header.pinned if pin.pinned is None else pin.pinned,
            label=header.label if pin.label is None else pin.label or None,
            note=header.note if pin.note is None else pin.note or None,
        )
        if amended != header:
            fragments = {key: Fragment(text) for key, text in document.values.items()}
            size = write_atomic(path, checkpoint_document(amended, fragments))
            info = structs.replace(info, label=amended.label, pinned=amended.pinned, size_bytes=size, note=amended.note)
            self._catalog.add(info)
            log.info("checkpoint amended session=%s name=%s pinned=%s", subject.session_id, info.name, info.pinned)
        return info

    def _header(
        self, subject: Subject, state: State, stamp: datetime, kind: Kind | Literal["autosave"], reason: str,
        label: str | None = None, *, pinned: bool = False, rule: str | None = None,
    ) -> Header:  # fmt: skip
        newest = self._catalog.newest(subject.session_id)
        return Header(
            session_id=subject.session_id,
            timestamp=stamp,
            kind=kind,
            sequence=state.sequence,
            reason=reason,
            stage=stage_of(state.fragments),
            parent_session=parent_of(state.fragments) or subject.parent_session,
            previous=newest.name if newest else None,
            label=label,
            pinned=pinned,
            client={"app": subject.app, "pid": subject.pid},
            streams=state.streams,
            summary={**summarise(state.fragments), "started": subject.started.isoformat()},
            keep=subject.keep,
            files={} if kind == AUTOSAVE else self._sightings.of(paths_in(state.fragments)),
            rule=rule,
        )

    def _keep_within_limits(self, subject: Subject) -> None:
        held = held_of(self._catalog.checkpoints(subject.session_id))
        self._unlink(plan_session(held, Own(subject.keep, subject.seen), self.config, self.in_use.names()).drop)

    def _delete(self, drop: Sequence[Dropped]) -> None:
        """Unlink what a clean-up has planned to drop; what has been pinned or used since stays.

        So does all of a session whose newest checkpoint turns out to be damaged: an older one has to stand in for it.
        """
        intact: dict[str, bool] = {}
        for dropped in drop:
            named = parse_checkpoint_name(dropped.name)
            if named is None or dropped.name in self.in_use.names():
                continue
            checkpoints = self._catalog.checkpoints(named.session_id)
            pinned = any(info.name == dropped.name and info.pinned for info in checkpoints)
            if named.session_id not in intact:
                intact[named.session_id] = self._is_intact(checkpoints[-1].name) if checkpoints else False
            if intact[named.session_id] and not pinned and checkpoints[-1].name != dropped.name:
                self._unlink([dropped])

    def _is_intact(self, name: str) -> bool:
        try:
            parse_checkpoint(read_regular(self._folder / name), name)
        except (EdiCheckpointError, OSError) as error:
            log.warning("no checkpoint deleted, the newest cannot be used name=%s: %s", name, error)
            return False
        return True

    def _unlink(self, drop: Sequence[Dropped]) -> None:
        """Unlink checkpoints, each with its rule in the log (P7)."""
        for dropped in drop:
            try:
                (self._folder / dropped.name).unlink(missing_ok=True)
            except OSError as error:
                log.warning("checkpoint not deleted name=%s: %s", dropped.name, error)
                continue
            self._catalog.remove(dropped.name)
            log.info("checkpoint deleted name=%s rule=%s", dropped.name, dropped.rule)
        if drop:
            reached(CrashPoint.CHECKPOINT_EVICTED)

    def _next_autosave(self, session_id: str) -> None:
        with self._lock:
            if session_id not in self._autosaves:
                return  # the session was forgotten meanwhile
            subject, state = self._autosaves.pop(session_id)
        filed: Collection[str] = ()
        try:
            filed = self._attachments.store()
            self._write_autosave(subject, state)
        except (EdiCheckpointError, OSError) as error:
            self._told(Written(session_id, state, None, None, error, filed))
            return
        reached(CrashPoint.AUTOSAVE_WRITTEN)
        self._told(Written(session_id, state, None, None, None, filed))

    def _write_autosave(self, subject: Subject, state: State) -> None:
        path = self._folder / autosave_name(subject.session_id)
        before = self._catalog.autosave(subject.session_id)
        if before is None or before.header.kind == Kind.FOREIGN:
            self._keep_foreign(subject, path)
        header = self._header(subject, state, self._clock.now(), AUTOSAVE, "autosave")
        self._collector.keep(value.text for value in state.fragments.values())
        size = write_atomic(path, autosave_document(header, state.fragments))
        self._catalog.note_autosave(subject.session_id, header, size)

    def _keep_foreign(self, subject: Subject, path: Path) -> None:
        """Keep a session file that somebody else wrote as a checkpoint of kind `foreign` before ours replaces it.

        What cannot be read is set aside. Raises `VersionMismatch`: a newer version's file is left alone.
        """
        try:
            document = parse_autosave(read_regular(path), path.name)
            if document.header.kind != Kind.FOREIGN:
                return
            fragments = {key: fragment(text) for key, text in document.values.items()}
            if fragments in self._kept_foreign(subject.session_id):
                return  # a crash came between its keeping and ours
        except FileNotFoundError:
            return
        except (DocumentDamaged, OSError) as error:
            if isinstance(error, OSError) and not is_bad(error):
                raise
            ensure_private(self._damaged)
            log.warning("session file set aside file=%s: %s", set_aside(path, self._damaged), error)
            return
        wish = Wish(State(fragments=fragments), Kind.FOREIGN, "written by another program")
        _log_written(self._write_checkpoint(subject, wish))
        reached(CrashPoint.FOREIGN_KEPT)

    def _kept_foreign(self, session_id: str) -> Iterator[dict[str, Fragment]]:
        """Yield the states that were kept of other programs' session files."""
        for info in self._catalog.checkpoints(session_id):
            if info.kind == Kind.FOREIGN:
                with contextlib.suppress(FileNotFoundError, DocumentDamaged):
                    document = parse_checkpoint(read_regular(self._folder / info.name), info.name)
                    yield {key: fragment(text) for key, text in document.values.items()}

    def _set_aside_if_damaged(self, name: str) -> None:
        """Move a document into `damaged/`, unless it is whole: it may have been written anew since it was met."""
        path = self._folder / name
        parse = parse_checkpoint if parse_checkpoint_name(name) else parse_autosave
        try:
            parse(read_regular(path), name)
        except DocumentDamaged as error:
            ensure_private(self._damaged)
            log.warning("document set aside file=%s: %s", set_aside(path, self._damaged), error)
            self._catalog.remove(name)
        except (EdiCheckpointError, OSError) as error:
            log.warning("document left as it is name=%s: %s", name, error)

    def _told(self, written: Written) -> None:
        try:
            self._tell(written)
        except RuntimeError:  # the intake is gone; the next start finds the file
            log.debug("result not told session=%s", written.session_id)


def _log_written(info: CheckpointInfo) -> None:
    log.info(
        "checkpoint written session=%s sequence=%d kind=%s bytes=%d",
        info.session_id, info.sequence, info.kind, info.size_bytes,
    )  # fmt: skip


def _written(wish: Wish | Amendment) -> CrashPoint:
    """Return the crash point at which a wish is fulfilled."""
    if isinstance(wish, Amendment):
        return CrashPoint.CHECKPOINT_AMENDED
    if wish.kind == Kind.BEFORE_ROLLBACK:
        return CrashPoint.BEFORE_ROLLBACK_WRITTEN
    return CrashPoint.CHECKPOINT_WRITTEN
