"""Sending weights into running engines, and verifying them."""
