import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """The loop that an engine of a test module lives in."""
    with asyncio.Runner() as runner:
        yield runner
