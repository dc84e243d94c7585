"""The journal: the daemon's durable log of entries, in SQLite.

A row holds the records of one frame as they came over the wire. Sequences rise by one within a session and are never
reused. The journal does not interpret entries. Only this package imports apsw.

*Checkpoint* always means EDI's file; SQLite's own is called a "WAL checkpoint".

    schema    the tables, their rows, and the checks of a file that should be a journal
    reader    reads, on any connection
    witness   notes outside the database how many rows were acknowledged
    writer    the one connection that writes: commits, trimming, deletion
"""

from edi_checkpointd.journal.reader import Reader as Reader
from edi_checkpointd.journal.reader import journal_exists as journal_exists
from edi_checkpointd.journal.schema import Fence as Fence
from edi_checkpointd.journal.schema import Frame as Frame
from edi_checkpointd.journal.schema import GapRow as GapRow
from edi_checkpointd.journal.schema import JournalDamaged as JournalDamaged
from edi_checkpointd.journal.schema import JournalRefused as JournalRefused
from edi_checkpointd.journal.schema import Notes as Notes
from edi_checkpointd.journal.schema import SessionRow as SessionRow
from edi_checkpointd.journal.schema import Shown as Shown
from edi_checkpointd.journal.schema import named_damage as named_damage
from edi_checkpointd.journal.witness import WitnessMark as WitnessMark
from edi_checkpointd.journal.witness import read_witness as read_witness
from edi_checkpointd.journal.witness import witness_path as witness_path
from edi_checkpointd.journal.writer import Journal as Journal
from edi_checkpointd.journal.writer import Transaction as Transaction
from edi_checkpointd.journal.writer import sound_sqlite as sound_sqlite
