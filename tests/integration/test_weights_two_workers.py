"""Transfers that fail in a real engine of two workers (CPU, gloo), and the one after them.

vLLM answers a call of all workers with the first failure and leaves the other answers in their
queues, where the next call would find them: no worker may raise. Two workers share each layer
(tensor parallel): vLLM's CPU build can't sample with workers in a row.
"""

import asyncio
from collections.abc import Iterator

import pytest

from asyncds.tiny.model import save_untrained
from tests.integration.test_weights_vllm import BROKEN, TIMEOUT, Rig, fails, works

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, loop: asyncio.Runner) -> Iterator[Rig]:
    path = tmp_path_factory.mktemp("model") / "tied"
    save_untrained(path, seed=0)
    rig = Rig(path, loop, tensor_parallel=2)
    yield rig
    rig.sender.close()
    loop.run(rig.engine.stop(timeout=TIMEOUT))


def test_updates_before_between_and_after_failed_ones(rig: Rig, loop: asyncio.Runner) -> None:
    """What fails for one worker fails for the engine, and a second transfer of one group is as
    good as the first."""

    async def scenario() -> None:
        await rig.assert_engine_computes_with_the_model()
        await works(rig)
        for name in ("silent in the middle", "cut in the middle", "corrupt"):
            await fails(rig, BROKEN[name])
        await works(rig)
        rig.train()
        await rig.update()
        await rig.assert_engine_computes_with_the_model()

    loop.run(scenario())
