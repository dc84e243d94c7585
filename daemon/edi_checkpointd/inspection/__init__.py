"""The inspection: find damaged, missing and foreign files by reading only; it changes nothing.

It is safe while a daemon and writers run: their changes are atomic (a rename, a transaction) or recognisable (a held
lock, a temporary file). If a file changes between two reads, a false finding can arise. So everything is read a second
time if there are findings: damage is found twice, a change in progress only once.

    findings    what is found, its severity, and the overall result
    journal     SQLite's own check, the witness, each session's rows, snapshots and gaps
    documents   checkpoints, auto-saves, and the attachments that they name
    outboxes    segments, lock files, and files that do not belong there
    folders     owners, modes, links, and temporary files
    check       all of these, for `edi-checkpointd check` and `edi-checkpoint verify`
    report      a report as text and as JSON
"""
