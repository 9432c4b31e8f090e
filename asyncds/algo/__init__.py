"""Objectives: advantages, losses and corrections, each with its options; their sum over tensors."""
