"""Rollouts as people look at them."""
