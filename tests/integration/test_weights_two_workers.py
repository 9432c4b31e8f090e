"""Transfers that fail in a real engine of two workers (TP = 2, CPU, gloo), and the one after them.

vLLM answers a call of all workers with the first failure and leaves the other answers in their
queues, where the next call would find them: no worker may raise.
"""

import asyncio
from collections.abc import Iterator

import pytest

from asyncds.tiny.model import save_untrained
from asyncds.weights.communicator import Communicator, TransferFailed, connect
from tests.integration.test_weights_vllm import SHORT, TIMEOUT, Rig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, loop: asyncio.Runner) -> Iterator[Rig]:
    path = tmp_path_factory.mktemp("model") / "tied"
    save_untrained(path, seed=0)
    rig = Rig(path, loop, workers=2)
    yield rig
    rig.sender.close()
    loop.run(rig.engine.stop(timeout=TIMEOUT))


async def works(rig: Rig) -> None:
    """A transfer of new weights succeeds on both workers, and the engine computes with them."""
    rig.rendezvous = rig.sender.new_rendezvous()
    rig.train()
    result = await rig.update(expected_checksums=rig.staged.checksums)
    assert result.checksums == rig.staged.checksums
    assert rig.engine.version == rig.staged.version
    await rig.assert_engine_computes_with_the_model()


def test_two_updates_of_one_group(rig: Rig, loop: asyncio.Runner) -> None:
    async def scenario() -> None:
        await rig.assert_engine_computes_with_the_model()
        await works(rig)
        rig.train()
        await rig.update(expected_checksums=rig.staged.checksums)
        await rig.assert_engine_computes_with_the_model()

    loop.run(scenario())


def test_a_sender_that_never_joins(rig: Rig, loop: asyncio.Runner) -> None:
    async def scenario() -> None:
        version = rig.engine.version
        for _ in range(2):
            with pytest.raises(TransferFailed, match=r"ranks \[0\] did not join"):
                await rig.receive(rendezvous=rig.sender.new_rendezvous(), timeout=0.5)
        assert rig.engine.weights_valid
        assert set((await rig.sample(max_tokens=3)).versions.tolist()) == {version}
        await works(rig)

    loop.run(scenario())


@pytest.mark.parametrize("buckets", [0, 5])
def test_a_sender_that_falls_silent(rig: Rig, loop: asyncio.Runner, buckets: int) -> None:
    """It joins and sends nothing, or a part. Requests wait, and go on under the next version."""

    def send_a_part() -> Communicator:
        sender = connect(
            rig.rendezvous, rank=0, world_size=rig.world_size, device="cpu", timeout=TIMEOUT
        )
        for flat in rig.staged.flats[:buckets]:
            sender.broadcast(flat, timeout=TIMEOUT)
        return sender

    async def scenario() -> None:
        tasks = await rig.start_long_requests(4)
        version = rig.engine.version
        rig.sender.close()
        rig.rendezvous = rig.sender.new_rendezvous()
        rig.train()
        receiving = asyncio.ensure_future(rig.receive(timeout=SHORT))
        silent = await asyncio.to_thread(send_a_part)
        with pytest.raises(TransferFailed, match=r"worker 0: .*; worker 1: "):
            await receiving
        silent.abort()
        assert not rig.engine.weights_valid
        await works(rig)
        for completion in await asyncio.gather(*tasks):
            assert set(completion.versions.tolist()) == {version, rig.engine.version}

    loop.run(scenario())
