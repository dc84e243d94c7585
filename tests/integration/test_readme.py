"""The README's examples, as a reader copies them: its programs run, and its commands say what it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Home

from edi_checkpointd.cli import _load, app

README = Path(__file__).parents[2] / "README.md"
BIN = Path(sys.executable).parent
HEADLESS = """
import functools, sys
from textual.app import App
App.run_async = functools.partialmethod(App.run_async, headless=True)
exec(compile(sys.stdin.read(), "README.md", "exec"))
"""


def blocks(language: str = "python") -> list[str]:
    """The README's blocks of a language, as a reader copies them."""
    return [part.partition("```")[0] for part in README.read_text().split(f"```{language}\n")[1:]]


def block(mark: str) -> str:
    """The one Python block that holds `mark`."""
    (found,) = [text for text in blocks() if mark in text]
    return found


def steady(text: str) -> list[str]:
    """What is the same each time: no time, process or age, nor the spaces that fill a column beside them; nor
    whether the daemon had the last entry from the socket or from the outbox.
    """
    text = re.sub(r" \d+ entr(y was|ies were) recovered from the outbox of a process that had died\.", "", text)
    text = re.sub(r"\d+ seconds?(?= ago)|\d+(?= s\b)|\d{4}-\d\d-\d\d|\d\d:\d\d(:\d\d)?|(?<=process )\d+", "#", text)
    return [re.sub(r" +", " ", line).rstrip() for line in text.strip().splitlines()]


@pytest.fixture
def reader(home: Home) -> Home:
    """Somebody who has just installed it, and has saved the programs that begin with their names."""
    home.environment |= {"EDI_CHECKPOINT_AUTOSTART": "1", "COLUMNS": "80", "TZ": "UTC"}
    home.environment["PATH"] = f"{BIN}:{home.environment['PATH']}"
    home.folder.mkdir()
    for text in blocks():
        if named := re.match(r"# (\w+\.py)", text):
            (home.folder / named[1]).write_text(text)
    return home


def says(reader: Home, command: str) -> list[str]:
    """Return what a shell shows for a command."""
    done = subprocess.run(
        ["bash", "-c", f"{command}; true"], cwd=reader.folder, env=reader.environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = [line for line in steady(done.stdout) if not line.startswith("edi-checkpoint: ")]  # beside the result
    return ["Killed" if " Killed " in line else line for line in lines]


def test_the_python_of_the_readme_compiles() -> None:
    assert len(blocks()) >= 5
    for text in blocks():
        compile(text, "README.md", "exec")


def test_each_command_is_in_the_readme() -> None:
    _load()
    table = README.read_text().partition("## The commands")[2].partition("\n## ")[0]
    assert not [name for name in app.app if not name.startswith("-") and not re.search(rf"`[^`]*\b{name}\b", table)]


def test_a_session_is_killed_and_resumed_as_the_readme_shows_it(reader: Home) -> None:
    try:
        for transcript in blocks("console"):
            for step in transcript.split("$ ")[1:]:
                command, _, shown = step.partition("\n")
                assert says(reader, command) == steady(shown)
        done = subprocess.run(
            [sys.executable, "-c", block("session.rollback()")], cwd=reader.folder, env=reader.environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "sky above sea" in done.stdout
        assert {row["session_id"] for row in reader.json("sessions")["sessions"]} == {"lighthouse", "lighthouse-night"}
        assert subprocess.run([sys.executable, "-c", block("session_12345")], env=reader.environment).returncode == 0
        assert len(reader.checkpoints("session_12345")) == 1
    finally:
        says(reader, "edi-checkpointd stop")


def test_the_readmes_asyncio_app_runs_as_it_stands(home: Home) -> None:
    home.daemon()
    app = home.start([sys.executable, "-c", HEADLESS])
    assert app.popen.stdin is not None
    app.popen.stdin.write(block("edi_checkpoint.aio").encode())
    app.popen.stdin.close()
    assert app.wait() == 0, app.stderr
    (row,) = home.json("sessions")["sessions"]
    assert (row["condition"], row["stage"], row["image"]) == ("unfinished", "analysis", "lighthouse.jpg")
    documents = [json.loads(path.read_bytes()) for path in home.checkpoints(row["session_id"])]
    (made,) = [one for one in documents if one["checkpoint"]["kind"] == "manual"]
    assert (made["reason"], made["state_info"]["progress"]) == ("analysis_done", 0.1)
