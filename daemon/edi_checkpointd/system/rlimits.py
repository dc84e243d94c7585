"""Descriptors: how many the process may open, and how near that is. Without one left, libzmq aborts in accept.

What it costs then is a start: entries lie in outboxes and in the journal, and come again.
"""

from __future__ import annotations

import os
import resource

WARN_SHARE = 0.8  # of the limit


def raise_limit() -> None:
    """Raise the soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def short() -> str | None:
    """Return what is to be said when more than `WARN_SHARE` of the descriptors are open; None when not.

    Counting costs a look at each: some 0.1 us.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = sum(1 for _ in os.scandir("/dev/fd")) - 1  # without the one that lists them
    return f"{opened} of {limit} file descriptors are open" if opened > WARN_SHARE * limit else None
