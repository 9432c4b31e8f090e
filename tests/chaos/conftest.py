"""Options of the chaos suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--faults", type=int, help="how many faults (default: the short form)")
    group.addoption("--seed", type=int, help="of the order of faults")
    group.addoption("--generators", type=int, help="of the run (default: 1)")
    group.addoption("--chaos-model", help="base model (default: one is made)")
    group.addoption("--chaos-dir", help="where the run is kept (default: a temporary directory)")
