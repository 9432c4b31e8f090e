"""Which scorer a configuration gets."""

import sys
from typing import Any

import pytest

from asyncds.config.engines import ScoringConfig
from asyncds.config.load import ConfigError, parse_config
from asyncds.scoring.make import make_scorer
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.scoring.scorer import ScorerUnavailableError

TASK: dict[str, Any] = {"kind": "countdown", "options": {}}


def test_processes_are_the_default() -> None:
    assert isinstance(make_scorer(ScoringConfig(), **TASK), ProcessPoolScorer)


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "asyncds.scoring.ray_pool", raising=False)
    with pytest.raises(ScorerUnavailableError, match=r"install `asyncds\[ray\]`"):
        make_scorer(ScoringConfig(backend="ray"), **TASK)


def test_an_address_that_nobody_would_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="set backend to ray"):
        parse_config({"model": "m", "scoring": {"ray_address": "auto"}})
