"""Names that an installed package declares, read from its source without importing it."""

import ast
from importlib.util import find_spec
from pathlib import Path


def fields_of(package: str, file: str, classes: tuple[str, ...]) -> frozenset[str]:
    """The annotated fields of classes in a file of a package; none where they are not found."""
    return frozenset(
        field.target.id
        for node in _module(package, file)
        if isinstance(node, ast.ClassDef) and node.name in classes
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )


def keys_of(package: str, file: str, table: str) -> frozenset[str]:
    """The keys of ``table = OrderedDict([(key, …), …])``; none where it is not found."""
    for node in _module(package, file):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not (isinstance(target, ast.Name) and target.id == table):
            continue
        pairs = [n for n in ast.walk(node) if isinstance(n, ast.Tuple) and len(n.elts) == 2]
        first = [pair.elts[0] for pair in pairs]
        return frozenset(str(n.value) for n in first if isinstance(n, ast.Constant))
    return frozenset()


def _module(package: str, file: str) -> list[ast.stmt]:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return []
    path = Path(spec.submodule_search_locations[0]) / file
    try:
        return ast.parse(path.read_text("utf-8")).body
    except (OSError, SyntaxError):
        return []
