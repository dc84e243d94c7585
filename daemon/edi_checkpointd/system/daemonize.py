"""Leaves whoever started the daemon: nothing that a process inherits stays but its environment and its limits."""

from __future__ import annotations

import os
import signal

_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def detach() -> None:
    """Go on in a child, in the background, while this process ends with exit code 0. Call it before any thread runs.

    The child has the init process for a parent, a session without a terminal, the folder `/`, umask 077, no signal
    blocked or ignored, and nothing on stdin, stdout and stderr.
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
