"""Records: one entry's bytes with number and checksum, the same in an outbox, a wire frame and a journal row.

`docs/format.md`, Records, shows the layout. Numbers rise within a stream; they are consecutive unless a compaction
shortened the outbox. No function here interprets the entry bytes.

Example:
    from edi_checkpoint.records import pack, scan

    torn = pack(1, b"first") + pack(2, b"second")[:-1]
    print([(record.number, record.entry) for record in scan(torn)])  # [(1, b'first')]
"""

from edi_checkpoint.wire.records import *  # noqa: F403
