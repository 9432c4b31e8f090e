"""What is handed on to vLLM and DeepSpeed: nothing that asyncds decides, nothing unknown."""

from pathlib import Path
from typing import Any

import pytest

from asyncds.config.load import ConfigError, parse_config
from asyncds.config.passed_on import DEEPSPEED, DEEPSPEED_KNOWN, ENGINE_ARGS
from asyncds.config.schema import RunConfig
from asyncds.launch.declared import fields_of, keys_of
from asyncds.launch.preflight import preflight
from tests.support.synthetic_run import make_model


def run(**sections: Any) -> RunConfig:
    return parse_config({"model": "m", **sections})


ZERO = "zero_optimization"
REFUSED = [
    ({key: 1}, f"deepspeed.{key} can't be set")
    for key, why in DEEPSPEED.items()
    if isinstance(why, str)
] + [
    ({ZERO: {"stage": 3}}, "set learner.zero_stage"),
    ({"checkpoint": {"writer": {"decoupled": True}}}, "writes checkpoints beside training"),
    ({ZERO: 3}, "must be a mapping"),
    ({"zero_optimisation": {}}, "deepspeed.zero_optimisation is unknown"),
    ({ZERO: {"offload_optimizer": {"device": "nvme"}}}, "device nvme can't be used"),
    ({ZERO: {"offload_param": {"device": "nvme"}}}, "device nvme can't be used"),
    ({ZERO: {"offload_param": {"device": "cpu"}}}, "needs learner.zero_stage 3"),
]


@pytest.mark.parametrize(("given", "sentence"), REFUSED)
def test_deepspeeds_keys_that_are_decided_are_refused(given: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(learner={"deepspeed": given})
    assert sentence in str(caught.value)


def test_what_deepspeed_may_be_told() -> None:
    run(learner={"deepspeed": {key: {} for key in set(DEEPSPEED_KNOWN) - {ZERO}}})
    offload = {ZERO: {"offload_optimizer": {"device": "cpu"}, "overlap_comm": True}}
    run(learner={"deepspeed": offload})
    with pytest.raises(ConfigError, match=r"offload_optimizer needs learner\.zero_stage 1"):
        run(learner={"deepspeed": offload, "zero_stage": 0}, dtype="float32")


@pytest.mark.parametrize("key", [*ENGINE_ARGS, "data_parallel_size", "data_parallel_backend"])
def test_engine_args_that_are_decided_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"engine_args.{key} can't be set: "):
        run(generator={"engine_args": {key: 1}})


def test_names_that_the_installed_libraries_do_not_know(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    (first, second) = preflight(
        parse_config(
            {
                "model": str(model),
                "runs_dir": str(tmp_path / "runs"),
                "generator": {"engine_args": {"block_sise": 16, "enable_prefix_caching": True}},
                "learner": {"deepspeed": {ZERO: {"overlap_com": True, "reduce_scatter": True}}},
            }
        )
    )
    assert first == (
        "generator.engine_args.block_sise is unknown to the installed vLLM: "
        "did you mean block_size?"
    )
    assert second == (
        "learner.deepspeed.zero_optimization.overlap_com is unknown to the installed DeepSpeed: "
        "did you mean overlap_comm?"
    )


def test_the_tables_name_what_the_libraries_have() -> None:
    """A name that a library has given up would be refused for nothing."""
    known = fields_of("vllm", "engine/arg_utils.py", ("EngineArgs", "AsyncEngineArgs"))
    assert known >= ENGINE_ARGS.keys()
    file, table = "models/auto/modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
    assert keys_of("transformers", file, table) >= {"qwen2", "llama", "gemma2"}
    assert fields_of("no_such_package", "x.py", ("X",)) == frozenset()
    assert fields_of("vllm", "no_such_file.py", ("X",)) == frozenset()
