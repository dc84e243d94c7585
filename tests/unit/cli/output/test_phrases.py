from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edi_checkpoint.values.arrays import encode
from edi_checkpoint.wire.references import Reference, form_of
from edi_checkpointd.cli.output.phrases import in_words, phrase


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.eye(64, dtype=bool), "mask 64x64, 1.6 % set, "),
        (np.ones((4, 6), np.uint8), "mask 6x4, 100.0 % set, "),
        (np.zeros((2, 4, 6), bool), "mask 6x4x2, 0.0 % set, "),
        (np.full((3, 5, 3), 9, np.uint8), "picture 5x3, "),
        (np.full((3, 5), 9, np.uint8), "picture 5x3, "),
        (np.zeros((512,), np.float32), "array of float32 512, "),
        (b"abc", "bytes, 3 B"),
    ],
)
def test_an_attachment_is_told_by_what_it_is(value: object, words: str) -> None:
    reference = encode(value).reference
    assert phrase(reference).startswith(words)
    for indent in (None, 0, 2):
        text = json.dumps({"a": [form_of(reference), 1], "b": "$attachment"}, indent=indent).encode()
        said = " ".join(in_words(text).decode().split())
        assert f"<{phrase(reference)}>" in said
        assert "sha256" not in said


SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@given(st.sampled_from(["png", "npy", "raw", "x"]), st.none() | st.just("{'a': \"}\"}"), SHAPES, st.none() | st.just(3))
def test_no_reference_is_too_odd_to_be_told_of(
    kind: str, dtype: str | None, shape: tuple[int, ...], area: int | None
) -> None:
    reference = Reference("0" * 64, kind, dtype, shape, 5, area)
    text = json.dumps({"k": form_of(reference)}).encode()
    assert in_words(text).decode() == f'{{"k": <{phrase(reference)}>}}'
    assert in_words(b'{"$attachment": {"sha256": 1}}') == b'{"$attachment": {"sha256": 1}}'
