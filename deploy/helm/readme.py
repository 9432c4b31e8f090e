"""Writes the chart's README.md: every value with its default, from the comments of values.yaml.

python deploy/helm/readme.py
"""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

CHART = Path(__file__).parent / "asyncds"

HEAD = """# The Helm chart of asyncds

One release is one run. [docs/kubernetes.md](../../../docs/kubernetes.md) says how to install it and
what was tested; `values-examples` has whole sets of values. A pool under `generators.pools` may set
everything that `generators.defaults` has.

This page is written by `python deploy/helm/readme.py`.

| value | default | |
|---|---|---|
"""


def readme() -> str:
    """The page."""
    text = (CHART / "values.yaml").read_text()
    rows = [f"| `{path}` | `{default}` | {about} |\n" for path, default, about in values(text)]
    return HEAD + "".join(rows)


def values(text: str) -> Iterator[tuple[str, str, str]]:
    """Path, default and comment of every value that is no mapping with comments of its own.

    Raises ValueError: a value has no comment above it.
    """
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from _walk(root, lines, "")


def _walk(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        path = prefix + key.value
        comment = _comment(lines, key.start_mark.line)
        if not comment and path != "generators.pools.main":
            raise ValueError(f"{path} in values.yaml has no comment above it: write one")
        inner = isinstance(value, yaml.MappingNode) and value.value
        if inner and _comment(lines, value.value[0][0].start_mark.line) not in ("", comment):
            yield from _walk(value, lines, f"{path}.")
        else:
            yield path, json.dumps(yaml.SafeLoader("").construct_document(value)), comment


def _comment(lines: list[str], line: int) -> str:
    """The comment right above a line."""
    first = line
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(part.strip().removeprefix("#").strip() for part in lines[first:line])


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme())
