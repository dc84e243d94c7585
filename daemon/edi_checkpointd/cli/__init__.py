"""The command `edi-checkpoint`: list sessions, show their states, and change what is saved of them.

Results go to stdout, everything else to stderr. `main` turns every error into one sentence with its remedy (with
`--json`: one document) and an exit code. Commands import their modules when they run, to start fast.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.system.paths import what_forbids
from edi_checkpointd.cli.exits import PROGRAM, Exit, exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return its exit code."""
    arguments, as_json = _json_last(list(sys.argv[1:] if argv is None else argv))
    try:
        code = _load()(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except EdiCheckpointError as error:
        return _fail(error, as_json=as_json)
    except OSError as error:
        what = str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
        if isinstance(error, PermissionError) and error.filename is not None:
            what = f"{what}: {what_forbids(Path(error.filename))}"
        return _fail(EdiCheckpointError(what, hint="fix the path that the message names"), as_json=as_json)
    return code


def _load() -> Callable[[Sequence[str]], int]:
    gc.disable()  # imports create no garbage; collecting would take a fifth of a short command's time
    try:
        from edi_checkpointd.cli.app import run

        # Importing these modules registers their commands.
        from edi_checkpointd.cli.commands import change, config, doctor, keep, look, purge, transfer, verify, watch  # noqa: F401
    except ModuleNotFoundError as error:
        hint = "install the extra `daemon` from the clone: pip install '.[daemon]'"
        raise EdiCheckpointError(f"{error.name} is missing", hint=hint) from error
    finally:
        gc.enable()
    return run


def _json_last(arguments: list[str]) -> tuple[list[str], bool]:
    """Return the arguments with `--json` moved behind all options, and whether it was given."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = [argument for argument in arguments[:end] if argument != "--json"]
    as_json = len(own) < end
    return ([*own, "--json", *arguments[end:]] if as_json else arguments), as_json


def _fail(error: EdiCheckpointError, *, as_json: bool) -> int:
    code = exit_code(error)
    if as_json:
        from edi_checkpointd.cli.views.documents import write

        try:
            write({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
            sys.stdout.flush()
        except OSError:
            _reader_left()  # stdout itself failed
        else:
            return code
    print(f"{PROGRAM}: {_readable(error.message)}\n  {_readable(error.hint)}", file=sys.stderr)
    return code


def _readable(text: str) -> str:
    """Return `text` without terminal control characters: an error may quote any argument or file."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _reader_left() -> int:
    """Discard further output after the reader of stdout (`| head`) has ended, and return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports an error when it flushes
    return Exit.DONE
