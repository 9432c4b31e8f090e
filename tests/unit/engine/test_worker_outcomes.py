"""What the workers of an engine answer, and how the front process judges it.

The worker's transfer engine is mocked, and so is vLLM's executor, in the one way that matters here:
it raises at the first worker's exception and keeps the other workers' answers for the next call.
tests/integration/test_weights_two_workers.py has the real ones.
"""

import asyncio
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder, UtilityResult

from asyncds.engine.generation import GenerationEngine
from asyncds.weights.communicator import NotJoined, TransferFailed
from asyncds.weights.layout import Layout
from asyncds.weights.vllm_transfer import WorkerExtension


class MockWorker(WorkerExtension):
    """failures: what its steps raise, by name. A transfer is busy for as many questions as it is
    asked to be."""

    def __init__(self) -> None:
        self.failures: dict[str, Exception] = {}
        self.busy = 0
        self.weight_transfer_engine = cast(Any, SimpleNamespace(receiver=self, adapter=None))
        self.adapters: list[Any] = []
        self.model = self.arrived = ""

    def check(self) -> None:
        self._step("receive")

    def _step(self, name: str) -> None:
        if error := self.failures.get(name):
            raise error

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:  # type: ignore[override]
        self._step("begin")
        self.arrived = info["rendezvous"]

    def transfer_state(self) -> dict[str, Any]:
        answer = super().transfer_state()
        self.busy = max(0, self.busy - 1)
        return answer

    def start_weight_update(self) -> None:  # type: ignore[override]
        assert not self._weight_update_active, "vLLM refuses a second update beside an open one"
        self._weight_update_active = True

    def update_weights(self, update_info: dict[str, Any]) -> None:  # type: ignore[override]
        self._step("activate")
        self.model = self.arrived

    def finish_weight_update(self) -> None:  # type: ignore[override]
        self._step("finish")
        self._weight_update_active = False

    def add_lora(self, request: Any) -> bool:  # type: ignore[override]
        self._step("activate")
        self.adapters.append(request)
        return True

    _weight_update_active = False


class MockVllm:
    """Workers behind vLLM's executor. Answers travel as they do between its processes."""

    def __init__(self, workers: int) -> None:
        self.workers = [MockWorker() for _ in range(workers)]
        self.answers: list[deque[Any]] = [deque() for _ in range(workers)]
        self.engine_core = SimpleNamespace(pause_scheduler_async=self.pause)
        self.update_weight_version = self.nothing
        self.paused = False
        self.calls: list[tuple[str, bool]] = []

    async def nothing(self, *_: object, **__: object) -> None:
        """Done."""

    async def pause(self, *_: object, **__: object) -> None:
        self.paused = True

    async def resume_generation(self) -> None:
        self.paused = False

    def get_tokenizer(self) -> None:
        """None is needed."""

    async def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> Any:
        self.calls.append((method, self.paused))
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


NOTHING = Layout(specs=[], bucket_bytes=64)


def update(engine: GenerationEngine, version: int, *, layout: Layout = NOTHING) -> Any:
    return engine.update_weights(
        version=version,
        rendezvous=f"gloo://127.0.0.1:1/{version}",
        rank_offset=1,
        world_size=3,
        layout=layout,
        checksums=[],
        timeout=10.0,
    )


@pytest.mark.parametrize("broken", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("step", ["begin", "receive", "activate", "finish"])
@pytest.mark.parametrize("error", [TransferFailed("cut"), RuntimeError("CUDA error")], ids=str)
def test_whatever_fails_on_a_worker_the_next_update_works(
    step: str, broken: tuple[int, ...], error: Exception
) -> None:
    vllm = MockVllm(workers=2)
    engine = GenerationEngine(engine=cast(Any, vllm), stats=cast(Any, None))
    before = step in ("begin", "receive")

    async def scenario() -> None:
        for worker in broken:
            vllm.workers[worker].failures = {step: error}
        for _ in range(3):
            with pytest.raises(TransferFailed) as failure:
                await update(engine, 1)
            for worker in (0, 1):
                assert (f"worker {worker}: " in str(failure.value)) == (worker in broken)
            assert engine.version == 0
            assert engine.weights_valid == before, "nothing is served of a mixture"
            assert vllm.paused != before
            assert (engine.cache_salt == "version-0") == before
            if before:
                assert {worker.model for worker in vllm.workers} == {""}
        for worker in broken:
            vllm.workers[worker].failures = {}
        await update(engine, 2)
        assert (engine.version, engine.weights_valid, vllm.paused) == (2, True, False)
        assert {worker.model for worker in vllm.workers} == {"gloo://127.0.0.1:1/2"}

    asyncio.run(scenario())


def test_the_engine_is_paused_for_the_activation_only() -> None:
    vllm = MockVllm(workers=2)
    vllm.workers[1].busy = 3
    engine = GenerationEngine(engine=cast(Any, vllm), stats=cast(Any, None))
    asyncio.run(update(engine, 1))
    states = [("transfer_state", False)] * 4
    assert vllm.calls == [("begin_transfer", False), *states, ("activate", True)]
    assert engine.cache_salt == "version-1"
    assert not vllm.paused


def test_a_group_that_no_worker_joined_is_told_from_a_transfer_that_failed() -> None:
    vllm = MockVllm(workers=2)
    engine = GenerationEngine(engine=cast(Any, vllm), stats=cast(Any, None))
    for worker in vllm.workers:
        worker.failures = {"receive": NotJoined("ranks [0] did not join")}
    with pytest.raises(NotJoined):
        asyncio.run(update(engine, 1))
    vllm.workers[0].failures = {"receive": TransferFailed("cut")}
    with pytest.raises(TransferFailed) as failure:
        asyncio.run(update(engine, 1))
    assert not isinstance(failure.value, NotJoined)


def test_the_only_worker_is_not_numbered() -> None:
    vllm = MockVllm(workers=1)
    vllm.workers[0].failures = {"receive": TransferFailed("ranks [0] did not join")}
    engine = GenerationEngine(engine=cast(Any, vllm), stats=cast(Any, None))
    with pytest.raises(TransferFailed, match=r"^ranks \[0\] did not join$"):
        asyncio.run(update(engine, 1))


def test_an_adapter_is_loaded_in_the_pause_and_never_by_the_model() -> None:
    vllm = MockVllm(workers=2)
    engine = GenerationEngine(engine=cast(Any, vllm), stats=cast(Any, None))
    discarded: list[MockWorker] = []
    for worker in vllm.workers:
        files = SimpleNamespace(request="an adapter", discard=partial(discarded.append, worker))
        worker.weight_transfer_engine.adapter = files  # type: ignore[misc,assignment]

    async def scenario() -> None:
        layout = Layout(specs=[], bucket_bytes=64, adapter={"r": 4})
        await update(engine, 1, layout=layout)

    asyncio.run(scenario())
    assert [worker.adapters for worker in vllm.workers] == [["an adapter"]] * 2
    assert discarded == vllm.workers, "and no files are left"
    assert [worker.model for worker in vllm.workers] == ["", ""]
    assert dict(vllm.calls)["activate"], "the engine is paused"
    assert engine._adapter is not None, "requests are sampled with it from then on"
    assert not engine._adapter.load_inplace
