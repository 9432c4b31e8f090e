"""Metrics, each declared once."""
