"""Sums up in one line how a checkpoint differs from the one before it:

    refinement 2->3: +volumetric -sunny, score 0.62->0.87, 1 entity lost

EDI's own keys come first, the most important first; then as many others as the line has room for.
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
_WORDS_MAX_CHARS: Final = 24  # of the added words, and of the removed words
_VALUE_MAX_CHARS: Final = 20
_PATH_MAX_CHARS: Final = 32
_COUNTERS: Final = ("current_iteration", "attempt")
_PROMPTS: Final = ("prompts", "prompt_history")
_SCORED: Final = ("validation", "validation_results")
_ENTITIES: Final = ("entities", "entity_detections")
_WORD: Final = re.compile(r"\w[\w'-]*")


def summary(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> str:
    """Return the main changes between two states (key to valid JSON text) in at most `LINE_MAX_CHARS` characters."""
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
    """Return a line with its end, the line cut if both are too long. EDI's names and stages have any length."""
    room = LINE_MAX_CHARS - len(end)
    return (line if len(line) <= room else f"{line[: room - 3]}...") + end


def _head(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[str, set[str]]:
    """Return the stage if it changed, or the stage with a counter that changed, and the keys that this covers."""
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
        if not _is_counted(change):
            by_name.setdefault(_name(change.path), []).append(change)
    for name, of_name in by_name.items():
        yield _other(of_name[0]) if len(of_name) == 1 else f"{name} changed {len(of_name)} times"


def _counted(found: Iterable[Change | Reordered]) -> Iterator[str]:
    """Yield how many elements each list gained and lost."""
    gained, lost = Counter[str](), Counter[str]()
    for change in found:
        if isinstance(change, Change) and _is_counted(change):
            (gained if change.before is None else lost)[_name(change.path)] += 1
    for name in dict.fromkeys([*lost, *gained]):
        if name not in _ENTITIES:
            yield name + (f" +{gained[name]}" if gained[name] else "") + (f" -{lost[name]}" if lost[name] else "")
            continue
        for count, verb in ((lost[name], "lost"), (gained[name], "found")):
            if count:
                yield f"{count} {'entity' if count == 1 else 'entities'} {verb}"


def _is_score(path: Path) -> bool:
    """Return whether the piece about the score covers a change."""
    return path[0] in _SCORED and path[1:] in ((), ("score",))


def _is_counted(change: Change | Reordered) -> bool:
    """Return whether an element was added or removed, which `_counted` reports."""
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
    """Return the last key of a path: for an element, the key of its list."""
    return next(step for step in reversed(path) if isinstance(step, str))


def _short_path(path: Path) -> str:
    text = spelled(path)
    return text if len(text) <= _PATH_MAX_CHARS else _name(path)


def _newest_prompt(state: Mapping[str, bytes]) -> str | None:
    """Return the text of the newest prompt. EDI has prompts as a list of texts, or as objects by iteration."""
    for key in _PROMPTS:
        if key in state and len(state[key]) <= SUMMARY_MAX_BYTES:
            with suppress(msgspec.DecodeError):
                prompts = msgspec.json.decode(state[key], type=list[msgspec.Raw] | dict[str, msgspec.Raw])
                newest = list(prompts.values() if isinstance(prompts, dict) else prompts)[-1:]
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
    """Return the added and removed words; nothing unless both are texts of several words and some words differ."""
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
    """Return a value before and after if both are short, else `changed`."""
    if before is None:
        return _short(after)
    was, now = _short(before), _short(after)
    return f"{was}->{now}" if was and now else "changed"


def _short(text: bytes) -> str:
    """Return the text of a short value, nothing for a long one."""
    value = number(text) if is_number(text) else string(text)
    if value is None and text in (b"true", b"false", b"null"):
        value = text.decode()
    return value if value and len(value) <= _VALUE_MAX_CHARS and " " not in value else ""
