"""Kinds of a person's own: named by the path of a class or function, checked, then made."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from asyncds.choices.choice import Choice

T = TypeVar("T")


class KindError(ValueError):
    """A kind can't be used; the message is a sentence that says why."""


class OpenKind(Choice):
    """A kind of your own.

    Its module lies in the directory that `asyncds` is started from, or is installed: see
    docs/extending.md.
    """

    kind: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """Where it is: `package.module:Name`, a class or a function."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its options, by the names of its fields or keyword arguments."""

    def make(self, base: type[T], **given: Any) -> T:
        """The object. Raises KindError, as ``prepare`` does."""
        return prepare(self.kind, self.options, base=base, given=given)()


def prepare(
    kind: str, options: Mapping[str, Any], *, base: type[T], given: Mapping[str, Any] | None = None
) -> Callable[[], T]:
    """Import a kind and check it; the answer makes the object.

    base: a class that it must be derived from, or a protocol whose methods it must have. given:
    keyword arguments that the program adds to the options, those of them that are asked for.
    Raises KindError if it can't be imported, is something else, or the options don't fit.
    """
    target = imported(kind)
    if not callable(target):
        raise KindError(f"{kind} is neither a class nor a function: name one of its module")
    _must_be(kind, target, base)
    arguments = {**_known(target, given or {}), **options}
    try:
        checked = _checked(target, arguments)
    except ValidationError as error:
        raise KindError(f"{kind}: {sentence(error)}") from None
    except KindError as error:
        raise KindError(f"{kind}: {error}") from None
    except TypeError as error:
        raise KindError(f"{kind}: its options don't fit: {error}") from None

    def make() -> Any:
        try:
            made: Any = target(**checked)
        except Exception as error:  # a constructor of the user's may raise anything
            raise KindError(
                f"{kind} can't be made with these options ({type(error).__name__}: {error})"
            ) from error
        if isinstance(made, BaseModel) and "kind" in type(made).model_fields:
            made = made.model_copy(update={"kind": kind})
        return made

    return make


def imported(kind: str) -> Any:
    """The object that a path names. Raises KindError."""
    module, _, name = kind.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of the user's may raise anything
        raise KindError(
            f"{kind} can't be imported ({type(error).__name__}: {error}): its module must be "
            "installed, or lie in the directory that asyncds is started from"
        ) from error


def _must_be(kind: str, target: Any, base: type) -> None:
    if not getattr(base, "_is_protocol", False):
        if not (isinstance(target, type) and issubclass(target, base)):
            raise KindError(
                f"{kind} must be a class derived from {base.__module__}:{base.__name__}"
            )
        return
    if not isinstance(target, type):
        return  # a function that makes one
    methods = [name for name, x in vars(base).items() if inspect.isfunction(x) and name[0] != "_"]
    lacks = [name for name in methods if not hasattr(target, name)]
    if lacks:
        raise KindError(
            f"{kind} has no {', '.join(lacks)}: it must have what "
            f"{base.__module__}:{base.__name__} names"
        )


def _known(target: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given arguments that the target asks for."""
    parameters = inspect.signature(target).parameters
    return {name: value for name, value in given.items() if name in parameters}


def _checked(target: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, checked by the target's own annotations."""
    if isinstance(target, type) and issubclass(target, BaseModel):
        target.model_validate(dict(arguments))
        return dict(arguments)
    inspect.signature(target).bind(**arguments)
    annotated = target if dataclasses.is_dataclass(target) else getattr(target, "__init__", target)
    return typed(annotated if isinstance(target, type) else target, arguments)


def typed(target: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the target's annotations have them. Raises KindError for one that can't be."""
    hints = get_type_hints(target)

    def one(name: str, value: Any) -> Any:
        try:
            return TypeAdapter(hints[name]).validate_python(value) if name in hints else value
        except ValidationError as error:
            raise KindError(f"{name}: {sentence(error)}") from None

    return {name: one(name, value) for name, value in arguments.items()}


def sentence(error: ValidationError) -> str:
    """Faults of options, a sentence each."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors()
    )
