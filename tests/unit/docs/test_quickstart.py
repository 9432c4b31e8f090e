"""The picture on README's first screen is that of the table it is drawn from."""

from benchmarks.quickstart_picture import DOCS, draw


def test_the_picture_is_that_of_the_table() -> None:
    drawn = draw((DOCS / "quickstart.md").read_text())
    assert (DOCS / "quickstart.svg").read_text() == drawn, "python -m benchmarks.quickstart_picture"
    assert drawn.count('<rect class="bar"') == 12
