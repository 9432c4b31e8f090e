"""Settings of LoRA, and who gets what of them."""

from typing import Any, get_args

import pytest
from vllm.config.lora import MaxLoRARanks

from asyncds.config.load import ConfigError, parse_config
from asyncds.config.lora import SERVED_RANKS, LoraConfig
from asyncds.config.schema import RunConfig
from services.generator.engine_cache import _engine_settings
from tests.support.paths import ROOT

TINY = str(ROOT / "asyncds/tiny/shipped")


def run(lora: dict[str, Any] | None, **changes: Any) -> RunConfig:
    return parse_config({"model": TINY, "learner": {"lora": lora}, **changes})


def test_ranks_are_those_that_vllm_makes_room_for() -> None:
    assert get_args(MaxLoRARanks) == SERVED_RANKS
    assert [LoraConfig(rank=rank).served_rank for rank in (1, 2, 8, 9, 257, 512)] == [
        *(1, 8, 8, 16, 320, 512)
    ]
    with pytest.raises(ConfigError, match=r"learner.lora.rank"):
        run({"rank": 513})


def test_an_adapter_is_sent_by_who_trains_one_and_does_not_merge_it() -> None:
    assert run(None).sent_adapter is None
    assert run({}).sent_adapter == LoraConfig()
    assert run({"publish": "merge"}).sent_adapter is None
    assert run({}, steps=0).sent_adapter is None
    whole = [run(None), run({"publish": "merge"})]
    parts = [run({}), run({}, steps=0), run(None, steps=0)]
    assert [c.sends_whole_weights for c in (*whole, *parts)] == [True, True, False, False, False]


def test_an_engine_is_kept_for_runs_that_bring_it_to_the_same_weights_only() -> None:
    """An adapter that another run left behind must not be served, nor another base."""
    adapter, again = _engine_settings(run({})), _engine_settings(run({"publish": "adapter"}))
    assert adapter == again
    others = [run(None), run({"publish": "merge"}), run({"rank": 4}), run({}, steps=0)]
    assert all(_engine_settings(config) != adapter for config in others)
    assert _engine_settings(run(None)) == _engine_settings(run({"publish": "merge"}))
    base = adapter["weights"]
    assert base.endswith("shipped")
    assert _engine_settings(run(None))["weights"] is None
