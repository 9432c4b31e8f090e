"""Tiny base models, made on a CPU in minutes."""
