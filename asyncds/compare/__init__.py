"""Runs compared: one table of group, setting and metric, its pages and charts."""
