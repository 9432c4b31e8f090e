"""The base of all parts of the configuration, and types that several have fields of."""

from typing import Annotated

from pydantic import Field

from asyncds.choices.choice import Choice

Seconds = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(Choice):
    """A part of the configuration."""
