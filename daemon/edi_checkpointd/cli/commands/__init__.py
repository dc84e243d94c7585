"""The commands of `edi-checkpoint`, by subject."""
