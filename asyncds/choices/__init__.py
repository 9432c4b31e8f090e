"""Option classes, and the choice of one of several kinds."""
