"""Fixtures that several of these tests share."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.coordinator_fixture import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path)) as desk:
        yield desk
