"""The learner's loop with a mocked engine, link and checkpoint: what it reports of its batches."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from prometheus_client import generate_latest

from asyncds.config.schema import RunConfig
from asyncds.engine.checkpoint_writer import NoRoomError
from asyncds.engine.process_group import Patience
from asyncds.engine.training import LossFunction, UpdateMetrics
from asyncds.protocol.batch import Shard
from asyncds.protocol.codec import pack_shard
from asyncds.protocol.sharding import make_shards
from asyncds.protocol.wire import BatchRequest, Drain, Finish
from asyncds.telemetry.metrics.catalogue import CATALOGUE
from asyncds.telemetry.metrics.registry import Metrics, build_metrics
from asyncds.telemetry.traces.traces import Traces
from services.learner.checkpoints import Checkpoints
from services.learner.inbox import Inbox, PreemptedError
from services.learner.learner import Learner
from tests.support.objectives import make_objective
from tests.support.otlp_collector import traced
from tests.support.rollout_groups import make_group

PUBLISH_EVERY = 2
STEPS = 4


class MockEngine:
    """Its policy is the behaviour policy, moved by 0.1 nats a token; it doesn't learn."""

    rank, ranks, device, causal_lm = 0, 1, torch.device("cpu"), None
    size, patience = 1, Patience([], usual_s=1.0)

    def probe(self, token_ids: object) -> None:
        return None

    def update(self, shard: Shard, objective: LossFunction, **_: object) -> UpdateMetrics:
        log_probs = torch.from_numpy(shard.logprobs - np.float32(0.1))
        loss, sums = objective(
            log_probs=log_probs,
            entropy=torch.ones_like(log_probs),
            old_log_probs=None,
            reference_log_probs=None,
            sequence=torch.from_numpy(
                np.repeat(shard.sequences, shard.table.length[shard.sequences]).astype(np.int64)
            ),
            token_index=torch.arange(len(log_probs)),
        )
        return UpdateMetrics(
            optimizer_steps=1,
            loss=loss.item(),
            grad_norm=1.0,
            clipped=0.5,
            lr=1e-4,
            tokens=len(log_probs),
            micro_batches=1,
            padding=0.0,
            sums=sums,
            seconds={"forward": 0.0, "backward": 0.0, "step": 0.0},
            deepspeed_seconds={"fwd": 0.25},
        )


class MockLink:
    """Answers a request with the batch: half of its tokens by version 0, half by the newest."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.reports: list[dict[str, float]] = []

    def send(self, message: BatchRequest) -> None:
        self.reports.append(message.report)
        newest = message.step // PUBLISH_EVERY
        groups = [make_group(versions=(0,)), make_group(versions=(newest,))]
        shards = make_shards(message.step, groups, 1, leases=[11, 12], generators=["a", "b"])
        last = message.step == STEPS
        self.inbox.receive(Finish(reason="done") if last else pack_shard(shards[0]))
        if last:
            self.inbox.receive(Drain(reason="done"))

    def check(self) -> None: ...

    def beat(self) -> None: ...


class MockWriter:
    """Begins to write when told to, and is through with it when it is waited for.

    full: how many are left out for want of room. tried: names of what was begun.
    """

    full = 0
    tried: ClassVar[list[str]] = []

    def __init__(self, _: object, root: Path, *, ended: Callable[..., None], **__: object) -> None:
        self.root, self.ended = root, ended
        self.waited_for = 0
        self.under_way: int | None = None

    @property
    def writing(self) -> bool:
        return self.under_way is not None

    def check(self) -> None: ...

    def begin(self, step: int, *, state: object) -> None:
        assert not self.writing
        self.tried.append(f"step-{step}")
        self.under_way = step

    def wait(self) -> NoRoomError | None:
        step, self.under_way = self.under_way, None
        if step is None:
            return None
        problem = None
        if MockWriter.full:
            MockWriter.full -= 1
            problem = NoRoomError(f"the checkpoint {self.root}/step-{step} was not written")
        self.ended(step, 0.5, problem)
        return problem


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the checkpoints that were begun; nothing is written."""
    monkeypatch.setattr(MockWriter, "tried", [])
    monkeypatch.setattr(MockWriter, "full", 0)
    monkeypatch.setattr("services.learner.checkpoints.CheckpointWriter", MockWriter)
    return MockWriter.tried


def make_learner(
    path: Path,
    metrics: Metrics,
    *,
    step: int = 0,
    every: int = 100,
    end_seconds: float = 10.0,
    traces: Traces | None = None,
    **options: Any,
) -> Learner:
    staged = SimpleNamespace(
        placement=SimpleNamespace(bucket_bytes=16),
        place=0,
        places=1,
        version=0,
        copy=lambda *_, **__: None,
    )
    config = RunConfig(
        model="none",
        runs_dir=str(path),
        steps=STEPS,
        rollout={"max_lag": 3},
        weights={"publish_every": PUBLISH_EVERY},
        checkpoint={"every": every, "keep_last": 1},
        coordinator={"stall_seconds": end_seconds},
    )
    engine = cast(Any, MockEngine())
    checkpoints = Checkpoints(path / "checkpoints", engine=engine, config=config, metrics=metrics)
    checkpoints.newest = step or -1
    return Learner(
        config,
        engine=engine,
        objective=make_objective(**options),
        staged=cast(Any, staged),
        probe=np.zeros(1, dtype=np.int32),
        metrics=metrics,
        traces=traces or Traces(None, run="r", role="learner", name="l"),
        checkpoints=checkpoints,
    )


def test_lag_is_counted_from_the_version_that_trains(saved: list[str], tmp_path: Path) -> None:
    metrics = build_metrics("learner")
    learner = make_learner(tmp_path, metrics)
    inbox = Inbox()
    link = MockLink(inbox)
    assert learner.run(link=cast(Any, link), inbox=inbox, publisher=None) == "done"

    first, *reports = link.reports
    assert first == {}
    tokens = [
        {k.removeprefix("tokens/"): v for k, v in r.items() if k.startswith("tokens/")}
        for r in reports
    ]
    every_batch = {"generator=a": 6, "generator=b": 6}
    assert tokens[:2] == [{"lag=0": 12, **every_batch}] * 2
    assert tokens[2:] == [{"lag=0": 6, "lag=1": 6, **every_batch}] * 2
    assert reports[3]["ratio/lag=1"] == pytest.approx(np.exp(-0.1))
    text = generate_latest(metrics.registry).decode()
    assert 'asyncds_learner_ess_by_lag{lag="1"}' in text


def test_a_batch_is_trained_and_reported_with_what_its_schedules_say(
    saved: list[str], tmp_path: Path
) -> None:
    """From a checkpoint after two batches: what is in force depends on the step alone."""
    falling = {"kind": "ds_grpo", "gamma_n": {"start": 0.4, "end": 0.0, "steps": 4}}
    learner = make_learner(tmp_path, build_metrics("learner"), step=2, advantage=falling)
    inbox = Inbox()
    link = MockLink(inbox)
    learner.run(link=cast(Any, link), inbox=inbox, publisher=None)
    _, *reports = link.reports
    in_force = [report["coefficient/advantage.gamma_n"] for report in reports]
    assert in_force == pytest.approx([0.2, 0.1])
    shifts = [report["ds_shift_incorrect"] for report in reports]
    assert shifts[0] < 0
    assert shifts[1] == pytest.approx(shifts[0] / 2)


def test_every_number_of_the_report_is_declared(saved: list[str], tmp_path: Path) -> None:
    inbox = Inbox()
    link = MockLink(inbox)
    learner = make_learner(tmp_path, build_metrics("learner"))
    learner.run(link=cast(Any, link), inbox=inbox, publisher=None)
    report = link.reports[-1]
    declared = {k for m in CATALOGUE["learner"] if m.record for _, k in m.found_in(report)}
    assert set(report) - declared == set()


class PreemptingLink(MockLink):
    """A signal comes while batch `at` is trained."""

    def __init__(self, inbox: Inbox, *, at: int) -> None:
        super().__init__(inbox)
        self.at = at

    def send(self, message: BatchRequest) -> None:
        if message.step == self.at + 1:
            self.inbox.leave("SIGTERM")
        super().send(message)


@pytest.mark.parametrize(
    ("step", "at", "every", "expected"),
    [
        (0, 1, 100, ["step-2"]),
        (0, 1, 2, ["step-2"]),  # that of the last step is there already
        (0, -1, 100, []),  # nothing was trained
        (2, 1, 100, []),  # nor since it was loaded
    ],
)
def test_a_signal_has_the_last_step_saved(
    saved: list[str], tmp_path: Path, step: int, at: int, every: int, expected: list[str]
) -> None:
    learner = make_learner(tmp_path, build_metrics("learner"), step=step, every=every)
    inbox = Inbox()
    link = PreemptingLink(inbox, at=at)
    with pytest.raises(PreemptedError, match="told to leave by SIGTERM"):
        learner.run(link=cast(Any, link), inbox=inbox, publisher=None)
    assert saved == expected
    assert learner.heartbeat().checkpoint == (2 if expected or step else -1)


def test_checkpoints_to_be_kept_are_not_pruned(
    saved: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: list[set[int]] = []
    monkeypatch.setattr(
        "services.learner.checkpoints.checkpoint.prune",
        lambda root, keep_last, keep: kept.append(set(keep)),
    )
    learner = make_learner(tmp_path, build_metrics("learner"), every=2)
    inbox = Inbox()
    learner.checkpoints.keep([2, 3])
    learner.run(link=cast(Any, MockLink(inbox)), inbox=inbox, publisher=None)
    assert saved == ["step-2", "step-4"]
    assert kept == [{2, 3}, {2, 3}]


def test_training_goes_on_while_a_checkpoint_is_written(saved: list[str], tmp_path: Path) -> None:
    """Batches are asked for and trained; the checkpoint is told of only once it is written."""
    learner = make_learner(tmp_path, build_metrics("learner"), every=2)
    inbox = Inbox()
    told: list[tuple[int, int]] = []

    class Link(MockLink):
        def send(self, message: BatchRequest) -> None:
            told.append((message.step, learner.heartbeat().checkpoint))
            super().send(message)

        def beat(self) -> None:
            told.append((-1, learner.heartbeat().checkpoint))

    learner.run(link=cast(Any, Link(inbox)), inbox=inbox, publisher=None)
    asked = [one for one in told if one[0] >= 0]
    assert asked == [(0, -1), (1, -1), (2, -1), (3, -1), (4, 2)]
    assert told[-1] == (-1, 4), "at once"


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(
    saved: list[str], tmp_path: Path
) -> None:
    learner = make_learner(tmp_path, build_metrics("learner"), every=2)
    inbox = Inbox()
    link = PreemptingLink(inbox, at=2)
    with pytest.raises(PreemptedError):
        learner.run(link=cast(Any, link), inbox=inbox, publisher=None)
    assert (saved, learner.heartbeat().checkpoint) == (["step-2", "step-3"], 3)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_traces_what_is_trained(
    saved: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setattr(MockEngine, "rank", rank)
    with traced("learner") as (traces, collector):
        learner = make_learner(tmp_path, build_metrics("learner"), traces=traces)
        inbox = Inbox()
        learner.run(link=cast(Any, MockLink(inbox)), inbox=inbox, publisher=None)
    told = {
        lease: [(s.name, s.attributes["step"], s.attributes["version"]) for s in spans]
        for lease, spans in collector.of("lease").items()
    }
    steps = [("train", step, step // PUBLISH_EVERY) for step in range(STEPS)]
    assert told == ({} if rank else {11: steps, 12: steps})


@pytest.mark.parametrize("failures", [1, 3, 1000])
def test_a_checkpoint_that_there_is_no_room_for(
    saved: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    failures: int,
) -> None:
    """That of the second of four steps, and the last one for a while, or for good."""
    monkeypatch.setattr(MockWriter, "full", failures)
    monkeypatch.setattr("services.learner.learner.RETRY_SECONDS", 0.01)
    metrics = build_metrics("learner")
    learner = make_learner(tmp_path, metrics, every=2, end_seconds=0.5)
    inbox = Inbox()
    if failures == 1000:
        with pytest.raises(NoRoomError, match="step-4 was not written"):
            learner.run(link=cast(Any, MockLink(inbox)), inbox=inbox, publisher=None)
        assert learner.heartbeat().checkpoint == -1
    else:
        learner.run(link=cast(Any, MockLink(inbox)), inbox=inbox, publisher=None)
        assert saved == ["step-2"] + ["step-4"] * failures
        assert learner.heartbeat().checkpoint == 4
        text = generate_latest(metrics.registry).decode()
        assert f"asyncds_learner_checkpoint_failures_total {failures}.0" in text
    assert "step-2 was not written" in caplog.text
    assert learner.step == STEPS


def test_a_rank_leaves_when_another_is_told_to(
    saved: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The other rank is mocked: it raises its flag before the third batch."""
    flags = [0, 0, 1]
    monkeypatch.setattr(MockEngine, "ranks", 2)
    monkeypatch.setattr(
        "services.learner.learner.dist.all_reduce", lambda flag, op: flag.fill_(flags.pop(0))
    )
    monkeypatch.setattr(Learner, "_meet", lambda _: None)  # no flag is raised there
    learner = make_learner(tmp_path, build_metrics("learner"))
    inbox = Inbox()
    with pytest.raises(PreemptedError, match="another rank was told to leave"):
        learner.run(link=cast(Any, MockLink(inbox)), inbox=inbox, publisher=None)
    assert (saved, learner.step) == (["step-2"], 2)
