"""Mathematics with an answer that can be compared."""
