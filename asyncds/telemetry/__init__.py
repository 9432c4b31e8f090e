"""Metrics, reports, pages, trackers and traces."""
