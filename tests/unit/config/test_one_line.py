import pytest

from asyncds.config.one_line import one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("it is gone\nand more", "it is gone"),
        (
            "\n  bad for X:\n\n  5 layers, 4 types\nat line 3",
            "bad for X: 5 layers, 4 types",
        ),
        ("a:\nb:\nc", "a: b: c"),
        ("a:", "a:"),
        ("", "ValueError"),
        (" \n", "ValueError"),
    ],
)
def test_an_error_in_one_line(text: str, line: str) -> None:
    assert one_line(ValueError(text)) == line
