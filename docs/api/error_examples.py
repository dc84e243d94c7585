"""The examples of the errors. The test causes each error before its example runs (`CAUSES` there)."""

from __future__ import annotations

from typing import Final

EXAMPLES: Final = {
    "EdiCheckpointError": """
from edi_checkpoint import EdiCheckpointError

try:
    session.rollback("no_such_checkpoint.json")
except EdiCheckpointError as error:  # any error of this package
    print(error.code)  # not_found
    session["last_error"] = f"{error}; {error.hint}"
""",
    "StateValueError": """
from edi_checkpoint import StateValueError

try:
    session["validation"] = {"score": float("nan")}
except StateValueError as error:
    print(str(error).split(":")[0], "validation" in session)  # validation.score False
""",
    "UsageError": """
from edi_checkpoint import UsageError

try:
    session.flush("sometime")
except UsageError as error:
    print(error.code)  # usage
""",
    "SessionIdError": """
from edi_checkpoint import SessionIdError

try:
    client.session("../elsewhere")
except SessionIdError as error:
    print(error.code)  # session_id
""",
    "NotFound": """
from edi_checkpoint import NotFound

try:
    session.at(sequence=1_000_000)
except NotFound as error:
    print(error.code)  # not_found
""",
    "SessionBusy": """
import os

from edi_checkpoint import SessionBusy

try:
    connect().session(session.session_id)  # `session` writes to it
except SessionBusy as error:
    print(error.pid == os.getpid())  # True
""",
    "Fenced": """
from edi_checkpoint import Fenced

try:
    session.checkpoint("stage_done")
except Fenced as error:  # another writer took the session over: follow it in a session of one's own
    print(error.code)  # fenced
    session = client.session(parent=session.session_id)
""",
    "SessionForked": """
import os

from edi_checkpoint import SessionForked

child = os.fork()
if child == 0:  # a child process opens a client of its own instead
    try:
        session["progress"] = 50
    except SessionForked:
        os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))  # 3
""",
    "SessionClosed": """
from edi_checkpoint import SessionClosed

session.close()
try:
    session["progress"] = 50
except SessionClosed as error:
    print(error.code)  # session_closed
""",
    "FlushTimeout": """
from edi_checkpoint import FlushTimeout

try:
    session.checkpoint("stage_done", timeout_s=0.1)
except FlushTimeout as error:  # the request is on the disk, so there is nothing to repeat
    print(error.code)  # flush_timeout
""",
    "CheckpointFailed": """
from edi_checkpoint import CheckpointFailed

try:
    session.checkpoint("stage_done")
except CheckpointFailed as error:  # the entries are safe in the journal, the checkpoint's file is not there
    print(error.code)  # checkpoint_failed
""",
    "OutboxFull": """
from edi_checkpoint import OutboxFull

try:
    for number in range(6):
        session["prompts"] = [f"{number} {'words ' * 200_000}"]  # 1.2 MB each
except OutboxFull as error:  # the last assignment published nothing, the ones before it are kept
    print(error.code)  # outbox_full
""",
    "DaemonUnavailable": """
from edi_checkpoint import DaemonUnavailable

try:
    session.at(sequence=1)
except DaemonUnavailable as error:  # a daemon has to read the journal
    print(error.code)  # daemon_unavailable
""",
    "WrongFolder": """
import logging

logging.basicConfig()  # no call raises it: the client logs it and goes on as without a daemon
client = connect(autostart=False)
print(client.connected)  # False
""",
    "ProtocolError": """
from edi_checkpoint import ProtocolError
from edi_checkpoint.protocol import decode_from_daemon

try:
    decode_from_daemon(b"GET / HTTP/1.1")
except ProtocolError as error:
    print(error.code)  # protocol
""",
    "VersionMismatch": """
from edi_checkpoint import VersionMismatch
from edi_checkpoint.protocol import GetStatus, decode_from_daemon, encode

frame = bytearray(encode(GetStatus(1)))
frame[4] = 99  # the wire version
try:
    decode_from_daemon(bytes(frame))
except VersionMismatch as error:
    print(error.code)  # version_mismatch
""",
    "AttachmentMissing": """
from edi_checkpoint import AttachmentMissing

try:
    mask = session["mask"]
except AttachmentMissing as error:
    print(error.code)  # attachment_missing
    session["mask"] = b"drawn again"
""",
    "AttachmentDamaged": """
from edi_checkpoint import AttachmentDamaged

try:
    mask = session["mask"]
except AttachmentDamaged as error:
    print(error.code)  # attachment_damaged
    session["mask"] = b"drawn again"
""",
    "AttachmentsFull": """
from edi_checkpoint import AttachmentsFull

try:
    session["picture"] = bytes(3_000_000)
except AttachmentsFull as error:
    print(error.code, "picture" in session)  # attachments_full False
""",
    "ArraysMissing": """
from edi_checkpoint import ArraysMissing

try:
    mask = session["mask"]
except ArraysMissing as error:  # numpy is not installed
    print(error.hint)  # install the extra `arrays` from the clone: pip install '.[arrays]'
""",
}
