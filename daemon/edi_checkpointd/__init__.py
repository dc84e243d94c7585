"""The daemon of edi-checkpoint and the command that looks and goes back."""
