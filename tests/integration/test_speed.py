"""Ratios of two ways to do the same in one process, for a clear loss of speed to be noticed."""

import statistics
from pathlib import Path

import pytest
import torch

from asyncds.tiny.model import save_untrained
from benchmarks.learner_step import CASES, measure

pytestmark = pytest.mark.slow

SHORT = next(iter(CASES))


def test_an_update_of_short_completions_is_faster_than_in_plain_pytorch(tmp_path: Path) -> None:
    """1.9 where it was measured: below 1.3 something is lost, whatever the load."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    save_untrained(tmp_path / "model")
    try:
        rows = measure(SHORT, tmp_path / "model", 5)
    finally:
        torch.set_num_threads(threads)
    ours, _, plain = (statistics.median(row.values) for row in rows)
    assert plain / ours > 1.3
