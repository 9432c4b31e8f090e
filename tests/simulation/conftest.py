"""Options of the simulations."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--seeds", type=int, help="runs drawn, each from its seed (default: 24)")
    group.addoption("--first-seed", type=int, help="the first of them (default: 0)")
    group.addoption("--large", type=int, help="generators of the large run (default: 2000)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "drawn_seed" in metafunc.fixturenames:
        first = metafunc.config.getoption("first_seed", None) or 0
        n = metafunc.config.getoption("seeds", None) or 24
        metafunc.parametrize("drawn_seed", range(first, first + n))
