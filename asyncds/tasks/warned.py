"""Warnings of tasks while they read their data, for those who tell them themselves."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def warned() -> Iterator[list[str]]:
    """Collect the warnings of this package instead of logging them; each once."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (said := record.getMessage()) not in found:
                found.append(said)

    logger, collect = logging.getLogger(__package__), Collect(logging.WARNING)
    logger.addHandler(collect)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield found
    finally:
        logger.removeHandler(collect)
        logger.propagate = propagated
