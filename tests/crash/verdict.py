"""Judges the files after a crash: compares the publishers' reports with what can be read.

This process wrote none of the journal, documents and attachments, and asks no daemon.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import msgspec
from reading import entries

from edi_checkpoint.documents.names import attachment_name, parse_checkpoint_name
from edi_checkpoint.documents.reader import Document, parse_autosave, parse_checkpoint
from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.system.paths import Paths
from edi_checkpoint.wire.references import references
from edi_checkpointd.journal import Reader


@dataclass
class Verdict:
    """The numbers of lost entries, doubled or reordered entries, and torn or missing files, and each in words."""

    lost: int = 0
    duplicated: int = 0
    torn: int = 0
    findings: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self.lost or self.duplicated or self.torn)

    def add(self, other: Verdict) -> None:
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.torn += other.torn
        self.findings += other.findings

    def find(self, what: str, *, lost: int = 0, duplicated: int = 0, torn: int = 0) -> None:
        if lost or duplicated or torn:
            self.add(Verdict(lost, duplicated, torn, [what]))


History = Mapping[str, list[dict]]  # a session's entries in the journal, in order


def history(paths: Paths) -> History:
    """Return all sessions' entries in the journal; none if there is no journal."""
    if not paths.journal.exists():
        return {}
    with contextlib.closing(Reader.open(paths.journal)) as reader:
        return {row.session_id: entries(reader, row.session_id) for row in reader.sessions()}


def judge_entries(held: History, told: Mapping[str, int]) -> Verdict:
    """Judge the journal: it must have each writer's updates (`who`) from 1 to the last reported, once and in order.

    The entries of a fenced writer are in two sessions; each has a part.
    """
    verdict = Verdict()
    numbers: dict[str, list[int]] = {who: [] for who in told}
    for session_id, found in held.items():
        sequences = [entry["sequence"] for entry in found]
        if sequences:
            missing = sequences[-1] - sequences[0] + 1 - len(set(sequences))
            verdict.find(f"{session_id}: {missing} sequences missing", lost=missing)
        here: dict[str, list[int]] = {}
        for entry in found:
            if "n" in entry["values"] and entry["op"] == "update":
                here.setdefault(entry["values"].get("who", ""), []).append(entry["values"]["n"])
        for who, run in here.items():
            disordered = sum(later < earlier for earlier, later in pairwise(run))
            verdict.find(f"{session_id}: {who} is out of order {disordered} times", duplicated=disordered)
            numbers.setdefault(who, []).extend(run)
    for who, run in numbers.items():
        wanted = set(range(1, max(told.get(who, 0), max(run, default=0)) + 1))
        missing = sorted(wanted - set(run))
        verdict.find(f"{who}: lacks {missing[:5]} of {told.get(who, 0)} told, {len(run)} held", lost=len(missing))
        verdict.find(f"{who}: some are there twice", duplicated=len(run) - len(set(run)))
    return verdict


def documents(paths: Paths) -> Iterator[tuple[Path, Document | EdiCheckpointError]]:
    """Yield the documents that a reader would use, each parsed and verified, or with its fault."""
    for path in sorted(paths.sessions.glob("[!.]*.json")):
        parse = parse_checkpoint if parse_checkpoint_name(path.name) else parse_autosave
        try:
            yield path, parse(path.read_bytes(), path.name)
        except FileNotFoundError:
            continue  # rotated meanwhile
        except EdiCheckpointError as error:
            yield path, error


def newest_documents(paths: Paths) -> dict[str, Document]:
    """Return each session's valid document with the highest sequence."""
    newest: dict[str, Document] = {}
    for _, document in documents(paths):
        if isinstance(document, Document):
            before = newest.setdefault(document.header.session_id, document)
            if document.header.sequence > before.header.sequence:
                newest[document.header.session_id] = document
    return newest


def folded(entries: Iterable[dict]) -> dict[str, object]:
    """Return the state after all entries; no entry of the crash tests removes a key."""
    state: dict[str, object] = {}
    for entry in entries:
        state = entry["values"] if entry["op"] in ("base", "rollback") else {**state, **entry["values"]}
    return state


def judge_files(paths: Paths) -> Verdict:
    """Judge the visible documents: each is whole and exists once, and its attachments are intact."""
    verdict = Verdict()
    made: Counter[tuple[str, int, str, str]] = Counter()
    for path, document in documents(paths):
        if isinstance(document, EdiCheckpointError):
            verdict.find(f"{path.name}: {document}", torn=1)
            continue
        header = document.header
        if parse_checkpoint_name(path.name):
            made[header.session_id, header.sequence, header.kind, header.reason] += 1
        for text in document.values.values():
            for _, reference in references(msgspec.json.decode(text)):
                file = paths.attachments / attachment_name(reference.sha256, reference.type)
                whole = file.exists() and sha256(file.read_bytes()).hexdigest() == reference.sha256
                verdict.find(f"{path.name}: its attachment {file.name} is not whole", torn=not whole)
    for key, count in made.items():
        verdict.find(f"{key}: {count} checkpoints of it", duplicated=count - 1)
    return verdict


def judge_states(paths: Paths, held: History, sessions: Collection[str]) -> Verdict:
    """Judge the newest documents of sessions at rest: each equals its history, folded again."""
    verdict, newest = Verdict(), newest_documents(paths)
    for session_id in sessions:
        state = folded(held[session_id])
        values = newest[session_id].values if session_id in newest else {}
        found = {key: msgspec.json.decode(text) for key, text in values.items()}
        verdict.find(f"{session_id}: its newest document is not what its history says", lost=found != state)
    return verdict


def left_over(paths: Paths) -> list[str]:
    """Return the temporaries in the sessions folder, and the files in the folder of outboxes."""
    temporaries = [name for _, _, names in os.walk(paths.sessions) for name in names if name.endswith(".tmp")]
    return [*temporaries, *(path.name for path in paths.outbox.glob("*"))]
