"""Options of the attack."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz")
    group.addoption("--frames", type=int, help="of an attack (default: 20,000)")
    group.addoption("--fuzz-seed", type=int, help="of an attack (default: 0)")
