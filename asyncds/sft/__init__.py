"""Supervised training on answers, with the learner's engine."""
