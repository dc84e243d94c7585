"""`python -m edi_checkpointd.cli`: the command where no script is installed."""

from __future__ import annotations

import sys

from edi_checkpointd.cli import main

if __name__ == "__main__":
    sys.exit(main())
