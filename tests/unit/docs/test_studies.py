"""The studies' pages and pictures are those of their rows."""

from pathlib import Path

import pytest

from asyncds.compare.pages import made

STUDIES = Path(__file__).parents[3] / "docs" / "studies"


@pytest.mark.parametrize("rows", sorted(STUDIES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_pages_are_up_to_date(rows: Path) -> None:
    for file, text in made(rows.with_suffix(".md")).items():
        assert file.read_text() == text, f"{file.name} is old: `make study-pages` makes it anew"


def test_every_study_has_rows_and_a_page() -> None:
    configs = STUDIES.parents[1] / "configs" / "studies"
    names = {path.stem for path in configs.glob("*.yaml")}
    assert {path.stem for path in STUDIES.glob("*.jsonl")} <= names
    assert {path.stem for path in STUDIES.glob("*.md")} == names | {"README", "design"}
