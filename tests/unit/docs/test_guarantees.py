"""docs/guarantees.md points to what is there; whether a test holds what it says, it can't show."""

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "guarantees.md"


def rows() -> list[str]:
    """Those of the first table."""
    lines = PAGE.read_text().split("\n## ")[0].splitlines()
    return [line for line in lines if line.startswith("| **")]


@pytest.mark.parametrize("row", rows())
def test_every_guarantee_is_held_by_a_test(row: str) -> None:
    tests = re.findall(r"\]\(\.\./(tests/[^)]+)\)", row)
    assert tests
    assert all(Path(test).name.startswith("test_") for test in tests)
