"""Runs `edi-checkpointd` as systemd does when a client connects: `activated_daemon.py FD run …`; FD listens."""

from __future__ import annotations

import os
import sys

os.dup2(int(sys.argv[1]), 3)  # sd_listen_fds(3): the first descriptor, and the process that it is for
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="edi-checkpointd.socket")
os.execv(sys.executable, [sys.executable, "-m", "edi_checkpointd", *sys.argv[2:]])
