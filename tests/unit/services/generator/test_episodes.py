"""Episodes in a generator: real processes of an environment, and an engine that is mocked.

The engine says what it is told to, by turn; its tokens are bytes.
"""

import asyncio
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.config.engines import ScoringConfig
from asyncds.config.sampling import EpisodesConfig, Limit
from asyncds.engine.generation import Completion
from asyncds.protocol.codec import GroupArrays, decode_group, encode, unpack_group
from asyncds.protocol.wire import Lease
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.tasks.base import Row, Split
from asyncds.telemetry.metrics.registry import build_metrics
from services.generator.episodes import EpisodePlayer, turn_seed
from services.generator.work import GroupSampler, LeaseError
from tests.support.hostile_environment import HostileEnvironment
from tests.support.paths import ROOT

EOS = 256
PROMPT = [ord("?")]


class Bytes:
    """A tokenizer of bytes."""

    def encode(self, text: str, **_: object) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return bytes(i for i in ids if i != EOS).decode()


class Script:
    """An engine that says what a script has, by sample and turn; weights change with every turn."""

    max_model_len = 1000

    def __init__(self, *samples: Sequence[str], seconds_per_turn: float = 0.0) -> None:
        self._samples = samples
        self._seconds = seconds_per_turn
        self._now = 0.0
        self.asked: list[SimpleNamespace] = []

    def sampling_clock(self) -> float:
        return self._now

    async def generate(self, prompt_ids: Any, *, request_id: str, **options: Any) -> Completion:
        _, _, sample, turn = map(int, request_id.split("-"))
        self.asked.append(SimpleNamespace(ids=list(prompt_ids), request=request_id, **options))
        self._now += self._seconds
        ids = [*self._samples[sample][turn].encode(), EOS][: options["max_tokens"]]
        return Completion(
            token_ids=np.array(ids, dtype=np.int32),
            logprobs=-np.arange(1, len(ids) + 1, dtype=np.float32) / 8,
            versions=np.full(len(ids), turn, dtype=np.int32),
            finish_reason="stop" if ids[-1] == EOS else "length",
            text=Bytes().decode(ids),
        )


class Rows(HostileEnvironment):
    """The environment of the processes, with a row for each way to begin and to end."""

    def __init__(self, **fields: str) -> None:
        self._fields = fields

    def rows(self, split: Split) -> Sequence[Row]:
        return [Row(0, self._fields)]


def lease(*, samples: int, max_tokens: int = 100) -> Lease:
    return Lease(
        id=7,
        split="train",
        row=0,
        attempt=1,
        group_size=samples,
        seed=11,
        temperature=1.0,
        max_tokens=max_tokens,
        top_p=1.0,
        top_k=-1,
        min_p=0.0,
        straggler_seconds=50.0,
        min_group=1,
    )


def fulfilled(
    engine: Script,
    *,
    samples: int = 1,
    max_tokens: int = 100,
    limits: EpisodesConfig | None = None,
    **fields: str,
) -> tuple[GroupArrays, Any, Any]:
    """The group of a lease, the message that delivers it, and the generator's metrics."""
    task: Any = Rows(**fields)
    tokenizer, metrics = Bytes(), build_metrics("generator")

    async def play() -> Any:
        settings = ScoringConfig(timeout_seconds=2.0, memory_mb=512, episodes=3)
        kind = "tests.support.hostile_environment:HostileEnvironment"
        pool = ProcessPoolScorer(kind=kind, options={}, settings=settings, episodes=True)
        async with asyncio.timeout(100), pool as scorer:
            player = EpisodePlayer(
                engine=engine,  # type: ignore[arg-type]
                scorer=scorer,
                task=task,
                tokenizer=tokenizer,
                limits=limits or EpisodesConfig(),
            )
            sampler = GroupSampler(
                engine=engine,  # type: ignore[arg-type]
                scorer=scorer,
                task=task,
                tokenizer=tokenizer,
                metrics=metrics,
                episodes={"": player},
            )
            return await sampler.fulfil(lease(samples=samples, max_tokens=max_tokens))

    delivered = asyncio.run(play())
    return unpack_group(decode_group(encode(delivered.group))), delivered, metrics


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))


def test_what_was_sampled_and_what_was_said_are_told_apart_across_weight_updates() -> None:
    engine = Script(["ab", "c", "done"], ["done"])
    group, delivered, _ = fulfilled(engine, samples=2)
    first, second = (bytes(i % 256 for i in ids).decode("latin1") for ids in group.completions())
    assert (first, second) == ("ab\0ab!c\0c!done\0", "done\0")
    mask = "".join("s" if sampled else "g" for sampled in group.sampled)
    assert mask == "sssgggssggsssss" + "sssss"
    assert group.sampled_lengths.tolist() == [10, 5]
    assert group.versions.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0]
    by_turn = [np.arange(1, n + 1) / -8 for n in (3, 2, 5, 5)]
    assert group.logprobs.tolist() == np.concatenate(by_turn).tolist()
    assert group.answers == {"written": ["ab c", ""]}
    assert group.rewards.tolist() == [1, 1]
    assert group.finished.all()
    assert delivered.score_errors == 0


def test_every_turn_goes_on_from_the_tokens_themselves() -> None:
    engine = Script(["ab", "c", "done"])
    fulfilled(engine)
    said = [PROMPT, [*b"ab", EOS, *b"ab!"], [*b"c", EOS, *b"c!"]]
    expected = [[token for part in said[: i + 1] for token in part] for i in range(3)]
    assert [asked.ids for asked in engine.asked] == expected
    assert len({asked.request for asked in engine.asked}) == 3
    seeds = [asked.seed for asked in engine.asked]
    assert seeds == [turn_seed(11, i) for i in range(3)]
    assert seeds[0] == 11
    assert [asked.max_tokens for asked in engine.asked] == [100, 94, 90]


@given(st.integers(0, 2**32), st.integers(0, 50))
def test_turns_have_seeds_of_their_own(seed: int, turn: int) -> None:
    seeds = [turn_seed(seed, turn), turn_seed(seed, turn + 1), turn_seed(seed + 1, turn)]
    assert len(set(seeds)) == 3
    assert all(0 <= s < 2**33 for s in seeds)


@pytest.mark.parametrize(
    ("limits", "max_tokens", "seconds", "turns", "reason"),
    [
        (EpisodesConfig(max_turns=2), 100, 0.0, 2, "turns"),
        (EpisodesConfig(), 10, 0.0, 2, "tokens"),
        (EpisodesConfig(), 6, 0.0, 1, "tokens"),
        (EpisodesConfig(seconds=25), 100, 10.0, 3, "seconds"),
    ],
    ids=["turns", "tokens", "tokens at once", "seconds"],
)
def test_an_episode_ends_at_each_limit(
    limits: EpisodesConfig, max_tokens: int, seconds: float, turns: int, reason: Limit
) -> None:
    """It is worth what the environment says, and nothing that was said is at its end."""
    engine = Script(["ab", "c", "d", "e", "f"], seconds_per_turn=seconds)
    group, _, metrics = fulfilled(engine, max_tokens=max_tokens, limits=limits)
    assert group.reasons == [reason]
    counts = {name: metrics.counter("limits_total", limit=name) for name in get_args(Limit)}
    assert {n: c._value.get() for n, c in counts.items() if c._value.get()} == {reason: 1}
    assert len(engine.asked) == turns
    assert group.rewards.tolist() == [0.25]
    assert not group.finished.any()
    assert group.sampled[-1]
    assert group.lengths[0] <= max_tokens
    assert len(group.given) == turns - 1


def test_a_turn_has_a_limit_of_its_own() -> None:
    engine = Script(["abcdef", "done"])
    group, _, _ = fulfilled(engine, limits=EpisodesConfig(turn_tokens=5))
    assert bytes(i % 256 for i in group.completion_ids) == b"abcdeabcde!done\0"


@pytest.mark.parametrize(
    ("fields", "completions", "reason"),
    [
        ({"start": "raise"}, ["a", "done"], "exception"),
        ({"start": "die"}, ["a", "done"], "crash"),
        ({}, ["a", "hang"], "timeout"),
        ({}, ["a", "100 MB"], "output"),
        ({}, ["rubbish"], "invalid"),
        ({"close": "die"}, ["a", "done"], "crash"),
    ],
)
def test_a_hostile_environment_costs_the_rollout_and_is_counted(
    fields: dict[str, str], completions: list[str], reason: str
) -> None:
    engine = Script(completions, ["done"], ["done"])
    group, delivered, metrics = fulfilled(engine, samples=3, **fields)
    lost = 1 if not fields else 3
    assert group.rewards.tolist() == ([0, 1, 1] if lost == 1 else [0, 0, 0])
    assert delivered.score_errors == lost
    assert delivered.score_error.startswith(reason)
    assert group.reasons == [reason] * lost + [""] * (3 - lost)
    count = metrics.counter("score_errors_total", reason=reason)
    assert count._value.get() == lost


def test_an_episode_that_could_not_fit_is_refused_for_good() -> None:
    with pytest.raises(LeaseError, match="max_model_len"):
        fulfilled(Script(["a"]), max_tokens=1000)
