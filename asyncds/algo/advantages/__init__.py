"""One advantage a file: its options, its formula, its source. docs/algorithms.md compares them."""
