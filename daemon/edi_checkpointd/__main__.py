"""`edi-checkpointd`: run, stop, check and install (argparse: it starts twice as fast as a richer library)."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.paths import Paths, ensure_private, locate

if TYPE_CHECKING:
    from edi_checkpointd.config import Config

log = logging.getLogger(__name__)

EXIT_FAILED, EXIT_USAGE, EXIT_BUSY = 1, 2, 5
STOP_TIMEOUT_S = 15.0
_GARBAGE = 10_000  # objects that may wait to be looked through: a drain makes a thousand, and none of them in a circle


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`; return the exit code of interfaces.md: 0, 1 failed, 2 usage, 5 busy."""
    gc.disable()  # nothing that is imported is garbage: looking for it would take a tenth of a start
    try:
        from edi_checkpointd import config, logs
        from edi_checkpointd.detach import detach
        from edi_checkpointd.lock import DaemonRuns
        from edi_checkpointd.service import run
    except ModuleNotFoundError as error:
        print(f"edi-checkpointd: {error.name} is missing; pip install 'edi-checkpoint[daemon]'", file=sys.stderr)
        return EXIT_FAILED
    finally:
        gc.freeze()  # nor will it be: what is collected later, while entries wait, need not look at it
        gc.set_threshold(_GARBAGE)
        gc.enable()
    parser = _parser()
    config.add_flags(parser.run_parser)
    arguments = parser.parse_args(argv)
    detached, as_json = getattr(arguments, "detached", False), getattr(arguments, "json", False)
    try:
        paths = locate()
        match arguments.command:
            case "stop":
                return _stop(paths)
            case "install":
                return _install(paths, now=arguments.now, dry_run=arguments.dry_run)
            case "uninstall":
                return _uninstall(paths)
        load = partial(config.load, paths, os.environ, config.flags_of(arguments))
        if arguments.command == "check":
            return _check(paths, load if arguments.repair else None, as_json=as_json)
        settings = load()
        if detached:
            ensure_private(paths.state)
            detach()  # whoever started us hears of what is wrong up to here; the log tells the rest
        logs.begin(arguments.log_format, os.environ, paths.log if detached else None)
        for warning in settings.warnings:
            log.warning(warning)
        run(paths, settings, load, idle_exit=detached)
    except DaemonRuns as error:
        return _fail(error, EXIT_BUSY, detached=detached, as_json=as_json)
    except EdiCheckpointError as error:
        return _fail(error, EXIT_USAGE if error.code == "config" else EXIT_FAILED, detached=detached, as_json=as_json)
    except OSError as error:
        failure = EdiCheckpointError(str(error), hint="see that the folder can be written")
        return _fail(failure, EXIT_FAILED, detached=detached, as_json=as_json)
    return 0


class _Parser(argparse.ArgumentParser):
    run_parser: argparse.ArgumentParser


def _parser() -> _Parser:
    parser = _Parser(
        prog="edi-checkpointd",
        description="The daemon of edi-checkpoint: takes state updates of EDI, makes them durable, writes checkpoints.",
        epilog="Look at sessions with `edi-checkpoint`. Exit codes: 0 done, 1 failed, 2 usage, 5 another daemon runs,"
        " 6 damage found or repaired, 7 acknowledged entries lost.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parser.run_parser = commands.add_parser(
        "run",
        help="serve in the foreground until SIGTERM",
        description="Serve in the foreground until SIGTERM. Prints one line on stderr when entries are taken.",
    )
    parser.run_parser.add_argument(
        "--detached",
        action="store_true",
        help="as a client starts it: in the background, log to a file, leave when unused (idle_exit_s)",
    )
    parser.run_parser.add_argument(
        "--log-format",
        choices=("auto", "text", "json"),
        default="auto",
        help="of the log on stderr: text or JSON lines; auto is text, and fields in the journal under systemd",
    )
    commands.add_parser("stop", help="end the running daemon and wait until it has left; 0 also when none runs")
    install = commands.add_parser(
        "install",
        help="have the daemon run as a service of yours (systemd)",
        description="Write and enable units of your own systemd: it listens on the socket, and starts the daemon for "
        "the first client. Again over an older installation: what runs is restarted, and no publisher notices.",
        epilog="Example: edi-checkpointd install --now",
    )
    install.add_argument("--now", action="store_true", help="start it too, and end a daemon that runs otherwise")
    install.add_argument("--dry-run", action="store_true", help="print both units, and change nothing")
    commands.add_parser("uninstall", help="stop the service and remove its units; the data stays")
    check = commands.add_parser(
        "check",
        help="look whether all that is kept is whole; with --repair, mend it",
        description="""Look whether all that is kept is whole: journal, checkpoints, attachments, outboxes, permissions.
Nothing is changed, and a daemon may run. With --repair, damaged files are moved into damaged/, never deleted, and what
can be rebuilt from the others is; then no daemon may run.""",
        epilog="""Example: edi-checkpointd stop; edi-checkpointd check --repair
Exit codes: 0 clean; 5 --repair while a daemon runs; 6 damage found or repaired, nothing acknowledged lost; 7
acknowledged changes are lost.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("--repair", action="store_true", help="mend what can be mended")
    check.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _check(paths: Paths, load: Callable[[], Config] | None, *, as_json: bool) -> int:
    """Say whether all that is kept is whole; with `load`, which gives the settings, mend it. Return the exit code."""
    from edi_checkpointd import inspection, logs
    from edi_checkpointd.inspection import words

    if load is None:
        report = inspection.check(paths)
        result = report.result
    else:
        from edi_checkpointd.repair import repair

        logs.begin("auto", os.environ)
        report, result = repair(paths, load())
    if as_json:
        _write({"format": 1, **words.document(report, result)})
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(words.lines(report, result, width)))
    return inspection.EXIT_CODES[result]


def _write(document: dict[str, object]) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _stop(paths: Paths) -> int:
    from edi_checkpoint.holder import running
    from edi_checkpointd.lock import end

    holder = running(paths.lock)
    if holder is None or end(paths.lock, holder, STOP_TIMEOUT_S):
        return 0
    return _fail(
        EdiCheckpointError(f"process {holder.pid} has not left within {STOP_TIMEOUT_S:g} s", hint="see its log"),
        EXIT_FAILED,
    )


def _install(paths: Paths, *, now: bool, dry_run: bool) -> int:
    from edi_checkpointd import installation

    if dry_run:
        print(installation.show(paths, os.environ, partial(print, file=sys.stderr)), end="")
    else:
        installation.install(paths, os.environ, _say, now=now)
    return 0


def _uninstall(paths: Paths) -> int:
    from edi_checkpointd import installation

    installation.uninstall(paths, os.environ, _say)
    return 0


def _say(what: str, about: object) -> None:
    print(f"{what:<10} {about}")


def _fail(error: EdiCheckpointError, code: int, *, detached: bool = False, as_json: bool = False) -> int:
    if detached and log.hasHandlers():
        log.error("%s; %s", error, error.hint)
    if as_json:
        _write({"format": 1, "error": {"code": error.code, "message": error.message, "hint": error.hint}})
        return code
    print(f"edi-checkpointd: {error}\n  {error.hint}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
