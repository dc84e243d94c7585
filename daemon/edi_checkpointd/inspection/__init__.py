"""The inspection: find damaged, missing and foreign files by reading only; it changes nothing.

It is safe while a daemon and writers run: their changes are atomic (a rename, a transaction) or recognisable (a held
lock, a temporary file). If a file changes between two reads, a false finding can arise. So everything is read a second
time if there are findings: damage is found twice, a change in progress only once.

    findings    what is found, its severity, and the overall result
    journal     SQLite's own check, the witness, each session's rows, snapshots and gaps
    documents   checkpoints, auto-saves, and the attachments that they name
    outboxes    segments, lock files, and files that do not belong there
    places      owners, modes, links, and temporary files
    examine     all of these, for `edi-checkpointd check` and `edi-checkpoint verify`
    words       a report as text and as JSON
"""

from edi_checkpointd.inspection.examine import check as check
from edi_checkpointd.inspection.examine import verify as verify
from edi_checkpointd.inspection.findings import EXIT_CODES as EXIT_CODES
from edi_checkpointd.inspection.findings import Code as Code
from edi_checkpointd.inspection.findings import Finding as Finding
from edi_checkpointd.inspection.findings import Report as Report
from edi_checkpointd.inspection.findings import Result as Result
from edi_checkpointd.inspection.findings import Severity as Severity
