"""The documented path of `edi_checkpoint.documents.named_files`, whose text is the page's."""

from edi_checkpoint.documents import named_files as _named_files
from edi_checkpoint.documents.named_files import *  # noqa: F403

__doc__ = _named_files.__doc__
