"""The journal: every accepted entry, in order, durable before it is acknowledged.

Rows hold records as they came over the wire, one row for each frame. Sequences rise by one within a session and are
never reused. Never interprets an entry. The only importer of apsw.

SQLite's own words are said with "SQLite" or "WAL": a *checkpoint* is EDI's file, here as everywhere.

    schema    what a row is, and what is wrong with a file that is no journal
    reader    reading, on any connection
    witness   tells when acknowledged rows are missing
    writer    the one connection that writes: commit, and keeping it small
"""

from edi_checkpointd.journal.reader import Reader as Reader
from edi_checkpointd.journal.reader import begun as begun
from edi_checkpointd.journal.schema import Fence as Fence
from edi_checkpointd.journal.schema import Frame as Frame
from edi_checkpointd.journal.schema import GapRow as GapRow
from edi_checkpointd.journal.schema import JournalDamaged as JournalDamaged
from edi_checkpointd.journal.schema import JournalRefused as JournalRefused
from edi_checkpointd.journal.schema import Notes as Notes
from edi_checkpointd.journal.schema import SessionRow as SessionRow
from edi_checkpointd.journal.schema import Shown as Shown
from edi_checkpointd.journal.schema import check_sqlite as check_sqlite
from edi_checkpointd.journal.schema import named_damage as named_damage
from edi_checkpointd.journal.witness import WitnessMark as WitnessMark
from edi_checkpointd.journal.witness import read_witness as read_witness
from edi_checkpointd.journal.witness import witness_path as witness_path
from edi_checkpointd.journal.writer import Journal as Journal
from edi_checkpointd.journal.writer import Transaction as Transaction
from edi_checkpointd.journal.writer import sound_sqlite as sound_sqlite
