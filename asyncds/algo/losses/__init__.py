"""One policy loss a file: its options, its formula, its source. docs/algorithms.md compares them.

Nothing here imports torch, which the configuration must be read without: losses call methods of the
tensors that they are given.
"""
