"""The limit of open file descriptors. When none is left, libzmq aborts the process in accept.

No entry is lost then: the daemon is restarted, and clients resend from their outboxes.
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
    """Return a sentence for the user if more than `WARN_SHARE` of the descriptors are open, else None.

    Counting takes some 0.1 us for each open descriptor.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = sum(1 for _ in os.scandir("/dev/fd")) - 1  # without the descriptor of this scan
    return f"{opened} of {limit} file descriptors are open" if opened > WARN_SHARE * limit else None
