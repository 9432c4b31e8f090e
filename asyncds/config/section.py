"""What all parts of the configuration are."""

from asyncds.choices.choice import Choice


class Section(Choice):
    """A part of the configuration."""
