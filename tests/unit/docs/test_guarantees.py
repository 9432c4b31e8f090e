"""docs/guarantees.md points to what is there; whether a test holds what it says, it can't show."""

import re
from pathlib import Path

import pytest

from asyncds.config.schema import RunConfig
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "guarantees.md"


def rows() -> list[str]:
    """Those of the first table."""
    lines = PAGE.read_text().split("\n## ")[0].splitlines()
    return [line for line in lines if line.startswith("| **")]


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE.read_text())
    assert links
    assert [link for link in links if not (PAGE.parent / link).is_file()] == []


@pytest.mark.parametrize("row", rows())
def test_every_guarantee_is_held_by_a_test(row: str) -> None:
    tests = re.findall(r"\]\(\.\./(tests/[^)]+)\)", row)
    assert tests
    assert all(Path(test).name.startswith("test_") for test in tests)


def test_every_setting_it_names_exists() -> None:
    sections = RunConfig.model_fields
    named = re.findall(r"`([a-z]+)\.([a-z_]+)`", PAGE.read_text())
    assert named
    for section, field in named:
        if section in sections:
            assert field in sections[section].annotation.model_fields, f"{section}.{field}"
