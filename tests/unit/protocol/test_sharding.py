"""Sharding: every sequence goes to one rank, whole, and ranks get about equally many tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.protocol.codec import GroupArrays, pack_shard, unpack_shard
from asyncds.protocol.sharding import EVEN, balance, balance_groups, make_shards
from asyncds.protocol.spans import sampled_mask
from tests.support.rollout_groups import group_arrays

token_counts = st.lists(st.integers(0, 5000), min_size=1, max_size=60)


@given(token_counts, st.integers(1, 8))
def test_balance_within_the_longest_sequence(tokens: list[int], ranks: int) -> None:
    counts = np.array(tokens, dtype=np.int32)
    if len(tokens) < ranks:
        with pytest.raises(ValueError, match="ranks"):
            balance(counts, ranks)
        return
    owner = balance(counts, ranks)
    assert set(owner.tolist()) == set(range(ranks))
    load = np.bincount(owner, weights=np.maximum(counts, 1), minlength=ranks)
    assert load.max() - load.min() <= max(counts.max(), 1)
    np.testing.assert_array_equal(owner, balance(counts.copy(), ranks))


@given(
    st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=8), min_size=1, max_size=30),
    st.integers(1, 8),
)
def test_groups_stay_together_where_that_balances_as_well(
    groups: list[list[int]], ranks: int
) -> None:
    tokens = np.array([t for group in groups for t in group], dtype=np.int32)
    ranks = min(ranks, len(tokens))
    sizes = [len(group) for group in groups]
    owner = balance_groups(tokens, groups=sizes, ranks=ranks)
    load = np.bincount(owner, weights=tokens, minlength=ranks)
    parts = np.split(owner, np.cumsum(sizes)[:-1])
    together = all(len(set(part.tolist())) == 1 for part in parts)
    if together and ranks > 1 and max(sizes) > 1:
        assert load.max() <= EVEN * load.mean()
    if not together:
        np.testing.assert_array_equal(owner, balance(tokens, ranks))


def test_equal_groups_are_never_divided() -> None:
    owner = balance_groups(np.full(32 * 8, 20, np.int32), groups=[8] * 32, ranks=8)
    assert [len(set(part.tolist())) for part in np.split(owner, 32)] == [1] * 32


@given(st.lists(group_arrays(), min_size=1, max_size=4), st.integers(1, 4))
def test_every_sequence_is_in_one_shard_unchanged(groups: list[GroupArrays], ranks: int) -> None:
    n = sum(len(g.lengths) for g in groups)
    ranks = min(ranks, n)
    generators = [("b", "a")[i % 2] for i in range(len(groups))]
    leases = [10 + i for i in range(len(groups))]
    shards = make_shards(5, groups, ranks, leases=leases, generators=generators)
    again = make_shards(5, groups, ranks, leases=leases, generators=generators)
    expected = [
        (i, g.prompt_ids, ids, sampled, logprobs, versions, reward, correct, finished)
        for i, g in enumerate(groups)
        for ids, sampled, logprobs, versions, reward, correct, finished in zip(
            *(np.split(flat, np.cumsum(g.lengths)[:-1]) for flat in (g.completion_ids, g.sampled)),
            *(
                np.split(flat, np.cumsum(g.sampled_lengths)[:-1])
                for flat in (g.logprobs, g.versions)
            ),
            g.rewards,
            g.correct,
            g.finished,
            strict=True,
        )
    ]
    seen: list[int] = []
    for rank, (shard, twin) in enumerate(zip(shards, again, strict=True)):
        assert pack_shard(shard) == pack_shard(twin)
        assert (shard.step, shard.rank, shard.leases) == (5, rank, leases)
        assert pack_shard(unpack_shard(pack_shard(shard))) == pack_shard(shard)
        table = shard.table
        assert len(table) == n
        assert shard.generators == generators[:2]
        assert pack_shard(shard).table == pack_shard(shards[0]).table
        ends = np.cumsum(table.length[shard.sequences])[:-1]
        sampled_ends = np.cumsum(table.sampled[shard.sequences])[:-1]
        masks = sampled_mask(shard.given, len(shard.completion_ids))
        prompts = np.split(shard.prompt_ids, np.cumsum(table.prompt_length[shard.sequences])[:-1])
        parts = zip(
            shard.sequences.tolist(),
            prompts,
            *(np.split(a, ends) for a in (shard.completion_ids, masks)),
            *(np.split(a, sampled_ends) for a in (shard.logprobs, shard.versions)),
            strict=True,
        )
        for sequence, prompt, ids, sampled, logprobs, versions in parts:
            seen.append(sequence)
            group, *whole, reward, correct, finished = expected[sequence]
            assert table.group[sequence] == group
            assert table.rank[sequence] == rank
            for got, wanted in zip((prompt, ids, sampled, logprobs, versions), whole, strict=True):
                np.testing.assert_array_equal(got, wanted)
            assert (table.reward[sequence], table.correct[sequence]) == (reward, correct)
            assert table.finished[sequence] == finished
            assert shard.generators[table.generator[sequence]] == generators[group]
            total = np.float32(logprobs.astype(np.float64).sum())
            scale = float(np.abs(groups[group].logprobs.astype(np.float64)).sum())
            assert np.isclose(table.logprob_sum[sequence], total, rtol=1e-6, atol=1e-9 * scale)
    assert sorted(seen) == list(range(n))
