"""Wrappers of vLLM and DeepSpeed."""
