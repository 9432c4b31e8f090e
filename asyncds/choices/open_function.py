"""Functions of a person's own, named by their path.

They are checked, and called by the names of their parameters.
"""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from asyncds.choices.open_kind import KindError, imported, prepare, typed


class OpenFunction:
    """A function, or a class whose objects can be called, with its options.

    path: ``package.module:name``. options: of a function, keyword arguments of every call; of a
    class, those of its constructor. name: how messages call it. Raises KindError if it can't be
    imported or called, or the options don't fit.
    """

    def __init__(self, path: str, options: Mapping[str, Any], *, name: str) -> None:
        self._name = name
        target = imported(path)
        self._options: dict[str, Any] = {}
        if isinstance(target, type):
            target = prepare(path, options, base=object)()
            options = {}
        if not callable(target):
            raise KindError(f"{name} is neither a function nor a class: name one of its module")
        if inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(
            type(target).__call__
        ):
            raise KindError(f"{name} is async: give a plain function")
        self._call: Callable[..., Any] = target
        parameters = inspect.signature(target).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if any(p.kind is p.POSITIONAL_ONLY for p in parameters):
            raise KindError(f"{name} has parameters without names (before the /): name them all")
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        """Whether it has ``**kwargs``."""
        self._check(options, [p.name for p in named])
        self.asks_for = frozenset(p.name for p in named if p.name not in self._options)
        """Names of the parameters that are no options."""
        self.needs = [p.name for p in named if p.name in self.asks_for and p.default is p.empty]
        """Those of them without a default."""

    def __call__(self, given: Mapping[str, Any]) -> Any:
        """Call it with those of the given arguments that it asks for."""
        known = {n: v for n, v in given.items() if self.takes_all or n in self.asks_for}
        return self._call(**(known | self._options))

    def wants(self, names: Collection[str]) -> set[str]:
        """The names that it would be given, of these."""
        return {name for name in names if self.takes_all or name in self.asks_for}

    def _check(self, options: Mapping[str, Any], names: list[str]) -> None:
        for option in options:
            if option not in names and not self.takes_all:
                near = difflib.get_close_matches(option, names, n=1)
                hint = (
                    f"did you mean {near[0]}?" if near else f"it has {', '.join(names) or 'none'}"
                )
                raise KindError(f"{self._name} has no parameter {option} for the option: {hint}")
        try:
            is_annotated = inspect.isroutine(self._call)
            self._options = typed(self._call, options) if is_annotated else dict(options)
        except KindError as error:
            raise KindError(f"{self._name}: {error}") from None
        except (NameError, TypeError) as error:
            raise KindError(f"{self._name}: its annotations can't be read: {error}") from None
