"""Figures of the house, read from the source without running it: ``python -m tests.house.measure``.

Sizes, wide classes and constructors, complexity, and which file and which room knows which. A
*room* is a package of ``asyncds`` or one of the ``services``.
"""

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]
PACKAGES = ("asyncds", "services")
ROOMS = (
    *("user_code", "choices", "algo", "config", "protocol", "rollout", "fleet", "transport"),
    *(
        "weights",
        "engine",
        "plan",
        "sandbox",
        "tasks",
        "scoring",
        "tiny",
        "telemetry",
        "compare",
        "launch",
        "sft",
        "cli",
    ),
    "services",
)
"""The rooms from the ground up: each may know those before it here, and nobody after."""
PURE_ROOMS = ("choices", "algo", "config", "protocol", "rollout", "fleet", "plan")
WORLD = {
    *("asyncio", "multiprocessing", "psutil", "ray", "signal", "subprocess", "threading", "time"),
    *("fcntl", "http", "socket", "sqlite3", "urllib.request", "zmq"),
}
"""Modules of processes, sockets and clocks, which pure rooms do not know."""
N = TypeVar("N", bound=ast.AST)
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name, path from the root, text and syntax tree."""

    name: str
    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def room(self) -> str:
        """``asyncds.algo.losses`` is in ``algo``; ``services.learner.main`` in ``services``."""
        package, *rest = self.name.split(".")
        return rest[0] if package == "asyncds" and rest else package


@dataclass(frozen=True)
class Found:
    """Something measured: where it is, and how large."""

    place: str
    size: int

    def __str__(self) -> str:
        return f"{self.size:5d}  {self.place}"


@dataclass(frozen=True)
class House:
    """The modules of the house, and what is measured of them. Lists begin with the largest."""

    modules: dict[str, Module] = field(repr=False)

    @classmethod
    def read(cls, root: Path = ROOT) -> "House":
        modules = {}
        for path in sorted(p for package in PACKAGES for p in (root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = Module(name, str(path.relative_to(root)), path.read_text())
        return cls(modules)

    @property
    def files(self) -> list[Found]:
        return _sorted(Found(module.path, module.lines) for module in self.modules.values())

    @property
    def classes(self) -> list[Found]:
        """Attributes that the methods of each class set on ``self``."""
        return _sorted(
            Found(f"{module.path}:{node.name}", len(_attributes_set(node)))
            for module, node in self._nodes(ast.ClassDef)
        )

    @property
    def constructors(self) -> list[Found]:
        """Arguments of each ``__init__``, without ``self``."""
        return _sorted(
            Found(f"{module.path}:{node.name}", _arguments(method))
            for module, node in self._nodes(ast.ClassDef)
            for method in node.body
            if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        )

    @property
    def functions(self) -> list[Found]:
        """Lines of each function."""
        return _sorted(
            Found(f"{module.path}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
            for module, node in self._nodes(ast.FunctionDef, ast.AsyncFunctionDef)
        )

    @cached_property
    def imports(self) -> Graph:
        """Which module of the house each imports, anywhere but for type checkers alone."""
        return {
            name: {
                known
                for target in _imported(module.tree)
                if (known := _longest(target, self.modules)) and known != name
            }
            for name, module in self.modules.items()
        }

    @property
    def file_cycles(self) -> list[list[str]]:
        return _cycles(self.imports)

    @property
    def room_cycles(self) -> list[list[str]]:
        graph: Graph = {module.room: set() for module in self.modules.values()}
        for name, targets in self.imports.items():
            room = self.modules[name].room
            graph[room] |= {self.modules[target].room for target in targets} - {room}
        return _cycles(graph)

    @property
    def arrows_up(self) -> list[str]:
        """``importer -> imported`` where a room knows one above it."""
        height = {room: level for level, room in enumerate(ROOMS)}
        return sorted(
            f"{name} -> {target}"
            for name, targets in self.imports.items()
            for target in targets
            if (here := height.get(self.modules[name].room)) is not None
            and here < height.get(self.modules[target].room, here)
        )

    @property
    def impurities(self) -> list[str]:
        """``module -> library`` where a pure room knows a process, a socket or a clock."""
        return sorted(
            f"{name} -> {target}"
            for name, module in self.modules.items()
            if module.room in PURE_ROOMS
            for target in {_longest(found, WORLD) for found in _imported(module.tree)}
            if target
        )

    @property
    def without_room(self) -> list[str]:
        return sorted({module.room for module in self.modules.values()} - {*ROOMS, "asyncds"})

    def _nodes(self, *kinds: type[N]) -> Iterator[tuple[Module, N]]:
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if isinstance(node, kinds):
                    yield module, node


def complexities(root: Path = ROOT) -> list[Found]:
    """McCabe's cyclomatic complexity of every function, as ruff counts it."""
    rule = ["--isolated", "--select", "C901", "--config", "lint.mccabe.max-complexity = 0"]
    command = [sys.executable, "-m", "ruff", "check", *rule, "--output-format", "json", *PACKAGES]
    found = json.loads(subprocess.run(command, cwd=root, capture_output=True).stdout)
    return _sorted(
        Found(
            f"{Path(one['filename']).relative_to(root)}:{one['message'].split('`')[1]}",
            int(one["message"].split("(")[1].split()[0]),
        )
        for one in found
    )


def _sorted(found: Iterable[Found]) -> list[Found]:
    return sorted(found, key=lambda one: (-one.size, one.place))


def _attributes_set(node: ast.ClassDef) -> set[str]:
    """Names that follow ``self.`` on the left of an assignment."""
    return {
        target.attr
        for target in ast.walk(node)
        if isinstance(target, ast.Attribute)
        and isinstance(target.ctx, ast.Store)
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
    }


def _arguments(method: ast.FunctionDef) -> int:
    a = method.args
    return len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs) - 1


def _imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what is imported, those of ``from a import b`` as ``a.b``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from _imported(node)


def _longest(name: str, known: Collection[str]) -> str | None:
    """The longest beginning of a dotted name that is known."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def _cycles(graph: Graph) -> list[list[str]]:
    """The sets of nodes, each of more than one, in which every node leads to every other."""
    reach = {node: _reachable(graph, node) for node in graph}
    together = {
        frozenset(other for other in reach[node] if node in reach.get(other, ()))
        for node in graph
        if node in reach[node]
    }
    return sorted(sorted(cycle) for cycle in together)


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead.extend(graph.get(node, ()))
    return found


def _share(found: list[Found], limit: int) -> str:
    above = sum(one.size > limit for one in found)
    return f"{above} of {len(found)} ({100 * above / max(len(found), 1):.1f} %)"


def main() -> None:
    """Print the figures, and the largest of each kind."""
    house, cyclomatic = House.read(), complexities()
    rooms: Counter[str] = Counter()
    for module in house.modules.values():
        rooms[module.room] += module.lines
    print(f"files / lines                      {len(house.files)} / {sum(rooms.values())}")
    print(f"largest file                      {house.files[0]}")
    print(f"functions over 50 lines            {_share(house.functions, 50)}")
    print(f"functions above cyclomatic 10      {_share(cyclomatic, 10)}")
    print(f"classes setting over 12 attributes {_share(house.classes, 12)}")
    print(f"constructors over 8 arguments      {_share(house.constructors, 8)}")
    for title, found in (
        ("lines of a room", [Found(*item) for item in rooms.most_common()]),
        ("lines of a file", house.files[:6]),
        ("attributes of a class", [c for c in house.classes if c.size > 12]),
        ("arguments of a constructor", [c for c in house.constructors if c.size > 8]),
        ("cyclomatic complexity", cyclomatic[:6]),
        ("lines of a function", house.functions[:6]),
        ("import cycles of files", [" - ".join(c) for c in house.file_cycles]),
        ("import cycles of rooms", [" - ".join(c) for c in house.room_cycles]),
        ("arrows that run up", house.arrows_up),
        ("processes, sockets and clocks in pure rooms", house.impurities),
    ):
        print(f"\n{title}:", *(found or ["none"]), sep="\n  ")


if __name__ == "__main__":
    main()
