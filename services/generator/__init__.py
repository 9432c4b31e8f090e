"""The generator's process."""
