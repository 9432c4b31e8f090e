"""What a run would need and reach, computed from its configuration and the model's shape alone."""
