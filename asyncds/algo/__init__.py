"""Objectives: advantages, losses and corrections on tensors."""
