"""Options of the suite of network faults."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("network")
    group.addoption("--network", action="store_true", help="all faults (default: the short form)")
    group.addoption("--network-role", help="only those of this role's machine")
    group.addoption("--network-dir", help="where the run is kept (default: a temporary directory)")
