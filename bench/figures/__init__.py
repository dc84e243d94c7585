"""The figures by theme. Each function gets a `Place`, measures in interleaved rounds, and returns rows."""
