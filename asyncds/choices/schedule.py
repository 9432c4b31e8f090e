"""Coefficients that may change with the step of training: a number, or a schedule of one.

What is in force depends on the step alone, so that everybody who knows the step agrees, also after
a restart: `at` makes of options with schedules the options of one step.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag

from asyncds.choices.choice import Choice

C = TypeVar("C", bound=Choice)


class Schedule(Choice):
    """A number that goes from one value to another as training goes on."""

    start: float = Field(allow_inf_nan=False)
    """Its value up to step `after`."""
    end: float = Field(allow_inf_nan=False)
    """Its value from step `after + steps` on."""
    steps: int = Field(ge=1)
    """Training batches that it takes from start to end; 1: it jumps."""
    after: int = Field(0, ge=0)
    """Training batches before it begins to change."""
    shape: Literal["linear", "cosine"] = "linear"
    """How it goes: evenly, or slowly at both ends (half a cosine)."""

    def at(self, step: int) -> float:
        """The value for training batch `step`, counted from 0."""
        done = min(max(step - self.after, 0) / self.steps, 1.0)
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start * (1 - done) + self.end * done


NUMBER, SCHEDULE = "number", "schedule"


def _tag(value: Any) -> str:
    return SCHEDULE if isinstance(value, dict | Schedule) else NUMBER


def _not_negative(schedule: Schedule) -> Schedule:
    if min(schedule.start, schedule.end) < 0:
        raise ValueError("start and end must be greater than or equal to 0")
    return schedule


if TYPE_CHECKING:  # what they are once `at` has been asked
    Coefficient = float
    Strength = float
else:
    Coefficient = Annotated[
        Annotated[float, Field(allow_inf_nan=False), Tag(NUMBER)]
        | Annotated[Schedule, Tag(SCHEDULE)],
        Discriminator(_tag),
    ]
    Strength = Annotated[
        Annotated[float, Field(ge=0, allow_inf_nan=False), Tag(NUMBER)]
        | Annotated[Schedule, AfterValidator(_not_negative), Tag(SCHEDULE)],
        Discriminator(_tag),
    ]
    """A coefficient that is not negative."""


def acts(coefficient: object) -> bool:
    """Whether a coefficient is other than zero at any step."""
    if isinstance(coefficient, Schedule):
        return coefficient.start != 0 or coefficient.end != 0
    return coefficient != 0


def at(options: C, step: int) -> C:
    """The options with every schedule replaced by its value for training batch `step`."""
    changed: dict[str, Any] = {}
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, Schedule):
            changed[name] = value.at(step)
        elif isinstance(value, Choice) and (then := at(value, step)) is not value:
            changed[name] = then
    return options.model_copy(update=changed) if changed else options


def scheduled(options: Choice, step: int) -> dict[str, float]:
    """The values that schedules have for training batch `step`, by the paths of their fields."""
    return {path: schedule.at(step) for path, schedule in _schedules(options)}


def _schedules(options: Choice, prefix: str = "") -> Iterator[tuple[str, Schedule]]:
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, Schedule):
            yield prefix + name, value
        elif isinstance(value, Choice):
            yield from _schedules(value, f"{prefix}{name}.")
