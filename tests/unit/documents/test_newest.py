from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edi_checkpoint.documents.catalog import Catalog
from edi_checkpoint.documents.fragments import fragment
from edi_checkpoint.documents.layout import AUTOSAVE, Header, autosave_document, checkpoint_document
from edi_checkpoint.documents.names import autosave_name
from edi_checkpoint.documents.newest import OnDamage, ValidDocument, newest_in, newest_listed
from edi_checkpoint.errors import DocumentDamaged, EdiCheckpointError, VersionMismatch
from edi_checkpoint.model import Kind

SAVED = autosave_name("s")


def checkpoint(second: int) -> str:
    return f"s_checkpoint_20261123_0612{second:02}_000000.json"


def write(folder: Path, name: str, sequence: int) -> None:
    kind = AUTOSAVE if name == SAVED else Kind.MANUAL
    header = Header(session_id="s", timestamp=datetime(2026, 11, 23, tzinfo=UTC), kind=kind, sequence=sequence)
    make = autosave_document if name == SAVED else checkpoint_document
    (folder / name).write_bytes(b"".join(make(header, {"n": fragment(b"%d" % sequence)})))


def damage(folder: Path, name: str) -> None:
    """Change a value only, so that the header still reads well."""
    path = folder / name
    path.write_bytes(path.read_bytes().replace(b'"n": ', b'"n": 9'))


def both(folder: Path, on_damage: OnDamage) -> list[ValidDocument | None]:
    catalog = Catalog(folder)
    catalog.load()
    return [newest_in(folder, "s", on_damage), newest_listed(folder, catalog, "s", on_damage)]


def fail(name: str, error: OSError | EdiCheckpointError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@pytest.mark.parametrize("saved", [1, 5, 9])
def test_the_document_of_the_highest_sequence_is_found(tmp_path: Path, saved: int) -> None:
    write(tmp_path, SAVED, saved)
    for second, sequence in enumerate((3, 4, 6)):
        write(tmp_path, checkpoint(second), sequence)
    for found in both(tmp_path, fail):
        assert found is not None
        assert found.document.header.sequence == max(saved, 6)
        assert found.name == (SAVED if saved > 6 else checkpoint(2))


def test_what_happens_about_damage_is_for_the_caller_to_say(tmp_path: Path) -> None:
    write(tmp_path, SAVED, 9)
    for second, sequence in enumerate((3, 6)):
        write(tmp_path, checkpoint(second), sequence)
    damage(tmp_path, SAVED)
    damage(tmp_path, checkpoint(1))
    met: list[str] = []
    for found in both(tmp_path, lambda name, _: met.append(name)):
        assert found is not None
        assert found.name == checkpoint(0)
    assert met == [SAVED, checkpoint(1)] * 2
    with pytest.raises(DocumentDamaged, match=SAVED):
        both(tmp_path, fail)


def test_a_document_that_is_gone_or_of_a_newer_version_is_passed_to_the_caller(tmp_path: Path) -> None:
    write(tmp_path, checkpoint(0), 1)
    write(tmp_path, checkpoint(1), 2)
    catalog = Catalog(tmp_path)
    catalog.load()
    assert len(catalog.checkpoints("s")) == 2  # the headers are known from here on
    met: list[type[Exception]] = []

    (tmp_path / checkpoint(1)).unlink()
    path = tmp_path / checkpoint(0)
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 99'))
    assert newest_listed(tmp_path, catalog, "s", lambda _, error: met.append(type(error))) is None
    assert met == [FileNotFoundError, VersionMismatch]


def test_only_what_is_above_the_sequence_that_is_had_already_counts(tmp_path: Path) -> None:
    write(tmp_path, SAVED, 5)
    write(tmp_path, checkpoint(0), 4)
    catalog = Catalog(tmp_path)
    catalog.load()
    found = newest_listed(tmp_path, catalog, "s", fail, above=4)
    assert found is not None
    assert found.name == SAVED
    assert newest_listed(tmp_path, catalog, "s", fail, above=5) is None
    damage(tmp_path, SAVED)
    assert newest_listed(tmp_path, catalog, "s", lambda *_: None, above=4) is None


def test_edis_own_files_count_where_there_is_none_of_ours(tmp_path: Path) -> None:
    for second in (0, 1):
        written = {"session_id": "s", "timestamp": "2026-11-23T06:12:00", "state_info": {"n": second}}
        (tmp_path / checkpoint(second)).write_text(json.dumps(written))
    for found in both(tmp_path, fail):
        assert found is not None
        assert found.name == checkpoint(1)
    write(tmp_path, "s_checkpoint_20200101_000000_000000.json", 1)  # older by name, newer by sequence
    for found in both(tmp_path, fail):
        assert found is not None
        assert found.document.values == {"n": b"1"}
        assert found.document.header.sequence == 1


def test_a_session_without_files_has_none(tmp_path: Path) -> None:
    write(tmp_path, checkpoint(0), 1)
    assert newest_in(tmp_path, "other", lambda *_: None) is None
    assert newest_in(tmp_path / "none", "s", lambda *_: None) is None
    assert newest_listed(tmp_path, Catalog(tmp_path), "s", fail) is None
