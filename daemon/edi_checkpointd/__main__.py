"""`edi-checkpointd`: run, stop and install the daemon (argparse: it starts twice as fast as a richer library)."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial

from edi_checkpoint.errors import EdiCheckpointError
from edi_checkpoint.paths import Paths, ensure_private, locate

log = logging.getLogger(__name__)

EXIT_FAILED, EXIT_USAGE, EXIT_BUSY = 1, 2, 5
STOP_TIMEOUT_S = 15.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`; return the exit code of interfaces.md: 0, 1 failed, 2 usage, 5 busy."""
    try:
        from edi_checkpointd import config, logs
        from edi_checkpointd.detach import detach
        from edi_checkpointd.lock import DaemonRuns
        from edi_checkpointd.service import run
    except ModuleNotFoundError as error:
        print(f"edi-checkpointd: {error.name} is missing; pip install 'edi-checkpoint[daemon]'", file=sys.stderr)
        return EXIT_FAILED
    parser = _parser()
    config.add_flags(parser.run_parser)
    arguments = parser.parse_args(argv)
    detached = getattr(arguments, "detached", False)
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
        settings = load()
        if detached:
            ensure_private(paths.state)
            detach()  # whoever started us hears of what is wrong up to here; the log tells the rest
        logs.begin(arguments.log_format, os.environ, paths.log if detached else None)
        for warning in settings.warnings:
            log.warning(warning)
        run(paths, settings, load, idle_exit=detached)
    except DaemonRuns as error:
        return _fail(error, EXIT_BUSY, detached=detached)
    except EdiCheckpointError as error:
        return _fail(error, EXIT_USAGE if error.code == "config" else EXIT_FAILED, detached=detached)
    except OSError as error:
        failure = EdiCheckpointError(str(error), hint="see that the folder can be written")
        return _fail(failure, EXIT_FAILED, detached=detached)
    return 0


class _Parser(argparse.ArgumentParser):
    run_parser: argparse.ArgumentParser


def _parser() -> _Parser:
    parser = _Parser(
        prog="edi-checkpointd",
        description="The daemon of edi-checkpoint: takes state updates of EDI, makes them durable, writes checkpoints.",
        epilog="Look at sessions with `edi-checkpoint`. Exit codes: 0 done, 1 failed, 2 usage, 5 another daemon runs.",
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
    return parser


def _stop(paths: Paths) -> int:
    from edi_checkpointd.lock import end, running

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


def _fail(error: EdiCheckpointError, code: int, *, detached: bool = False) -> int:
    if detached and log.hasHandlers():
        log.error("%s; %s", error, error.hint)
    print(f"edi-checkpointd: {error}\n  {error.hint}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
