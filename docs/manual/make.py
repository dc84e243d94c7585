"""Make the man pages and the shells' completions of both programs from their own definitions, below `share/`.

`make manual` runs it; `make.py FOLDER` writes elsewhere, for the test that tells when they are behind.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import shtab
from cyclopts import App

from edi_checkpointd import __main__ as daemon
from edi_checkpointd import config
from edi_checkpointd.cli import _load, app

SHARE = Path(__file__).parents[2] / "share"
COMPLETIONS = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/site-functions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}
FILES = """\
~/.edi/sessions/                        checkpoints, auto-saves, attachments
$XDG_STATE_HOME/edi-checkpoint/         journal, outboxes, log
$XDG_RUNTIME_DIR/edi-checkpoint/        socket
$XDG_CONFIG_HOME/edi-checkpoint/config.toml"""
ENVIRONMENT = """\
EDI_CHECKPOINT_HOME=DIR                 everything below one folder
EDI_CHECKPOINT_SESSIONS_DIR, EDI_CHECKPOINT_STATE_DIR, EDI_CHECKPOINT_RUNTIME_DIR, EDI_CHECKPOINT_CONFIG
                                        one place of these
EDI_CHECKPOINT_<KEY>                    a setting; `edi-checkpoint config` lists them
EDI_CHECKPOINT_AUTOSTART=0              clients start no daemon
NO_COLOR                                no colours"""


class Option(NamedTuple):
    """An argument or an option of a command: how it is written, and what it means."""

    written: str
    help: str


class Command(NamedTuple):
    """One command of a program."""

    name: str
    usage: str
    text: str
    options: list[Option]


class Program(NamedTuple):
    """A program as a page shows it."""

    name: str
    purpose: str
    usage: str
    text: str
    commands: list[Command]
    see_also: str


def looks(app: App) -> Program:
    """Return what cyclopts knows of `edi-checkpoint`."""
    purpose, _, text = inspect.cleandoc(app.help).partition("\n\n")
    names = [name for name in app if not name.startswith("-")]
    commands = sorted((app[name] for name in names), key=lambda one: (one.sort_key is None, one.sort_key))
    return Program(
        app.name[0], purpose, f"{app.name[0]} COMMAND ...", text, [_of_cyclopts(one) for one in commands],
        "edi-checkpointd(1)",
    )  # fmt: skip


def _of_cyclopts(command: App) -> Command:
    options = []
    for argument in command.assemble_argument_collection():
        choices = argument.get_choices()
        written = ", ".join(argument.names)
        if choices:
            written += f" {'|'.join(choices)}"
        elif written.startswith("-") and argument.hint is not bool:
            written += f" {argument.names[0].lstrip('-').upper()}"
        default = f" Default: {argument.field_info.default}." if argument.show_default else ""
        options.append(Option(written, (argument.parameter.help or "") + default))
    text = inspect.cleandoc(command.help)  # Python 3.13 takes the indentation off a docstring, older ones do not
    return Command(command.name[0], (command.usage or "").removeprefix("Usage: "), text, options)


def serves(parser: argparse.ArgumentParser) -> Program:
    """Return what argparse knows of `edi-checkpointd`."""
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return Program(
        parser.prog, parser.description or "", f"{parser.prog} COMMAND ...", parser.epilog or "",
        [_of_argparse(name, one) for name, one in commands.choices.items()], "edi-checkpoint(1), systemctl(1)",
    )  # fmt: skip


def _of_argparse(name: str, parser: argparse.ArgumentParser) -> Command:
    formatter = parser._get_formatter()
    options = []
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            written = [one for one in action.option_strings if "_" not in one] or [action.dest.upper()]
            shown = formatter._metavar_formatter(action, "")(1)[0] if action.nargs != 0 else ""
            options.append(Option(f"{', '.join(written)} {shown}".strip(), formatter._expand_help(action)))
    usage = f"{parser.prog} [OPTIONS]" if options else parser.prog
    return Command(name, usage, parser.description or "", options)


def page(program: Program) -> str:
    """Return a program's man page."""
    lines = [
        ".\\\" Made by `make manual` from the program's own definitions.",
        f'.TH {program.name.upper()} 1 "" "edi-checkpoint" "User Commands"',
        ".SH NAME",
        f"{_roff(program.name)} \\- {_roff(program.purpose[0].lower() + program.purpose[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_roff(program.usage)}",
        ".SH DESCRIPTION",
        *_paragraphs(program.text),
        ".SH COMMANDS",
    ]
    for command in program.commands:
        lines += [f".SS {_roff(command.usage)}", *_paragraphs(command.text)]
        for option in command.options:
            lines += [".TP", f".B {_roff(option.written)}", _roff(option.help)]
    for title, text in (("FILES", FILES), ("ENVIRONMENT", ENVIRONMENT)):
        lines += [f".SH {title}", *_as_it_stands(text)]
    return "\n".join([*lines, ".SH SEE ALSO", _roff(program.see_also), ""])


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.strip().split("\n\n"):
        yield ".PP"
        lines = paragraph.splitlines()
        laid_out = any("  " in line for line in lines) or paragraph.startswith("Example:")
        yield from _as_it_stands(paragraph) if laid_out else [_roff(" ".join(lines))]


def _as_it_stands(text: str) -> Iterator[str]:
    yield from (".nf", ".ft CW", *map(_roff, text.splitlines()), ".ft", ".fi")


def _roff(text: str) -> str:
    """Return text that groff shows as it is."""
    text = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    )
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main(folder: Path) -> None:
    """Write all of it below `folder`."""
    _load()
    parser = daemon._parser()
    config.add_flags(parser.run_parser)
    looking = app.app
    for program in (looks(looking), serves(parser)):
        _write(folder / "man/man1" / f"{program.name}.1", page(program))
    for shell, place in COMPLETIONS.items():
        _write(folder / place.format(looking.name[0]), looking.generate_completion(shell=shell))  # type: ignore[arg-type]
        _write(folder / place.format(parser.prog), shtab.complete(parser, shell))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHARE)
