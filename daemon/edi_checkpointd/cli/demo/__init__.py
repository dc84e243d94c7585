"""The command `demo`: it kills a session and brings it back."""
