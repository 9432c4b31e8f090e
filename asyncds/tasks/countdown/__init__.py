"""Countdown: reach a number with the numbers that are given."""
