"""Traces of leases and weight syncs."""
