"""The processes in which tasks judge completions."""
