"""A task whose answers are programs, judged by running them."""
