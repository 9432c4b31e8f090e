"""The memory of a generator, and how many sequences its cache has room for."""

import pytest

from asyncds.config.load import parse_config
from asyncds.plan.families import model_shape
from asyncds.plan.generator import BLOCK, GeneratorMemory, generator_memory
from asyncds.plan.gpus import GIB, Gpu, find_gpu, main_memory
from asyncds.plan.load import load_of
from asyncds.plan.parts import total
from asyncds.plan.published import PUBLISHED

SHAPE = model_shape(PUBLISHED["Qwen/Qwen2.5-7B"])
H100 = find_gpu("h100-80")


def memory(device: Gpu = H100, **generator: object) -> GeneratorMemory:
    config = parse_config(
        {
            "model": "Qwen/Qwen2.5-7B",
            "sampling": {"max_tokens": 2048},
            "generator": {"max_model_len": 4096, **generator},
        }
    )
    return generator_memory(config, SHAPE, load_of(config, SHAPE), device)


def test_a_token_takes_keys_and_values_of_every_layer() -> None:
    assert memory().smallest == (4096 + BLOCK) * 28 * 2 * 4 * 128 * 2


def test_the_cache_takes_what_is_left_of_vllms_share() -> None:
    assert total(memory().parts) == pytest.approx(0.9 * H100.memory)
    assert total(memory(gpu_memory_utilization=0.5).parts) == pytest.approx(0.5 * H100.memory)


def test_tensor_parallel_splits_weights_and_heads_of_keys() -> None:
    one, two, eight = (memory(tensor_parallel=n) for n in (1, 2, 8))
    assert two.parts[0].nbytes == one.parts[0].nbytes / 2
    assert (two.smallest, eight.smallest) == (one.smallest / 2, one.smallest / 4)  # 4 heads


def test_a_model_that_leaves_no_room_does_not_start() -> None:
    assert not memory(find_gpu("a10-24"), gpu_memory_utilization=0.7).starts
    assert memory(find_gpu("a10-24"), tensor_parallel=4).starts


def test_on_a_cpu_the_cache_is_what_is_configured() -> None:
    found = memory(main_memory(64 * GIB), kv_cache_gb=3)
    assert found.parts[-1].nbytes == 3 * GIB
