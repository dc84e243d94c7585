"""The inspection: whether what lies on disk is what was written, told from the files alone; nothing is changed.

Safe beside a running daemon and living writers, because what they do is seen whole (a rename, a transaction) or known
to be theirs (a held lock, a temporary). What is seen in between, a file listed and gone, is looked at a second time:
motion has passed by then, and damage has not.

    findings    what is found, how bad that is, and what the whole amounts to
    journal     SQLite's own check, the witness, each session's rows, snapshots and gaps
    documents   checkpoints, auto-saves, and the attachments that they name
    outboxes    segments, lock files, and what does not belong there
    places      owners, modes, links, and temporaries
    examine     all of these, for `edi-checkpointd check` and `edi-checkpoint verify`
    words       a report as people read it
"""

from edi_checkpointd.inspection.examine import check as check
from edi_checkpointd.inspection.examine import verify as verify
from edi_checkpointd.inspection.findings import EXIT_CODES as EXIT_CODES
from edi_checkpointd.inspection.findings import Code as Code
from edi_checkpointd.inspection.findings import Finding as Finding
from edi_checkpointd.inspection.findings import Report as Report
from edi_checkpointd.inspection.findings import Result as Result
from edi_checkpointd.inspection.findings import Severity as Severity
