"""A task that is a data set and a reward."""
