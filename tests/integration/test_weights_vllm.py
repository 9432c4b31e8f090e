"""Weights sent into a real vLLM engine (CPU, gloo) while it samples.

Every claim is checked on what the engine computes: its log-probabilities against those of the same
weights in transformers.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from asyncds.config.sampling import EpisodesConfig
from asyncds.engine.generation import Completion
from asyncds.protocol.spans import sampled_mask
from asyncds.protocol.wire import Lease
from asyncds.tasks.countdown.calculator import CalculatorTask
from asyncds.tiny.model import save_untrained
from asyncds.weights import plugin
from asyncds.weights.communicator import Communicator, TransferFailed
from asyncds.weights.rendezvous import connect
from services.generator.episodes import EpisodePlayer
from tests.integration.engine_rig import PROMPT, TIMEOUT, TOLERANCE, Rig, log_softmax_of_next
from tests.integration.playing import TURNS, Playing

pytestmark = pytest.mark.slow

SHORT = 3.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("model") / "tied"
    save_untrained(path, seed=0)
    return path


@pytest.fixture(scope="module")
def rig(base: Path, loop: asyncio.Runner) -> Iterator[Rig]:
    rig = Rig(base, loop)
    assert rig.model.config.tie_word_embeddings
    yield rig
    rig.sender.close()
    loop.run(rig.engine.stop(timeout=TIMEOUT))


def test_registering_twice_changes_nothing() -> None:
    plugin.register()
    plugin.register()
    loaded = WeightTransferEngineFactory._registry[plugin.BACKEND]()
    assert loaded.__name__ == "AsyncdsTransferEngine"


def test_engine_is_forked_with_its_number_of_threads(rig: Rig) -> None:
    engine_core = multiprocessing.active_children()
    assert [type(process).__name__ for process in engine_core] == ["ForkProcess"]
    assert torch.get_num_threads() == 1  # which a fork inherits


def test_engine_begins_with_the_base_model(rig: Rig, loop: asyncio.Runner) -> None:
    loop.run(rig.assert_engine_computes_with_the_model())
    completion = loop.run(rig.sample(max_tokens=5))
    assert completion.versions.tolist() == [0] * 5
    assert completion.finish_reason == "length"
    loop.run(rig.engine.health())


def test_update_in_the_middle_of_running_requests(rig: Rig, loop: asyncio.Runner) -> None:
    async def scenario() -> None:
        for version in (1, 2):
            before = version - 1
            tasks = await rig.start_long_requests(8)
            rig.train()
            result = await rig.update()
            assert rig.engine.version == version
            assert result.receive_seconds > 0
            assert result.pause_seconds > 0
            for completion in await asyncio.gather(*tasks):
                assert len(completion.token_ids) == len(completion.logprobs) == 240
                versions = completion.versions.tolist()
                assert versions == sorted(versions)
                assert set(versions) == {before, version}
            await rig.assert_engine_computes_with_the_model()

    loop.run(scenario())


def test_sampled_log_probs_have_the_temperature_applied(rig: Rig, loop: asyncio.Runner) -> None:
    completion = loop.run(rig.sample(max_tokens=40, temperature=0.6, seed=1))
    token_ids = [*PROMPT, *completion.token_ids.tolist()]
    expected = log_softmax_of_next(rig.model, token_ids, 0.6)[len(PROMPT) - 1 :]
    np.testing.assert_allclose(completion.logprobs, expected, atol=TOLERANCE, rtol=0)
    assert completion.logprobs.dtype == np.float32
    assert completion.token_ids.dtype == completion.versions.dtype == np.int32


def test_a_new_request_reuses_no_prefix_of_an_older_version(rig: Rig, loop: asyncio.Runner) -> None:
    prompt = [3 + i % 100 for i in range(200)]

    async def scenario() -> None:
        for _ in range(2):
            completion = await rig.sample(prompt=prompt, max_tokens=8)
            token_ids = prompt + completion.token_ids.tolist()
            expected = log_softmax_of_next(rig.model, token_ids, 1.0)[len(prompt) - 1 :]
            np.testing.assert_allclose(completion.logprobs, expected, atol=TOLERANCE, rtol=0)
            rig.train()
            await rig.update()

    loop.run(scenario())


def test_equal_seeds_sample_equal_tokens(rig: Rig, loop: asyncio.Runner) -> None:
    async def both() -> list[Completion]:
        return await asyncio.gather(*[rig.sample(max_tokens=20, seed=7) for _ in range(2)])

    first, second = loop.run(both())
    assert first.token_ids.tolist() == second.token_ids.tolist()


def test_seeded_prompts_that_exceed_one_step_together(rig: Rig, loop: asyncio.Runner) -> None:
    """One of them would be prefilled in two parts, which kills an engine on CPU."""

    async def scene() -> None:
        prompts = [[5 + i, *range(3, 103), *range(3, 103)] for i in range(16)]
        completions = await asyncio.gather(
            *(rig.sample(prompt, max_tokens=3, seed=i) for i, prompt in enumerate(prompts))
        )
        assert [len(c.token_ids) for c in completions] == [3] * 16
        await rig.engine.health()

    loop.run(scene())


def test_an_episode_is_what_its_weights_say_across_updates(
    rig: Rig, base: Path, loop: asyncio.Runner
) -> None:
    """Every sampled token, when weights change between the turns of an episode and within one."""
    playing, task = Playing(rig), CalculatorTask(n_eval=1)
    task.stop = ()
    row = task.rows("eval")[0]
    player = EpisodePlayer(
        engine=playing,  # type: ignore[arg-type]
        scorer=playing,  # type: ignore[arg-type]
        task=task,
        tokenizer=AutoTokenizer.from_pretrained(base),
        limits=EpisodesConfig(max_turns=len(TURNS)),
    )
    lease = Lease(
        id=1,
        split="eval",
        row=0,
        attempt=1,
        group_size=1,
        seed=3,
        temperature=1.0,
        max_tokens=240,
        top_p=1.0,
        top_k=-1,
        min_p=0.0,
        straggler_seconds=TIMEOUT,
        min_group=1,
    )
    ids = np.array(PROMPT, np.int32)
    played = loop.run(player.play(lease, row, task.prompt(row), ids, 0))
    completion, first = played.completion, min(playing.models)
    assert completion.limit == "turns"
    assert set(completion.versions.tolist()) == {first, first + 1, first + 2}
    tokens = [*PROMPT, *completion.token_ids.tolist()]
    sampled = sampled_mask(completion.given, len(completion.token_ids))
    starts = np.flatnonzero(np.diff(sampled, prepend=False) & sampled)
    assert len(starts) == len(TURNS)
    turns = np.split(completion.versions, np.cumsum(TURNS)[:-1])
    assert [len(set(versions.tolist())) for versions in turns] == [1, 2, 1]
    expected = [
        playing.log_probs(tokens, versions.tolist(), len(PROMPT) + start)
        for start, versions in zip(starts, turns, strict=True)
    ]
    np.testing.assert_allclose(
        completion.logprobs, np.concatenate(expected), atol=TOLERANCE, rtol=0
    )


def test_text_is_that_of_the_tokenizer(rig: Rig, base: Path, loop: asyncio.Runner) -> None:
    completion = loop.run(rig.sample(max_tokens=10))
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)


def test_abort_returns_what_there_is(rig: Rig, loop: asyncio.Runner) -> None:
    async def scenario() -> Completion:
        [task] = await rig.start_long_requests(1)
        assert rig.engine.stats().running == 1
        assert 0 < rig.engine.stats().kv_cache_usage < 1
        await rig.engine.abort([f"request-{rig.requests - 1}"])
        return await task

    completion = loop.run(scenario())
    assert completion.finish_reason == "abort"
    assert 0 < len(completion.token_ids) < 240
    assert len(completion.versions) == len(completion.logprobs) == len(completion.token_ids)


@dataclass(frozen=True)
class Broken:
    """A transfer that fails. send: what the sender does, with a group of its own. receive: what is
    told to the engine other than the truth. match: what it says."""

    send: Callable[[Rig], Communicator | None]
    match: str
    receive: dict[str, Any] = field(default_factory=dict)


def join(rig: Rig) -> Communicator:
    return connect(rig.rendezvous, rank=0, world_size=rig.world_size, device="cpu", timeout=TIMEOUT)


def send(rig: Rig, buckets: list[torch.Tensor]) -> Communicator:
    communicator = join(rig)
    communicator.send(buckets, deadline=time.monotonic() + TIMEOUT)
    return communicator


def send_and_vanish(rig: Rig) -> None:
    send(rig, rig.staged.buckets[:5]).abort()


def send_corrupt(rig: Rig) -> Communicator:
    buckets = [bucket.clone() for bucket in rig.staged.buckets]
    buckets[-1][0] += 1
    return send(rig, buckets)


BROKEN = {
    "nobody joins": Broken(lambda rig: None, r"ranks \[0\] did not join"),
    "silent from the start": Broken(join, "gloo broadcast of"),
    "silent in the middle": Broken(lambda rig: send(rig, rig.staged.buckets[:5]), "gloo broadcast"),
    "cut in the middle": Broken(send_and_vanish, "gloo broadcast of"),
    "corrupt": Broken(send_corrupt, "has not the checksum of what was sent"),
    "announced otherwise": Broken(
        lambda rig: None, "1 checksums were announced for", {"checksums": [1]}
    ),
    "another placement": Broken(
        lambda rig: None, "a bucket has a multiple of 16 bytes", {"bucket_bytes": 24}
    ),
}


async def fails(rig: Rig, broken: Broken) -> None:
    """A transfer fails as expected. The engine samples meanwhile and after, with what it had."""
    version = rig.engine.version
    tasks = await rig.start_long_requests(3)
    rig.sender.close()
    rig.rendezvous = rig.sender.new_rendezvous()
    rig.train()
    receiving = asyncio.ensure_future(rig.receive(timeout=SHORT, **broken.receive))
    silent = await asyncio.to_thread(broken.send, rig)
    with pytest.raises(TransferFailed, match=broken.match):
        await receiving
    if silent is not None:
        silent.abort()
    assert rig.engine.weights_valid
    assert rig.engine.version == version
    for completion in await asyncio.gather(*tasks):
        assert set(completion.versions.tolist()) == {version}
    assert set((await rig.sample(max_tokens=3)).versions.tolist()) == {version}


async def works(rig: Rig) -> None:
    """A transfer of new weights succeeds on every worker, in the middle of requests."""
    version = rig.engine.version
    tasks = await rig.start_long_requests(3)
    rig.rendezvous = rig.sender.new_rendezvous()
    rig.train()  # other weights than those that arrived in part: a left-over would be seen
    await rig.update()
    assert rig.engine.version == rig.staged.version
    for completion in await asyncio.gather(*tasks):
        assert set(completion.versions.tolist()) == {version, rig.engine.version}
    await rig.assert_engine_computes_with_the_model()


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_transfer_that_fails_changes_nothing(
    rig: Rig, loop: asyncio.Runner, broken: Broken
) -> None:
    async def scenario() -> None:
        await fails(rig, broken)
        await works(rig)

    loop.run(scenario())


def test_an_untied_mixture_of_experts(base: Path, tmp_path: Path, loop: asyncio.Runner) -> None:
    torch.manual_seed(0)  # where two experts tie, rounding would choose
    tokenizer = AutoTokenizer.from_pretrained(base)
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    config = MixtralConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=False, **sizes, **heads, **experts
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    rig = Rig(tmp_path, loop, tokenizer=base)
    try:
        assert "lm_head.weight" in [spec.name for spec in rig.staged.placement.specs]
        loop.run(rig.assert_engine_computes_with_the_model())
        rig.train()
        loop.run(rig.update())
        loop.run(rig.assert_engine_computes_with_the_model())
    finally:
        loop.run(rig.engine.stop(timeout=TIMEOUT))
