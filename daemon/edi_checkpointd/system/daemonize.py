"""Detaches the daemon from the process that started it. It inherits only the environment and the resource limits."""

from __future__ import annotations

import os
import signal

_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def detach() -> None:
    """Continue in a child process in the background, and end this process with exit code 0. Call it without threads.

    The child's parent is the init process. It has a session without a terminal, the folder `/`, umask 077, no signals
    blocked or ignored, and /dev/null as stdin, stdout and stderr.
    """
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
