"""The type of a field that is one of several kinds, or a kind of the person's own."""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Discriminator, Tag

from asyncds.choices.open_kind import OpenKind

OPEN = "open"


def one_of(kinds: Sequence[type[BaseModel]]) -> Any:
    """The kinds are told apart by their field ``kind``; one with a colon is an ``OpenKind``."""
    names = [get_args(kind.model_fields["kind"].annotation)[0] for kind in kinds]
    tagged: list[Any] = [
        Annotated[kind, Tag(name)] for kind, name in zip(kinds, names, strict=True)
    ]
    return Annotated[
        reduce(operator.or_, [*tagged, Annotated[OpenKind, Tag(OPEN)]]),
        Discriminator(
            _tag,
            custom_error_type="unknown_kind",
            custom_error_message=(
                f"unknown kind: choose {', '.join(names)}, or package.module:Name for your own"
            ),
        ),
    ]


def _tag(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return OPEN if isinstance(kind, str) and ":" in kind else kind
