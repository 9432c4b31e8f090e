"""What an option class is, and how one of several kinds is chosen."""
