"""The command `edi-checkpointd`: run, stop, check, install. It uses argparse, which loads twice as fast as cyclopts."""

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
from edi_checkpoint.system.paths import Paths, ensure_private, locate

if TYPE_CHECKING:
    from edi_checkpointd.config import Config

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 15.0
_FAILED, _EXITS = 1, {"config": 2, "daemon_runs": 5}  # by the error's code
_GARBAGE = 10_000  # objects before a garbage collection: a drain makes a thousand, none of them in a cycle


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code: 0 done, 1 failed, 2 usage, 5 busy; of `check` also 6, 7."""
    gc.disable()  # imports create no garbage; collecting would take a tenth of a start
    try:
        from edi_checkpointd import config
        from edi_checkpointd.server.run import run
        from edi_checkpointd.system import logs
        from edi_checkpointd.system.daemonize import detach
    except ModuleNotFoundError as error:
        hint = "install the extra `daemon` from the clone: pip install '.[daemon]'"
        return _fail(EdiCheckpointError(f"{error.name} is missing", hint=hint))
    finally:
        gc.freeze()  # modules never become garbage, so later collections, while entries wait, need not scan them
        gc.set_threshold(_GARBAGE)
        gc.enable()
    parser = _parser()
    config.add_flags(parser.run_parser)
    arguments = parser.parse_args(argv)
    detached, as_json = getattr(arguments, "detached", False), getattr(arguments, "json", False)
    try:
        paths = locate()
        if arguments.command == "stop":
            return _stop(paths)
        if arguments.command in ("install", "uninstall"):
            return _change_service(paths, arguments)
        load = partial(config.load, paths, os.environ, config.flags_of(arguments))
        if arguments.command == "check":
            return _check(paths, load if arguments.repair else None, as_json=as_json)
        settings = load()
        if detached:
            ensure_private(paths.state)
            detach()  # errors up to here reach the client that started us; later ones go to the log
        logs.begin(arguments.log_format, os.environ, paths.log if detached else None)
        for warning in settings.warnings:
            log.warning(warning)
        run(paths, settings, load, idle_exit=detached)
    except EdiCheckpointError as error:
        return _fail(error, detached=detached, as_json=as_json)
    except OSError as error:
        failure = EdiCheckpointError(str(error), hint="make sure that the folder can be written")
        return _fail(failure, detached=detached, as_json=as_json)
    return 0


class _Parser(argparse.ArgumentParser):
    run_parser: argparse.ArgumentParser


def _parser() -> _Parser:
    parser = _Parser(
        prog="edi-checkpointd",
        description="The daemon of edi-checkpoint: saves state updates of EDI and writes checkpoints.",
        epilog="To list sessions, use `edi-checkpoint`. Exit codes: 0 done, 1 failed, 2 usage, 5 another daemon runs,"
        " 6 damage found or repaired, 7 acknowledged entries lost.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parser.run_parser = commands.add_parser(
        "run",
        help="run the daemon in the foreground until SIGTERM",
        description="Run the daemon in the foreground until SIGTERM. When it is ready, it prints one line on stderr.",
    )
    parser.run_parser.add_argument(
        "--detached",
        action="store_true",
        help="run as when a client starts it: in the background, with a log file, until unused (idle_exit_s)",
    )
    parser.run_parser.add_argument(
        "--log-format",
        choices=("auto", "text", "json"),
        default="auto",
        help="format of the log on stderr: text, json (lines), or auto (text; under systemd, the journal's fields)",
    )
    commands.add_parser("stop", help="end the running daemon and wait for its end; exit code 0 also if none runs")
    install = commands.add_parser(
        "install",
        help="register the daemon as a systemd user service",
        description="Register the daemon as a systemd user service. systemd starts it with the first client and "
        "restarts it after a crash. To upgrade, run this again; running EDI sessions are not interrupted.",
        epilog="Example: edi-checkpointd install --now",
    )
    install.add_argument("--now", action="store_true", help="start the service now, and end any other daemon")
    install.add_argument("--dry-run", action="store_true", help="print both units, and change nothing")
    commands.add_parser("uninstall", help="stop the service and delete its units, but keep the data")
    check = commands.add_parser(
        "check",
        help="check all saved data for damage; --repair repairs it",
        description="""Check all saved data for damage: journal, checkpoints, attachments,
outboxes and permissions. Without --repair, the command changes nothing, and a
daemon may run.

With --repair, no daemon may run. The command moves damaged files into damaged/
and deletes none of them. Then it rebuilds what the other files allow.""",
        epilog="""Example: edi-checkpointd stop; edi-checkpointd check --repair
Exit codes: 0 clean; 5 --repair while a daemon runs; 6 damage found or
repaired, no acknowledged change lost; 7 acknowledged changes lost.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("--repair", action="store_true", help="repair what can be repaired")
    check.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _check(paths: Paths, load: Callable[[], Config] | None, *, as_json: bool) -> int:
    """Check all saved data, print a report and return the exit code; with `load`, which loads settings, also repair."""
    from edi_checkpointd.inspection import check as inspection_check
    from edi_checkpointd.inspection import findings
    from edi_checkpointd.inspection import report as inspection_report
    from edi_checkpointd.system import logs

    if load is None:
        report = inspection_check.check(paths)
        result = report.result
    else:
        from edi_checkpointd.server.repair import repair

        logs.begin("auto", os.environ)
        report, result = repair(paths, load())
    if as_json:
        _write({"format": 1, **inspection_report.document(report, result)})
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(inspection_report.lines(report, result, width)))
    return findings.EXIT_CODES[result]


def _write(document: dict[str, object]) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _stop(paths: Paths) -> int:
    from edi_checkpoint.system.daemon_lock import running
    from edi_checkpointd.system.lock import end

    holder = running(paths.lock)
    if holder is None or end(paths.lock, holder, STOP_TIMEOUT_S):
        return 0
    return _fail(
        EdiCheckpointError(f"process {holder.pid} did not end within {STOP_TIMEOUT_S:g} s", hint="see its log")
    )


def _change_service(paths: Paths, arguments: argparse.Namespace) -> int:
    from edi_checkpointd.systemd import install as service

    if arguments.command == "uninstall":
        service.uninstall(paths, os.environ, _say)
    elif arguments.dry_run:
        print(service.show(paths, os.environ, partial(print, file=sys.stderr)), end="")
    else:
        service.install(paths, os.environ, _say, now=arguments.now)
    return 0


def _say(what: str, about: object) -> None:
    print(f"{what:<10} {about}")


def _fail(error: EdiCheckpointError, *, detached: bool = False, as_json: bool = False) -> int:
    """Print an error with its hint, and return the exit code."""
    if detached and log.hasHandlers():
        log.error("%s; %s", error, error.hint)
    if as_json:
        _write({"format": 1, "error": {"code": error.code, "message": error.message, "hint": error.hint}})
    else:
        print(f"edi-checkpointd: {error}\n  {error.hint}", file=sys.stderr)
    return _EXITS.get(error.code, _FAILED)


if __name__ == "__main__":
    sys.exit(main())
