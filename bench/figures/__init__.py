"""The figures by theme: each function takes a `Place`, measures in interleaved rounds, and returns rows."""
