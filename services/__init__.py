"""The processes of a run, which wire the rooms together."""
