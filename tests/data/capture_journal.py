"""Makes a golden journal, with whatever version of the software is imported: `capture_journal.py journal_v3.sqlite`.

Three sessions: one with marks and a key that went, one that was begun from it, one whose writer was killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

KILLED = """
import os, signal
from edi_checkpoint import connect
session = connect(autostart=False).session("killed")
for n in range(1, 6):
    session.update(n=n, answer="typed by hand")
session.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def main(target: Path) -> None:
    home = Path(tempfile.mkdtemp())
    os.environ |= {"EDI_CHECKPOINT_HOME": str(home), "EDI_CHECKPOINT_AUTOSTART": "0"}
    daemon = subprocess.Popen([sys.executable, "-m", "edi_checkpointd", "run"], stderr=subprocess.PIPE, text=True)
    assert daemon.stderr is not None
    try:
        assert daemon.stderr.readline().startswith("ready ")
        publish()
        subprocess.run([sys.executable, "-c", KILLED], check=False)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate()
    target.write_bytes((home / "state" / "journal.sqlite").read_bytes())


def publish() -> None:
    from edi_checkpoint import connect

    with connect(autostart=False) as client:
        with client.session("first") as session:
            session.transition("analysis", image_path="lighthouse.jpg")
            session.update(number=10**30, text="Grüße, 雪", gone=True)
            session.checkpoint("marked", label="good so far")
            for n in range(1, 31):
                session.update(n=n, padding=f"{n:02}" * 200)
            del session["gone"]
        with client.session("second", parent="first") as session:
            session.update(n=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
