"""Rewards by name, and those of a person's own."""
