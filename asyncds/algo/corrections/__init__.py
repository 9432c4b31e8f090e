"""One off-policy correction a file: its options, its formula, its source. Nothing imports torch."""
