from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from edi_checkpoint.system.paths import locate
from edi_checkpointd.server import watch as watch_module
from edi_checkpointd.server.watch import Watch


class Told:
    """What a watch told, and a wait for what it is to tell."""

    def __init__(self, folder: Path) -> None:
        self.paths = locate({"EDI_CHECKPOINT_HOME": str(folder)})
        self.paths.sessions.mkdir(parents=True, exist_ok=True)
        self.names: set[str] = set()
        self.looks = self.misplaced = self.configured = 0
        self._news = threading.Condition()
        self.watch = Watch(
            self.paths,
            touched=self._touched,
            misplaced=lambda: self._count("misplaced"),
            configured=lambda: self._count("configured"),
        )

    def _touched(self, names: Collection[str] | None) -> None:
        with self._news:
            self.looks += names is None
            self.names |= set(names or ())
            self._news.notify_all()

    def _count(self, what: str) -> None:
        with self._news:
            setattr(self, what, getattr(self, what) + 1)
            self._news.notify_all()

    def wait(self, code: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: eval(code, {}, vars(self)), 10), vars(self)


def test_what_happened_before_it_was_there_is_to_be_looked_at(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.wait("misplaced == 1 and configured == 1")
    told.watch.close()


def test_documents_alone_are_named_and_temporaries_are_not(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.wait("configured == 1")
    for name in (".a.json.tmp", "notes.txt", "a.json", "b.json"):
        (told.paths.sessions / name).write_bytes(b"{}")
    (told.paths.sessions / "a.json").rename(told.paths.sessions / "c.json")
    told.wait("names >= {'a.json', 'b.json', 'c.json'}")
    assert told.names == {"a.json", "b.json", "c.json"}
    told.watch.close()


def test_a_folder_reached_by_a_link_is_watched(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sessions").symlink_to(tmp_path / "elsewhere")
    told = Told(tmp_path)
    told.wait("configured == 1")
    (tmp_path / "elsewhere" / "a.json").write_bytes(b"{}")
    told.wait("'a.json' in names")
    told.watch.close()


def test_more_names_than_are_kept_lead_to_a_look_at_the_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "NAMES_MAX", 10)
    told = Told(tmp_path)
    told.wait("configured == 1")
    for number in range(30):
        (told.paths.sessions / f"{number}.json").write_bytes(b"{}")
    told.wait("looks > 0")
    told.watch.close()


def test_whatever_the_library_complains_of_leads_to_a_look(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.wait("configured == 1")
    logging.getLogger("watchdog.observers.inotify_c").warning("events were lost")
    told.wait("looks == 1")
    told.watch.close()


def test_a_kernel_that_watches_no_more_is_told_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "inotify instance limit reached")

    monkeypatch.setattr(watch_module, "Observer", refuse)
    told = Told(tmp_path)
    told.watch.close()
    assert "folders are not watched" in caplog.text
