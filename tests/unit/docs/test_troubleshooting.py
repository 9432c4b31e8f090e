"""docs/troubleshooting.md quotes messages that asyncds really has."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
VARIES = "…"


def quoted() -> list[str]:
    """Code spans of the first column of every table."""
    cells = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]


@cache
def messages() -> str:
    """All texts in the source, one per line; what is put into them is `VARIES`."""
    found = set()
    for package in ("asyncds", "services"):
        for path in (ROOT / package).rglob("*.py"):
            found |= set(_texts(ast.parse(path.read_text())))
    shell = "\n".join(p.read_text() for p in (ROOT / "deploy" / "install").glob("*.sh"))
    return "\n".join(found).replace("`", "") + shell


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else VARIES for p in node.values]
            yield "".join(map(str, parts)).replace("\n", " ")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[-.0-9,]*[a-z]", VARIES, node.value).replace("\n", " ")
        yield from _texts(node)


@pytest.mark.parametrize("message", quoted())
def test_a_message_that_is_quoted_is_in_the_source(message: str) -> None:
    parts = [re.escape(part) for part in message.split(VARIES)]
    assert re.search(".*".join(parts), messages()), message
