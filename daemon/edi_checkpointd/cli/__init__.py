"""The command `edi-checkpoint`."""
