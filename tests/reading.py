"""Reads a home without a daemon: `reading.py SESSION …` prints one line of JSON.

The line has the entries of each session in the journal, with their values.
"""

from __future__ import annotations

import json
import sys

import msgspec

from edi_checkpoint.system.paths import locate
from edi_checkpoint.wire.entries import decode_entry
from edi_checkpoint.wire.records import scan_all
from edi_checkpointd.journal import Reader


def entries(reader: Reader, session_id: str) -> list[dict[str, object]]:
    row = reader.session(session_id)
    found = []
    for frame in reader.frames(row.key, after=0) if row else ():
        for sequence, record in enumerate(scan_all(frame.records), start=frame.first):
            entry = decode_entry(record.entry)
            texts = getattr(entry, "changed", None) or getattr(entry, "state", None) or {}
            found.append(
                {
                    "sequence": sequence,
                    "op": type(entry).__name__.lower(),
                    "values": {key: msgspec.json.decode(text) for key, text in texts.items()},
                }
            )
    return found


if __name__ == "__main__":
    reader = Reader.open(locate().journal)
    print(json.dumps({session_id: entries(reader, session_id) for session_id in sys.argv[1:]}))
