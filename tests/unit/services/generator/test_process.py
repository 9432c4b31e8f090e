"""A generator's process against a real socket, with a mocked engine and scorer: how it takes being
given up for dead."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from asyncds.config.schema import RunConfig
from asyncds.protocol import wire
from asyncds.protocol.codec import decode_to_coordinator, encode
from asyncds.tiny.model import save_untrained
from asyncds.transport.router import Router
from services.generator import main as module
from services.process import BAD_INPUT, DONE, FAILURE
from tests.unit.services.generator.test_generator import LEASE as QUICK_LEASE
from tests.unit.services.generator.test_generator import MockEngine, MockScorer

DEADLINE = 60.0
LEASE = replace(QUICK_LEASE, straggler_seconds=10 * DEADLINE)


class StuckEngine(MockEngine):
    """Never ends a completion. under_way: how many are; most: how many ever were."""

    vocab_size, max_model_len = 100, 32

    def __init__(self) -> None:
        super().__init__()
        self.under_way = self.most = 0
        # Kept, as a real engine keeps its requests: a request that nobody knows is collected.
        self._never = asyncio.Event()

    def on_step(self, tell: object) -> None: ...

    async def generate(self, *_: Any, **__: Any) -> Any:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self._never.wait()
        finally:
            self.under_way -= 1


class Kept:
    """Stands for the process's EngineCache. starts: how often an engine was asked for."""

    def __init__(self) -> None:
        self.engine, self.starts = StuckEngine(), 0

    async def started(self, config: RunConfig) -> StuckEngine:
        self.starts += 1
        return self.engine


class Coordinator(threading.Thread):
    """Plays one part against the process. Its thread's exception is raised by `ended`."""

    def __init__(self, router: Router, engine: StuckEngine, last: wire.Message) -> None:
        super().__init__(daemon=True)
        self._router, self._engine, self._last = router, engine, last
        self._failure: BaseException | None = None
        self.introductions: list[tuple[bytes, wire.GeneratorHello]] = []
        self.under_way = -1
        """Completions in the engine when the second introduction came."""

    def run(self) -> None:
        try:
            self._play()
        except BaseException as failure:
            self._failure = failure
            raise

    def ended(self) -> None:
        self.join(DEADLINE)
        assert self._failure is None
        assert not self.is_alive()

    def _play(self) -> None:
        peer, hello = self._hears(wire.GeneratorHello)
        self.introductions.append((peer, hello))
        self._says(peer, wire.Welcome(id="r"), wire.Grant(leases=[LEASE]))
        while LEASE.id not in self._hears(wire.GeneratorHeartbeat)[1].leases:
            self._says(peer, wire.Ack(leases=[]))
        while self._engine.most < LEASE.group_size:
            self._hears(wire.GeneratorHeartbeat)
        self._says(peer, wire.Identify())
        while self._hears(wire.GeneratorHello)[1].incarnation != hello.incarnation:
            pass
        self._says(peer, wire.GivenUp(reason="it was silent"))
        while (again := self._hears(wire.GeneratorHello))[1].incarnation == hello.incarnation:
            pass
        self.under_way = self._engine.under_way
        self.introductions.append(again)
        self._says(again[0], wire.Welcome(id="r"), self._last)

    def _hears(self, kind: type) -> tuple[bytes, Any]:
        for _ in range(int(DEADLINE * 10)):
            for peer, frame in self._router.receive(0.1):
                if isinstance(message := decode_to_coordinator(frame), kind):
                    return peer, message
        raise AssertionError(f"no {kind.__name__} came")

    def _says(self, peer: bytes, *messages: wire.Message) -> None:
        for message in messages:
            self._router.send(peer, encode(message))


@pytest.fixture
def router() -> Iterator[Router]:
    with closing(Router(host="127.0.0.1", port=0)) as router:
        yield router


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (wire.Drain(reason="the run is finished"), DONE),
        (wire.Refused(reason="another of its name took its place"), FAILURE),
    ],
)
def test_who_was_given_up_joins_again_with_the_engine_it_has(
    router: Router,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last: wire.Message,
    code: int,
) -> None:
    @asynccontextmanager
    async def scorer(config: RunConfig, task: Any) -> Any:
        yield MockScorer()

    monkeypatch.setattr(module, "_scorer", scorer)
    save_untrained(tmp_path / "model")
    config = RunConfig.model_validate(
        {
            "model": str(tmp_path / "model"),
            "runs_dir": str(tmp_path),
            "generator": {"max_model_len": 32},
            "task": {"kind": "countdown", "n_eval": 4},
            "coordinator": {"port": router.port, "heartbeat_seconds": 0.05},
        }
    )
    kept = Kept()
    coordinator = Coordinator(router, kept.engine, last)
    coordinator.start()
    served = module._serve(config, kept, name="g", index=0)  # type: ignore[arg-type]
    assert asyncio.run(served) == code
    coordinator.ended()
    (first, hello), (second, again) = coordinator.introductions
    assert kept.starts == 1
    assert coordinator.under_way == 0, "nothing of the first one's work goes on"
    assert (hello.name, again.name) == ("g", "g")
    assert again.leases == []
    assert first != second, "late words of the first one are not taken for the second's"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError("the engine did not start within generator.start_seconds, 1 s"), FAILURE),
        (OSError("no such model"), BAD_INPUT),
    ],
)
def test_why_there_is_no_engine(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A slow start may go better the next time; input that is wrong will not."""

    async def started(self: object, config: RunConfig) -> None:
        raise error

    monkeypatch.setattr(module.EngineCache, "started", started)
    assert module.main(RunConfig(model="none"), name="g", index=0) == code
    assert str(error) in capfd.readouterr().err
