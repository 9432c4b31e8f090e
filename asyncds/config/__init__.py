"""Every option: its default, bounds and documentation."""
