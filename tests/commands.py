"""Runs `edi-checkpoint` many times quickly: each process is forked from one that has imported the package.

Most of a command's time is its start (0.13 s of CPU). The processes are real, and end as the program does. Other tests
cover the start itself (`python -m`, the terminal, the imports) with a new interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_IMPORTED = (
    "edi_checkpointd.cli.commands.look",
    "edi_checkpointd.cli.commands.change",
    "rich.console",
    "rich.table",
    "zmq",
)

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(list(_IMPORTED))


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command line with an empty stdin and without a terminal; return its result."""
    with tempfile.TemporaryDirectory(prefix="command-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _forks.Process(target=_main, args=(list(arguments), dict(environment), str(out), str(err)))
        process.start()
        process.join(60)
        if process.exitcode is None:
            process.kill()
            process.join()
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


def _main(arguments: list[str], environment: dict[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path, fd in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), fd)
    from edi_checkpointd.cli import main

    sys.exit(main(arguments))
