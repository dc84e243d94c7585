"""Man pages and completions say what the commands' own definitions say, and their readers take them."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edi_checkpointd import __main__ as daemon
from edi_checkpointd import config
from edi_checkpointd.cli import _load, app

ROOT = Path(__file__).parents[2]
SHARE = ROOT / "share"
PAGES = sorted(SHARE.glob("man/man1/*.1"))
COMPLETIONS = {
    program: [
        SHARE / "bash-completion/completions" / program,
        SHARE / "zsh/site-functions" / f"_{program}",
        SHARE / "fish/vendor_completions.d" / f"{program}.fish",
    ]
    for program in ("edi-checkpoint", "edi-checkpointd")
}
COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
echo "${COMPREPLY[@]}"
"""


def words_of(program: str) -> set[str]:
    """Return the commands and long options of a program, by its own definitions."""
    if program == "edi-checkpoint":
        _load()
        commands = {name: app.app[name] for name in app.app if not name.startswith("-")}
        arguments = [one for command in commands.values() for one in command.assemble_argument_collection()]
        return {*commands, *(name for one in arguments for name in one.names if name.startswith("--"))}
    parser = daemon._parser()
    config.add_flags(parser.run_parser)
    (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    options = [name for one in found.choices.values() for action in one._actions for name in action.option_strings]
    return {*found.choices, *(name for name in options if name.startswith("--") and "_" not in name)}


def test_the_man_pages_are_what_make_manual_makes_of_the_commands(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docs/manual/make.py", tmp_path], check=True, timeout=60)
    assert {page.name for page in PAGES} == {f"{program}.1" for program in COMPLETIONS}
    for page in PAGES:
        assert page.read_text() == (tmp_path / "man/man1" / page.name).read_text(), "run `make manual`"


@pytest.mark.parametrize("program", COMPLETIONS)
def test_each_command_and_option_is_completed_by_each_shell(program: str) -> None:
    words = words_of(program)
    for file in COMPLETIONS[program]:
        text = file.read_text()
        fish = file.suffix == ".fish"
        missing = [word for word in words if (f"-l {word[2:]}" if fish and word.startswith("--") else word) not in text]
        assert not missing, f"run `make manual`: {file}"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_groff_has_nothing_to_say_against_a_man_page(page: Path) -> None:
    done = subprocess.run(["groff", "-man", "-ww", "-z", page], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["edi-checkpoint", "hist"], "history"),
        (["edi-checkpoint", "sessions", "--condition", "inter"], "interrupted"),
        (["edi-checkpointd", "unin"], "uninstall"),
        (["edi-checkpointd", "run", "--autosave-e"], "--autosave-every-s"),
    ],
    ids=lambda value: "",
)
def test_bash_completes_what_was_begun(words: list[str], wanted: str) -> None:
    file = COMPLETIONS[words[0]][0]
    done = subprocess.run(["bash", "-c", COMPLETE, "-", file, *words], capture_output=True, text=True, check=True)
    assert wanted in done.stdout.split()
