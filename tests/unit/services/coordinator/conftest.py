"""Fixtures that several of these tests share."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.coordinator_fixture import Driver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    with closing(Driver(tmp_path)) as driver:
        yield driver
