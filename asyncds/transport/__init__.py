"""ZeroMQ links, their keys, and who is let in."""
