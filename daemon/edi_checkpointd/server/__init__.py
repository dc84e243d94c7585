"""The server: it assembles the parts, runs the loop, and answers clients."""
