"""The commands of `asyncds`."""
