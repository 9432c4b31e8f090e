"""The walks of CONTRIBUTING.md name files and functions that are there."""

import ast
import re

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
WALKS = PAGE.split("## A newcomer's walk\n")[1].split("\n## ")[0]
STEPS = re.findall(r"^\d+\. `([\w/.]+)`, `(\w+)`:", WALKS, re.M)
MOST_STEPS = 12


def test_every_step_has_a_file_and_a_name_and_no_walk_is_long() -> None:
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", WALKS, re.M)]
    assert len(numbers) == len(STEPS)
    assert numbers.count(1) == 4
    assert max(numbers) <= MOST_STEPS


@pytest.mark.parametrize(("path", "name"), STEPS)
def test_a_step_is_in_its_file(path: str, name: str) -> None:
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    named = {
        n.name
        for n in nodes
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assigned = {
        n.target.id
        for n in nodes
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    assert name in named | assigned
