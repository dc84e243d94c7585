"""The documented path of `edi_checkpoint.documents.named_files`."""

from edi_checkpoint.documents.named_files import ALIKE_MAX as ALIKE_MAX
from edi_checkpoint.documents.named_files import BESIDE_MAX as BESIDE_MAX
from edi_checkpoint.documents.named_files import DIGESTED_MAX_BYTES as DIGESTED_MAX_BYTES
from edi_checkpoint.documents.named_files import KEYS as KEYS
from edi_checkpoint.documents.named_files import PATH_MAX_BYTES as PATH_MAX_BYTES
from edi_checkpoint.documents.named_files import FileFacts as FileFacts
from edi_checkpoint.documents.named_files import Identity as Identity
from edi_checkpoint.documents.named_files import Now as Now
from edi_checkpoint.documents.named_files import check_files as check_files
from edi_checkpoint.documents.named_files import check_files_within as check_files_within
from edi_checkpoint.documents.named_files import compare as compare
from edi_checkpoint.documents.named_files import facts_of as facts_of
from edi_checkpoint.documents.named_files import paths_in as paths_in
