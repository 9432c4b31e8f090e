"""Docstrings begin with what they are about: a head word or a verb, read without the line above."""

import ast

from tests.house.measure import House

HEADLESS = {
    *("After", "As", "At", "Before", "Between", "Beyond", "By", "For", "From", "In", "It", "Its"),
    *("Not", "Of", "So", "Such", "That", "Their", "There", "These", "They", "This", "Those", "To"),
    *("Under", "Until", "What", "Which", "While", "Who", "With", "Within", "Without"),
}
"""Words that lean on others: prepositions, pronouns and their like."""


def headless(tree: ast.AST) -> list[tuple[int, str]]:
    """Lines and first words of docstrings of modules, classes and functions that lean on others."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = (ast.get_docstring(node) or "").split()
            if words and (first := words[0].rstrip(".,:;")) in HEADLESS:
                found.append((node.body[0].lineno, first))
    return found


def test_docstrings_begin_with_a_head_word() -> None:
    assert [
        f"{module.path}:{line}: {word} …"
        for module in House.read().modules.values()
        for line, word in headless(module.tree)
    ] == []


def test_what_leans_on_other_words_is_found() -> None:
    source = (
        '"""Of the run."""\n'
        'class A:\n    """The lease."""\n'
        '    def f(self):\n        """Those, of it."""\n'
        "    def g(self): pass\n"
    )
    assert headless(ast.parse(source)) == [(1, "Of"), (5, "Those")]
