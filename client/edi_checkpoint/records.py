"""The documented path of `edi_checkpoint.wire.records`."""

from edi_checkpoint.wire import records as _records
from edi_checkpoint.wire.records import ENTRY_MAX_BYTES as ENTRY_MAX_BYTES
from edi_checkpoint.wire.records import HEADER as HEADER
from edi_checkpoint.wire.records import NUMBER_MAX as NUMBER_MAX
from edi_checkpoint.wire.records import Record as Record
from edi_checkpoint.wire.records import entries as entries
from edi_checkpoint.wire.records import head as head
from edi_checkpoint.wire.records import pack as pack
from edi_checkpoint.wire.records import scan as scan
from edi_checkpoint.wire.records import scan_all as scan_all
from edi_checkpoint.wire.records import whole as whole

__doc__ = _records.__doc__
