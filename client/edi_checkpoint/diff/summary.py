"""One line about what a checkpoint brought, from the difference to the one before it:

    refinement 2->3: +volumetric -sunny, score 0.62->0.87, 1 entity lost

EDI's own keys come first, in the order in which a person asks for them; then whatever else there is room for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from edi_checkpoint.diff.changes import Change, Element, Path, Reordered, changes, spelled
from edi_checkpoint.diff.numbers import is_number, number
from edi_checkpoint.documents.fragments import SUMMARY_MAX_BYTES, Fragment, stage_of, string, summarise

LINE_MAX_CHARS: Final = 76  # a line of a terminal, indented
_WORDS_MAX_CHARS: Final = 24  # of each sign
_VALUE_MAX_CHARS: Final = 20
_PATH_MAX_CHARS: Final = 32
_COUNTERS: Final = ("current_iteration", "attempt")
_PROMPTS: Final = ("prompts", "prompt_history")
_SCORED: Final = ("validation", "validation_results")
_ENTITIES: Final = ("entities", "entity_detections")
_WORD: Final = re.compile(r"\w[\w'-]*")


def summary(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> str:
    """Return in at most `LINE_MAX_CHARS` characters what changed between two states (key to valid JSON text)."""
    head, keys = _head(before, after)
    pieces = list(dict.fromkeys(_pieces(before, after, keys)))
    if not pieces:
        return _cut(head or "no change")
    line = _cut(f"{head}: {pieces[0]}" if head else pieces[0])
    for at, piece in enumerate(pieces[1:], start=2):
        rest = f", {len(pieces) - at} more" if at < len(pieces) else ""
        if len(f"{line}, {piece}{rest}") > LINE_MAX_CHARS:
            return _cut(line, f", {len(pieces) - at + 1} more")
        line = f"{line}, {piece}"
    return line


def _cut(line: str, end: str = "") -> str:
    """Return a line with its end, cut where both are too long together: names and stages are what EDI makes them."""
    room = LINE_MAX_CHARS - len(end)
    return (line if len(line) <= room else f"{line[: room - 3]}...") + end


def _head(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[str, set[str]]:
    """Return the stage if it changed, or with the counter of its rounds that did, and the keys that this tells of."""
    was, stage = (stage_of({key: Fragment(text) for key, text in state.items()}) for state in (before, after))
    if was != stage and (stage or "current_stage" in before):  # a first stage without a name is a change like others
        return f"{was}->{stage}" if "current_stage" in before else stage, {"current_stage", *_COUNTERS}
    for key in _COUNTERS:
        if key in after and before.get(key) != after[key] and (step := _step(before.get(key), after[key])):
            return f"{stage if 'current_stage' in after else key} {step}", {key}
    return "", set()


def _pieces(before: Mapping[str, bytes], after: Mapping[str, bytes], keys: set[str]) -> Iterator[str]:
    """Yield the pieces of the line after its head: EDI's keys first, then the others, without those in `keys`."""
    was, now = (summarise({key: Fragment(text) for key, text in state.items()}) for state in (before, after))
    shown = set(keys)
    if now["status"] and was["status"] != now["status"]:
        yield str(now["status"])
        shown.add("status")
    if words := _words(_newest_prompt(before), _newest_prompt(after)):
        yield words
        shown.update(_PROMPTS)
    found = [change for change in changes(before, after) if change.path[0] not in shown]
    if now["score"] is not None and was["score"] != now["score"]:
        yield "score " + ("" if was["score"] is None else f"{was['score']:.3g}->") + f"{now['score']:.3g}"
        found = [change for change in found if not _is_score(change.path)]
    yield from _counted(found)
    by_name: dict[str, list[Change | Reordered]] = {}
    for change in found:
        if not _counts(change):
            by_name.setdefault(_name(change.path), []).append(change)
    for name, alike in by_name.items():
        yield _other(alike[0]) if len(alike) == 1 else f"{name} changed {len(alike)} times"


def _counted(found: Iterable[Change | Reordered]) -> Iterator[str]:
    """Yield how many elements lists have won and lost."""
    won, lost = Counter[str](), Counter[str]()
    for change in found:
        if isinstance(change, Change) and _counts(change):
            (won if change.before is None else lost)[_name(change.path)] += 1
    for name in dict.fromkeys([*lost, *won]):
        if name in _ENTITIES:
            if lost[name]:
                yield f"{lost[name]} {'entity' if lost[name] == 1 else 'entities'} lost"
            if won[name]:
                yield f"{won[name]} {'entity' if won[name] == 1 else 'entities'} found"
        else:
            yield f"{name}" + (f" +{won[name]}" if won[name] else "") + (f" -{lost[name]}" if lost[name] else "")


def _is_score(path: Path) -> bool:
    """Return whether the piece about the score covers a change."""
    return path[0] in _SCORED and path[1:] in ((), ("score",))


def _counts(change: Change | Reordered) -> bool:
    """Return whether an element came or went."""
    return isinstance(change, Change) and isinstance(change.path[-1], Element) and None in (change.before, change.after)


def _other(change: Change | Reordered) -> str:
    name = _name(change.path)
    if isinstance(change, Reordered):
        return f"{name} reordered"
    if change.after is None:
        return f"{_short_path(change.path)} gone"
    if change.before is None:
        return f"new {_short_path(change.path)}"
    return _words(string(change.before), string(change.after)) or f"{name} {_step(change.before, change.after)}"


def _name(path: Path) -> str:
    """Return the key that a path ends with, or the one of the list."""
    return next(step for step in reversed(path) if isinstance(step, str))


def _short_path(path: Path) -> str:
    text = spelled(path)
    return text if len(text) <= _PATH_MAX_CHARS else _name(path)


def _newest_prompt(state: Mapping[str, bytes]) -> str | None:
    """Return the text of the newest prompt: EDI keeps them as a list of texts, or by iteration as objects."""
    for key in _PROMPTS:
        if key in state and len(state[key]) <= SUMMARY_MAX_BYTES:
            with suppress(msgspec.DecodeError):
                held = msgspec.json.decode(state[key], type=list[msgspec.Raw] | dict[str, msgspec.Raw])
                newest = list(held.values() if isinstance(held, dict) else held)[-1:]
                return _positive(bytes(newest[0])) if newest else None
    return None


def _positive(prompt: bytes) -> str | None:
    if prompt.startswith(b"{"):
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(prompt, type=_Prompt).positive
    return string(prompt)


class _Prompt(msgspec.Struct):
    positive: str | None = None


def _words(before: str | None, after: str | None) -> str:
    """Return the words that came and went; nothing unless both are texts of several words that differ in some."""
    if before is None or after is None or not (" " in before and " " in after):
        return ""
    signed = []
    for sign, text, other in (("+", after, before), ("-", before, after)):
        others = set(_WORD.findall(other))
        words = [word for word in dict.fromkeys(_WORD.findall(text)) if word not in others]
        room = _WORDS_MAX_CHARS
        for word in words:
            room -= len(word) + 2
            if room < 0:
                signed.append("...")
                break
            signed.append(sign + word)
    return " ".join(signed)


def _step(before: bytes | None, after: bytes) -> str:
    """Return how a value went on, if that is short."""
    if before is None:
        return _short(after)
    was, now = _short(before), _short(after)
    return f"{was}->{now}" if was and now else "changed"


def _short(text: bytes) -> str:
    """Return a short value; nothing for a long one."""
    value = number(text) if is_number(text) else string(text)
    if value is None and text in (b"true", b"false", b"null"):
        value = text.decode()
    return value if value and len(value) <= _VALUE_MAX_CHARS and " " not in value else ""
