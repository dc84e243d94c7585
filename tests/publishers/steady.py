"""A publisher that counts on from what it finds, until it is killed: `steady.py SESSION PAUSE_S`.

It says `resumed N`, then now and then `safe N`: that much is in its outbox or acknowledged, and nothing may lose it.
What the disk refuses it tries again.
"""

from __future__ import annotations

import sys
import time

from edi_checkpoint import EdiCheckpointError, Session, connect

PAUSE_S = 0.2  # before it is tried again
TELL_EVERY = 10


def begin(session_id: str) -> Session:
    while True:
        try:
            return client.session(session_id)
        except (EdiCheckpointError, OSError):
            time.sleep(PAUSE_S)


def count(session: Session, pause_s: float) -> None:
    n = int(str(session.get("n", 0)))
    print(f"resumed {n}", flush=True)
    while True:
        try:
            session.update(n=n + 1, attempt=n // 100, text=f"{n:0500}", raw=bytes([n // 100 % 20]) * 1000)
        except (EdiCheckpointError, OSError):
            time.sleep(PAUSE_S)
            continue
        n += 1
        durable = session.durable
        if n % TELL_EVERY == 0 and max(durable.spooled, durable.journaled) >= durable.published:
            print(f"safe {n}", flush=True)
        time.sleep(pause_s)


client = connect(app="steady")
count(begin(sys.argv[1]), float(sys.argv[2]))
