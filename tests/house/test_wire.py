"""Every field of every message is read by somebody: what nobody reads need not be sent.

A field counts as read where a variable of its message's type has the attribute read, outside of the
declarations: a parameter or variable that is annotated with the class, one that `isinstance` or a
`match` has narrowed to it, or a keyword of a class pattern.
"""

import ast
from collections.abc import Iterator

import pytest

from tests.house.measure import House

WIRE = "asyncds.protocol.wire"
Fields = set[tuple[str, str]]
Functions = (ast.FunctionDef, ast.AsyncFunctionDef)


def declared(tree: ast.Module) -> dict[str, list[str]]:
    """The fields of each class, by its name."""
    return {
        node.name: [
            each.target.id
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        ]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def named(node: ast.AST) -> set[str]:
    """Names in an annotation or a pattern, without their modules."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {
        n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
    }


def attributes(scope: ast.AST, variable: str) -> Iterator[str]:
    """Attributes of a variable that are read."""
    for n in ast.walk(scope):
        match n:
            case ast.Attribute(value=ast.Name(id=name), ctx=ast.Load()) if name == variable:
                yield n.attr


def typed(function: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """Variables of a function with the classes that they may be of."""
    for n in ast.walk(function):
        match n:
            case ast.arg(arg=name, annotation=ast.AST() as annotation):
                yield name, named(annotation)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                yield name, named(annotation)
            case ast.Call(func=ast.Name(id="isinstance"), args=[ast.Name(id=name), kinds]):
                yield name, named(kinds)


def matched(statement: ast.Match) -> Iterator[tuple[str, str]]:
    """(class, field) that a `match` reads, in its patterns and in what follows from them."""
    for case in statement.cases:
        for pattern in ast.walk(case.pattern):
            if isinstance(pattern, ast.MatchClass):
                for kind in named(pattern.cls):
                    yield from ((kind, field) for field in pattern.kwd_attrs)
            if isinstance(pattern, ast.MatchAs) and pattern.name and pattern.pattern:
                for kind in named(pattern.pattern):
                    for each in case.body:
                        yield from ((kind, field) for field in attributes(each, pattern.name))
        if isinstance(statement.subject, ast.Name):
            for kind in named(case.pattern):
                for each in (case.guard, *case.body):
                    if each is not None:
                        found = attributes(each, statement.subject.id)
                        yield from ((kind, field) for field in found)


def read(tree: ast.AST) -> Fields:
    found: Fields = set()
    for node in ast.walk(tree):
        if isinstance(node, Functions):
            for variable, kinds in typed(node):
                found |= {(kind, a) for kind in kinds for a in attributes(node, variable)}
        if isinstance(node, ast.Match):
            found |= set(matched(node))
    return found


def test_every_field_of_a_message_has_a_reader() -> None:
    house = House.read()
    found: Fields = set()
    for name, module in house.modules.items():
        if name != WIRE:
            found |= read(module.tree)
    unread = [
        f"{kind}.{field}"
        for kind, fields in declared(house.modules[WIRE].tree).items()
        for field in fields
        if (kind, field) not in found
    ]
    assert unread == [], "remove them, or have somebody read them"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(m: wire.A | B): return m.x", {("A", "x"), ("B", "x")}),
        ("def f(m: A): m.x = 1", set()),
        ("def f(m: A, other): return other.x", set()),
        ("def f(m):\n if isinstance(m, A): return m.x", {("A", "x")}),
        ("match m:\n case wire.A(x=y): pass", {("A", "x")}),
        ("match m:\n case A() | B() as b: print(b.x)", {("A", "x"), ("B", "x")}),
        ("match m:\n case A() if m.x: pass\n case B(): pass", {("A", "x")}),
    ],
)
def test_what_counts_as_reading(source: str, expected: Fields) -> None:
    found = {(kind, field) for kind, field in read(ast.parse(source)) if kind in "AB"}
    assert found == expected
