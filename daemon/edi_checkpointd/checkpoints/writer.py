"""The writer of checkpoints and auto-saves: a wish becomes a document, a document becomes a file.

One thread does all file work of a daemon, in order: names only rise, and no later file overtakes a mark's. The writer
takes `State` values and reports results to the loop's thread. The coordinator decides when.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from msgspec import structs

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.fragments import Fragment, fragment, parent_of, stage_of, summarise
from edi_checkpoint.documents.layout import AUTOSAVE, Header, autosave_document, checkpoint_document
from edi_checkpoint.documents.named_files import paths_in
from edi_checkpoint.documents.names import autosave_name, checkpoint_name, next_stamp
from edi_checkpoint.documents.reader import parse_autosave, parse_checkpoint
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError, NotFound
from edi_checkpoint.model import NOT_OURS, CheckpointInfo, Kind
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.system.safe_open import is_bad, read_regular
from edi_checkpointd.attachments.garbage import GarbageCollector
from edi_checkpointd.attachments.store import AttachmentStore
from edi_checkpointd.checkpoints.damaged import DamagedDocuments
from edi_checkpointd.checkpoints.named_files import NamedFiles
from edi_checkpointd.checkpoints.policy import PINS_MAX, Amendment, Wish
from edi_checkpointd.config import LiveConfig
from edi_checkpointd.faults import CrashPoint, reached
from edi_checkpointd.state import State
from edi_checkpointd.system.clock import Clock
from edi_checkpointd.system.fs import write_atomic
from edi_checkpointd.system.worker import Worker

log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """The session whose state is written, as the document's header describes it."""

    session_id: str
    parent_session: str | None
    started: datetime
    app: str
    pid: int
    keep: int | None  # the session's own number of checkpoints kept; None: the setting's


class Written(NamedTuple):
    """The result of a wish (of an auto-save where `wish` is None): the checkpoint that was written, or the error."""

    session_id: str
    state: State
    wish: Wish | Amendment | None
    checkpoint: CheckpointInfo | None
    error: EdiCheckpointError | OSError | None
    filed: Collection[str]  # digests of the attachments that were stored as files before it


Notify = Callable[[Written], None]


@dataclass(slots=True, eq=False)
class CheckpointWriter:
    """Writes documents and attachments in the files thread, `_worker`, and keeps the catalog true."""

    _paths: Paths
    _catalog: Catalog
    _attachments: AttachmentStore
    _collector: GarbageCollector
    _damaged: DamagedDocuments
    _worker: Worker
    _clock: Clock
    _config: LiveConfig
    _named_files: NamedFiles = field(default_factory=NamedFiles, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _waiting: dict[str, deque[tuple[Subject, Wish | Amendment, Notify]]] = field(default_factory=dict, init=False)
    _autosaves: dict[str, tuple[Subject, State, Notify]] = field(default_factory=dict, init=False)

    def checkpoint(self, subject: Subject, wish: Wish | Amendment, notify: Notify) -> bool:
        """Write or amend a checkpoint after the earlier ones; the loop's thread calls `notify` with the result.

        Returns False when this wish replaces a waiting one, so that no further result follows. At most as many
        transitions wait as the session keeps: a newer one replaces the oldest. This bounds the queue.
        """
        with self._lock:
            waiting = self._waiting.setdefault(subject.session_id, deque())
            waiting.append((subject, wish, notify))
            transitions = [item for item in waiting if isinstance(item[1], Wish) and item[1].kind == Kind.TRANSITION]
            if len(transitions) > (subject.keep or self._config.now.keep_per_session):
                waiting.remove(transitions[0])
                return False
        self._worker.submit(self._next_checkpoint, subject.session_id)
        return True

    def autosave(self, subject: Subject, state: State, notify: Notify) -> None:
        """Write the auto-save of `state`, in the place of one that still waits; `notify` is as in `checkpoint`."""
        with self._lock:
            waits = subject.session_id in self._autosaves
            self._autosaves[subject.session_id] = (subject, state, notify)
        if not waits:
            self._worker.submit(self._next_autosave, subject.session_id)

    def newest_checkpoint(self, session_id: str, sequences: range) -> CheckpointInfo | None:
        """Return the newest checkpoint of a state whose sequence is in `sequences`, None when there is none."""
        found = [info for info in self._catalog.checkpoints(session_id) if info.sequence in sequences]
        return found[-1] if found else None

    def cancel(self, session_id: str) -> None:
        """Drop the waiting orders of a session."""
        with self._lock:
            self._waiting.pop(session_id, None)
            self._autosaves.pop(session_id, None)

    # -- the files thread --------------------------------------------------------------------------------------------

    def _next_checkpoint(self, session_id: str) -> None:
        with self._lock:
            if (waiting := self._waiting.get(session_id)) is None:
                return  # `cancel` came first
            subject, wish, notify = waiting.popleft()
            if not waiting:
                del self._waiting[session_id]
        reached(CrashPoint.MARK_COMMITTED)
        if isinstance(wish, Amendment):
            self._try(subject, wish, wish.state, notify, lambda: self._amend(subject, wish))
        elif info := self._try(subject, wish, wish.state, notify, lambda: self._write_checkpoint(subject, wish)):
            _log_written(info)  # after the report: a client may wait for it

    def _try(
        self, subject: Subject, wish: Wish | Amendment | None, state: State, notify: Notify,
        write: Callable[[], CheckpointInfo | None],
    ) -> CheckpointInfo | None:  # fmt: skip
        """Store the attachments, call `write`, and report the result; return the checkpoint, if one was written."""
        filed: Collection[str] = ()
        info: CheckpointInfo | None = None
        error: EdiCheckpointError | OSError | None = None
        try:
            filed = self._attachments.store()
            info = write()
        except (EdiCheckpointError, OSError) as fault:
            error = fault
        else:
            reached(_crash_point(wish))
        written = Written(subject.session_id, state, wish, info, error, filed)
        self._worker.report(lambda: notify(written))
        return info

    def _write_checkpoint(self, subject: Subject, wish: Wish) -> CheckpointInfo:
        stamp = next_stamp(self._clock.now(), self._catalog.last_stamp(subject.session_id))
        name = checkpoint_name(subject.session_id, stamp)
        pins = [info for info in self._catalog.checkpoints(subject.session_id) if info.pinned] if wish.pinned else ()
        pinned = wish.pinned and len(pins) < PINS_MAX
        if pinned != wish.pinned:
            log.warning("checkpoint not pinned session=%s: it has %d pins", subject.session_id, PINS_MAX)
        header = self._header(subject, wish.state, stamp, wish.kind, wish.reason)
        header = replace(header, label=wish.label, pinned=pinned, rule=wish.rule)
        self._collector.keep(value.text for value in wish.state.fragments.values())
        size = write_atomic(self._paths.sessions / name, checkpoint_document(header, wish.state.fragments))
        info = CheckpointInfo(
            name, subject.session_id, wish.state.sequence, stamp, wish.kind, wish.reason, header.stage, wish.label,
            pinned, size, rule=wish.rule, score=header.score,
        )  # fmt: skip
        self._catalog.add(info)
        return info

    def _amend(self, subject: Subject, amendment: Amendment) -> CheckpointInfo:
        """Replace a checkpoint's file by one with the amended header and the same body."""
        pin, listed = amendment.pin, {info.name: info for info in self._catalog.checkpoints(subject.session_id)}
        if (info := listed.get(pin.checkpoint)) is None:
            raise NotFound(f"session {subject.session_id} has no checkpoint {pin.checkpoint}")
        if info.kind in NOT_OURS:
            raise EdiCheckpointError(f"{info.name} was not written by us", hint="no retention rule deletes such a file")
        if pin.pinned and not info.pinned and sum(one.pinned for one in listed.values()) >= PINS_MAX:
            raise EdiCheckpointError(
                f"session {subject.session_id} has {PINS_MAX} pinned checkpoints", hint="unpin one of them first"
            )
        path = self._paths.sessions / info.name
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
        self, subject: Subject, state: State, stamp: datetime, kind: Kind | Literal["autosave"], reason: str
    ) -> Header:
        newest = self._catalog.newest(subject.session_id)
        return Header(
            session_id=subject.session_id, timestamp=stamp, kind=kind, sequence=state.sequence, reason=reason,
            stage=stage_of(state.fragments), parent_session=parent_of(state.fragments) or subject.parent_session,
            previous=newest.name if newest else None, client={"app": subject.app, "pid": subject.pid},
            streams=state.streams, summary={**summarise(state.fragments), "started": subject.started.isoformat()},
            keep=subject.keep, files={} if kind == AUTOSAVE else self._named_files.of(paths_in(state.fragments)),
        )  # fmt: skip

    def _next_autosave(self, session_id: str) -> None:
        with self._lock:
            if session_id not in self._autosaves:
                return  # `cancel` came first
            subject, state, notify = self._autosaves.pop(session_id)
        self._try(subject, None, state, notify, lambda: self._write_autosave(subject, state))

    def _write_autosave(self, subject: Subject, state: State) -> None:
        path = self._paths.sessions / autosave_name(subject.session_id)
        before = self._catalog.autosave(subject.session_id)
        if before is None or before.header.kind == Kind.FOREIGN:
            self._keep_foreign(subject, path)
        header = self._header(subject, state, self._clock.now(), AUTOSAVE, "autosave")
        self._collector.keep(value.text for value in state.fragments.values())
        size = write_atomic(path, autosave_document(header, state.fragments))
        self._catalog.note_autosave(subject.session_id, header, size)

    def _keep_foreign(self, subject: Subject, path: Path) -> None:
        """Save another program's session file as a checkpoint of kind `foreign` before the auto-save replaces it.

        A damaged file is set aside. Raises `VersionMismatch` for a newer version's file, which stays untouched.
        """
        try:
            document = parse_autosave(read_regular(path), path.name)
            if document.header.kind != Kind.FOREIGN:
                return
            fragments = {key: fragment(text) for key, text in document.values.items()}
            if fragments in self._kept_foreign(subject.session_id):
                return  # saved before a crash, which came before the auto-save
        except FileNotFoundError:
            return
        except (DocumentDamaged, OSError) as error:
            if isinstance(error, OSError) and not is_bad(error):
                raise
            self._damaged.set_aside(path.name, error)
            return
        wish = Wish(State(fragments=fragments), Kind.FOREIGN, "written by another program")
        _log_written(self._write_checkpoint(subject, wish))
        reached(CrashPoint.FOREIGN_KEPT)

    def _kept_foreign(self, session_id: str) -> Iterator[dict[str, Fragment]]:
        """Yield the states in a session's checkpoints of kind `foreign`."""
        for info in self._catalog.checkpoints(session_id):
            if info.kind == Kind.FOREIGN:
                with contextlib.suppress(FileNotFoundError, DocumentDamaged):
                    document = parse_checkpoint(read_regular(self._paths.sessions / info.name), info.name)
                    yield {key: fragment(text) for key, text in document.values.items()}


def _log_written(info: CheckpointInfo) -> None:
    values = info.session_id, info.sequence, info.kind, info.size_bytes
    log.info("checkpoint written session=%s sequence=%d kind=%s bytes=%d", *values)


def _crash_point(wish: Wish | Amendment | None) -> CrashPoint:
    """Return the crash point after the file of a wish, or of an auto-save."""
    if not isinstance(wish, Wish):
        return CrashPoint.CHECKPOINT_AMENDED if wish else CrashPoint.AUTOSAVE_WRITTEN
    before_rollback = wish.kind == Kind.BEFORE_ROLLBACK
    return CrashPoint.BEFORE_ROLLBACK_WRITTEN if before_rollback else CrashPoint.CHECKPOINT_WRITTEN
