from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import orjson
import pytest
from harness import Home, Refused

from edi_checkpoint.documents.reader import parse_autosave, parse_checkpoint

NASTY = {
    "floats": [1e-7, 1e16, 1e-5, 0.1, 1e300, -0.0, 5e-324, 1.7976931348623157e308, 123456789.123456789, 1e22, 0.0001],
    "integers": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1],
    "text": ["äöü ß", "日本語", "🏠🌿", "\u2028\u2029", "\x00\x01\x1f\x7f", 'quote " and \\ and /', "", "\u200b\ufeff"],
    "lines": "one\ntwo\r\nthree\ttabbed\n    indented like a document\n  ],\n",
    "empty": [[], {}, "", [[]], [{}], {"": {}}, {"a": [], "b": {}}],
    "nested": {"a": [{"b": [[{"c": {"d": [1, [2, [3, {"e": None}]]]}}]]}]},
    "literals": [None, True, False],
    "keys": {"ä": 1, "a b": 2, "\n": 3, '"': 4, "日本": 5, "integrity": 6, "state_info": {"checkpoint": 7}},
    'odd " key\n': 1,
    "ключ": {"state_info": "  }\n}"},
    "masks": [[0, 1] * 20] * 3,
}
HUGE = {"huge": [2**64, 10**40, -(10**100)]}


def dumped(document: object) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A checkpoint and an auto-save of nasty values."""
    home = Home(tmp_path_factory.mktemp("nasty") / "h")
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do(f"session.update({NASTY!r})")
    publisher.do("session.update(current_stage='refinement', status='in_progress')")
    told = publisher.do("session.checkpoint('all \\U0001f3e0 of it', label='ein \"guter\" Punkt')")
    publisher.do("session.flush('checkpointed')")
    yield home.sessions / told["name"], home.sessions / "s1.json"
    home.close()


def test_a_file_is_byte_for_byte_what_pythons_json_writes(files: tuple[Path, Path]) -> None:
    for path in files:
        data = path.read_bytes()
        assert dumped(json.loads(data)) == data, path.name


def test_every_reader_finds_the_values_that_were_published(files: tuple[Path, Path]) -> None:
    expected = {**NASTY, "current_stage": "refinement", "status": "in_progress"}
    checkpoint, saved = (path.read_bytes() for path in files)
    for load in (json.loads, orjson.loads, msgspec.json.decode):
        assert load(checkpoint)["state_info"] == expected
        flat = load(saved)
        assert flat.pop("_edi_checkpoint")["kind"] == "autosave"
        assert flat == {"session_id": "s1", **expected}
    for path, data, parse in ((files[0], checkpoint, parse_checkpoint), (files[1], saved, parse_autosave)):
        values = parse(data, path.name).values
        assert {key: json.loads(text) for key, text in values.items()} == expected


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_jq_reads_a_file(files: tuple[Path, Path]) -> None:
    for path, key in zip(files, (".state_info.text", ".text"), strict=True):
        done = subprocess.run(["jq", "-c", key, str(path)], capture_output=True, check=True)
        assert json.loads(done.stdout) == NASTY["text"]


def test_integers_beyond_64_bits_stay_exact(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do(f"session.update({HUGE!r})")
    told = publisher.do("session.checkpoint()")
    data = (home.sessions / told["name"]).read_bytes()
    assert json.loads(data)["state_info"] == msgspec.json.decode(data)["state_info"] == HUGE
    assert dumped(json.loads(data)) == data
    publisher.kill()
    assert home.publisher("s1").do("dict(session)") == HUGE


def test_a_restored_value_is_the_value_that_was_read_back_when_it_was_set(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do(f"session.update({NASTY!r})")
    before = publisher.do("dict(session)")
    publisher.kill()
    assert home.publisher("s1").do("dict(session)") == before == NASTY


def test_a_value_that_no_file_can_hold_is_refused_by_its_path_and_changes_nothing(home: Home) -> None:
    home.daemon()
    publisher = home.publisher("s1")
    publisher.do("session.update(validation={'score': 0.5})")
    for value, path in (
        ("{'score': float('nan')}", "validation.score"),
        ("{'score': [0.5, float('inf')]}", "validation.score[1]"),
        ("{'a': {1: 2}}", "validation.a"),
        ("{'a': object()}", "validation.a"),
        ("'\\ud800'", "validation"),
    ):
        with pytest.raises(Refused, match="StateValueError") as refused:
            publisher.do(f"session.update(other=1, validation={value})")
        assert refused.value.message.startswith(path)
    assert publisher.do("dict(session)") == {"validation": {"score": 0.5}}
    told = publisher.do("session.checkpoint()")
    assert json.loads((home.sessions / told["name"]).read_bytes())["state_info"] == {"validation": {"score": 0.5}}
    assert [entry["op"] for entry in home.history("s1")] == ["update", "mark"]
