"""Pure state machines: the health of generators, and weight syncs."""
