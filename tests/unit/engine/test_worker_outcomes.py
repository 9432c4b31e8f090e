"""What the workers of an engine answer, and how the front process judges it.

The worker's transfer engine is mocked, and so is vLLM's executor, in the one way that matters here:
it raises at the first worker's exception and keeps the other workers' answers for the next call.
tests/integration/test_weights_two_workers.py has the real ones.
"""

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder, UtilityResult

from asyncds.engine.generation import GenerationEngine
from asyncds.weights.communicator import TransferFailed
from asyncds.weights.vllm_transfer import WorkerExtension


class MockWorker(WorkerExtension):
    """failures: what its steps raise, by name."""

    def __init__(self) -> None:
        self.failures: dict[str, Exception] = {}
        self.open = False
        self.weight_transfer_engine = cast(Any, SimpleNamespace(checksums=[7, -8]))

    def _step(self, name: str) -> None:
        if error := self.failures.get(name):
            raise error

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:  # type: ignore[override]
        self._step("join")

    def start_weight_update(self) -> None:  # type: ignore[override]
        assert not self._weight_update_active, "vLLM refuses a second update beside an open one"
        self._weight_update_active = True
        self._step("start")

    def update_weights(self, update_info: dict[str, Any]) -> None:  # type: ignore[override]
        self._step("receive")

    def finish_weight_update(self) -> None:  # type: ignore[override]
        self._step("finish")
        self._weight_update_active = False

    _weight_update_active = False


class MockVllm:
    """Workers behind vLLM's executor. Answers travel as they do between its processes."""

    def __init__(self, workers: int) -> None:
        self.workers = [MockWorker() for _ in range(workers)]
        self.answers: list[deque[Any]] = [deque() for _ in range(workers)]
        self.engine_core = SimpleNamespace(pause_scheduler_async=self.nothing)
        self.resume_generation = self.update_weight_version = self.nothing

    async def nothing(self, *_: object, **__: object) -> None:
        """Done."""

    def get_tokenizer(self) -> None:
        """None is needed."""

    async def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> Any:
        for worker, answers in zip(self.workers, self.answers, strict=True):
            try:
                answers.append(getattr(worker, method)(**kwargs))
            except Exception as error:
                answers.append(error)
        results = []
        for answers in self.answers:
            answer = answers.popleft()
            if isinstance(answer, Exception):
                raise RuntimeError(f"Worker failed with error '{answer}'")
            results.append(answer)
        encoded = MsgpackEncoder().encode(UtilityResult(results))
        return MsgpackDecoder(UtilityResult).decode(encoded).result


def update(engine: GenerationEngine, version: int) -> Any:
    return engine.update_weights(
        version=version,
        rendezvous="gloo://127.0.0.1:1/x",
        rank_offset=1,
        world_size=3,
        names=[],
        dtypes=[],
        shapes=[],
        bucket_bytes=64,
        timeout=10.0,
        expected_checksums=[7, -8],
    )


@pytest.mark.parametrize("broken", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("step", ["join", "start", "receive", "finish"])
@pytest.mark.parametrize("error", [TransferFailed("cut"), RuntimeError("CUDA error")], ids=str)
def test_whatever_fails_on_a_worker_the_next_update_works(
    step: str, broken: tuple[int, ...], error: Exception
) -> None:
    vllm = MockVllm(workers=2)
    engine = GenerationEngine(engine=cast(Any, vllm), stats=cast(Any, None))

    async def scenario() -> None:
        for worker in broken:
            vllm.workers[worker].failures = {step: error}
        for _ in range(3):
            with pytest.raises(TransferFailed) as failure:
                await update(engine, 1)
            for worker in (0, 1):
                assert (f"worker {worker}: " in str(failure.value)) == (worker in broken)
            assert engine.weights_valid == (step == "join"), "nothing is served of a mixture"
            assert engine.version == 0
        for worker in broken:
            vllm.workers[worker].failures = {}
        result = await update(engine, 2)
        assert result.checksums == (7, -8)
        assert (engine.version, engine.weights_valid) == (2, True)

    asyncio.run(scenario())


def test_workers_that_received_different_bytes() -> None:
    vllm = MockVllm(workers=2)
    vllm.workers[1].weight_transfer_engine.checksums = [7, 9]
    engine = GenerationEngine(engine=cast(Any, vllm), stats=cast(Any, None))
    with pytest.raises(TransferFailed, match="the workers of one engine received different bytes"):
        asyncio.run(update(engine, 1))


def test_the_only_worker_is_not_numbered() -> None:
    vllm = MockVllm(workers=1)
    vllm.workers[0].failures = {"join": TransferFailed("ranks [0] did not join")}
    engine = GenerationEngine(engine=cast(Any, vllm), stats=cast(Any, None))
    with pytest.raises(TransferFailed, match=r"^ranks \[0\] did not join$"):
        asyncio.run(update(engine, 1))
