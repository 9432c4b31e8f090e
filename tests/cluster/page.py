"""The commands of docs/kubernetes.md, as they stand there."""

import re
import shlex

from tests.support.paths import ROOT

PAGE = ROOT / "docs/kubernetes.md"
SECTIONS = ("Install", "Day by day")
NOT_HERE = ("make image",)
"""Beginnings of those that a machine without a container engine can't run."""


def commands() -> list[str]:
    """Those of a release's life, in the page's order."""
    found: list[str] = []
    for section in SECTIONS:
        (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## )", PAGE.read_text("utf-8"), re.M | re.S)
        (block,) = re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
        found += [line for line in block.splitlines() if line]
    return found


def command(*beginning: str) -> str:
    """The one that begins with these words."""
    (found,) = [
        line for line in commands() if shlex.split(line)[: len(beginning)] == list(beginning)
    ]
    return found
