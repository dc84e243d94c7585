"""The documented path of `edi_checkpoint.documents.named_files`."""

from edi_checkpoint.documents import named_files as _named_files
from edi_checkpoint.documents.named_files import ALIKE_MAX as ALIKE_MAX
from edi_checkpoint.documents.named_files import BESIDE_MAX as BESIDE_MAX
from edi_checkpoint.documents.named_files import DIGESTED_MAX_BYTES as DIGESTED_MAX_BYTES
from edi_checkpoint.documents.named_files import KEYS as KEYS
from edi_checkpoint.documents.named_files import PATH_MAX_BYTES as PATH_MAX_BYTES
from edi_checkpoint.documents.named_files import FileFacts as FileFacts
from edi_checkpoint.documents.named_files import Identity as Identity
from edi_checkpoint.documents.named_files import Now as Now
from edi_checkpoint.documents.named_files import compare as compare
from edi_checkpoint.documents.named_files import look as look
from edi_checkpoint.documents.named_files import look_around as look_around
from edi_checkpoint.documents.named_files import look_in_time as look_in_time
from edi_checkpoint.documents.named_files import paths_in as paths_in

__doc__ = _named_files.__doc__
