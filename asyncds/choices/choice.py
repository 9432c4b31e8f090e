"""The base of every option class, and the discovery of the kinds that a package offers."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, field_validator

Policy = Literal["proximal", "behaviour"]
"""The learner at the start of a batch (π_old), or the policy that sampled a token (μ)."""


LARGEST = 2**53
"""The largest whole number that floats, journals and frames all have exactly."""


class Choice(BaseModel):
    """A frozen set of options.

    Unknown keys, infinities and NaN are refused; field docstrings are descriptions.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @field_validator("*")
    @classmethod
    def _whole_number_fits(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError("no whole number above 2^53 can be used: lower it")
        return value


C = TypeVar("C", bound=Choice)


def kinds_in(package: ModuleType, base: type[C]) -> tuple[type[C], ...]:
    """The subclasses of ``base`` in ``package`` that give ``kind`` a default.

    They are in the order of the modules that define them. A new module is a new kind: nothing else
    names it.
    """
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    found = {
        kind: c
        for c in _subclasses(base)
        if c.__module__.startswith(f"{package.__name__}.")
        and (kind := c.model_fields["kind"].default)
    }
    return tuple(found[kind] for kind in sorted(found))


def _subclasses(base: type[C]) -> list[type[C]]:
    return [s for c in base.__subclasses__() for s in (c, *_subclasses(c))]
