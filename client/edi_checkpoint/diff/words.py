"""Compares two texts word by word.

Punctuation counts as words of its own, so a word that gets a comma is still the same word.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Final, Literal, NamedTuple

TOKENS_MAX: Final = 400  # of a text; a longer text counts as rewritten, since matching may take quadratic time
REWRITTEN_BELOW: Final = 0.3  # of the tokens in common; fewer are common by chance, and only confuse a reader
_TOKEN: Final = re.compile(r"\w[\w'-]*|[^\w\s]")


class Part(NamedTuple):
    """A run of words with the spaces of its text; `sign` is `-` for removed, `+` for added, nothing for kept words."""

    sign: Literal["", "-", "+"]
    text: str


def parts(before: str, after: str) -> list[Part]:
    """Return the parts of two texts in their order; removed words stand before the words that replace them."""
    olds, news = list(_TOKEN.finditer(before)), list(_TOKEN.finditer(after))
    rewritten = [part for part in (Part("-", before.strip()), Part("+", after.strip())) if part.text]
    if max(len(olds), len(news)) > TOKENS_MAX:
        return rewritten
    matcher = SequenceMatcher(None, [old[0] for old in olds], [new[0] for new in news], autojunk=False)
    if matcher.ratio() < REWRITTEN_BELOW:
        return rewritten
    found = []
    for what, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if what == "equal":
            found.append(Part("", _run(after, news[new_from:new_to])))
            continue
        if old_from < old_to:
            found.append(Part("-", _run(before, olds[old_from:old_to])))
        if new_from < new_to:
            found.append(Part("+", _run(after, news[new_from:new_to])))
    return found


def _run(text: str, tokens: list[re.Match[str]]) -> str:
    return text[tokens[0].start() : tokens[-1].end()]
