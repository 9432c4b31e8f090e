"""A place where programs that a model wrote can run and do no harm."""
