"""An adapter in a real vLLM engine (CPU, gloo) that samples: what it computes with, and when."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from asyncds.config.lora import LoraConfig
from asyncds.tiny.model import save_untrained
from tests.integration.engine_rig import PROBE, TIMEOUT, TOLERANCE, Rig, log_softmax_of_next
from tests.integration.test_weights_vllm import BROKEN, fails, works

pytestmark = pytest.mark.slow

LORA = LoraConfig(rank=16, alpha=32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("model") / "tied"
    save_untrained(path, seed=0)
    return path


# Two workers on two cores take minutes: `pytest -m long`.
WORKERS = [
    pytest.param(1, id="1-worker"),
    pytest.param(2, id="2-workers", marks=pytest.mark.long),
]


@pytest.fixture(scope="module", params=WORKERS)
def rig(request: pytest.FixtureRequest, base: Path, loop: asyncio.Runner) -> Iterator[Rig]:
    rig = Rig(base, loop, lora=LORA, tensor_parallel=request.param)
    yield rig
    rig.sender.close()
    loop.run(rig.engine.stop(timeout=TIMEOUT))


def test_an_adapter_is_swapped_under_running_requests(rig: Rig, loop: asyncio.Runner) -> None:
    async def scenario() -> None:
        await rig.assert_engine_computes_with_the_model()  # B = 0: the model itself
        for version in (1, 2, 3):
            tasks = await rig.start_long_requests(4)
            rig.train()
            await rig.update()
            for completion in await asyncio.gather(*tasks):
                assert set(completion.versions.tolist()) == {version - 1, version}
            await rig.assert_engine_computes_with_the_model()

    loop.run(scenario())
    whole = sum(4 * p.numel() for p in rig.model.parameters() if not p.requires_grad)
    assert rig.staged.placement.nbytes < whole / 3


def test_the_old_adapter_stays_when_a_new_one_does_not_arrive(
    rig: Rig, loop: asyncio.Runner
) -> None:
    async def scenario() -> None:
        for broken in (BROKEN["cut in the middle"], BROKEN["corrupt"]):
            before = log_softmax_of_next(rig.model, PROBE, 1.0)
            await fails(rig, broken)
            got = await rig.engine.log_probs(PROBE, timeout=TIMEOUT)
            np.testing.assert_allclose(got, before, atol=TOLERANCE)
            # This is what the probe of a run would see of an adapter that is not there.
            assert abs(got - log_softmax_of_next(rig.model, PROBE, 1.0)).mean() > 10 * TOLERANCE
            await works(rig)

    loop.run(scenario())


def test_sampled_log_probs_are_the_learners(rig: Rig, loop: asyncio.Runner) -> None:
    completion = loop.run(rig.sample(max_tokens=40, temperature=0.6, seed=1))
    ids = [5, 7, 9, 11, 3, 2, *completion.token_ids.tolist()]
    expected = log_softmax_of_next(rig.model, ids, 0.6)[5:]
    np.testing.assert_allclose(completion.logprobs, expected, atol=TOLERANCE, rtol=0)
