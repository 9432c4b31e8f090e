import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.engine.micro_batches import ShardIndex, input_lengths, plan_micro_batches, plan_updates
from asyncds.protocol.batch import SequenceTable, Shard
from asyncds.protocol.spans import given_spans


@st.composite
def tables(draw: st.DrawFn, max_ranks: int = 3) -> tuple[SequenceTable, int]:
    ranks = draw(st.integers(1, max_ranks))
    sequence = st.tuples(
        st.integers(0, 5),
        st.integers(1, 9),
        st.integers(1, 30),
        st.integers(0, ranks - 1),
        st.integers(1, 30),
    )
    rows = draw(st.lists(sequence, min_size=1, max_size=40))
    group, prompt, length, rank, sampled = np.array(rows, np.int32).T
    n = len(rows)
    table = SequenceTable(
        group=group,
        reward=np.zeros(n, np.float32),
        correct=np.zeros(n, np.bool_),
        prompt_length=prompt,
        length=length,
        sampled=np.minimum(sampled, length),
        logprob_sum=np.zeros(n, np.float32),
        rank=rank,
        finished=np.ones(n, np.bool_),
        generator=np.zeros(n, np.int32),
    )
    return table, ranks


def sampled_of(table: SequenceTable, sequence: int) -> np.ndarray:
    """Which tokens of a completion were sampled: as many as the table says, anywhere."""
    order = np.random.default_rng(sequence).permutation(table.length[sequence])
    return order < table.sampled[sequence]


def shard_of(table: SequenceTable, rank: int) -> Shard:
    """A shard whose token ids say which sequence and position they are."""
    mine = np.flatnonzero(table.rank == rank).astype(np.int32)
    prompts = [1000 * s + np.arange(table.prompt_length[s]) for s in mine]
    completions = [1000 * s + 500 + np.arange(table.length[s]) for s in mine]
    sampled = [sampled_of(table, s) for s in mine]
    flat = [np.concatenate([np.empty(0), *x]).astype(np.int32) for x in (prompts, completions)]
    return Shard(
        step=3,
        rank=rank,
        leases=list(range(int(table.group.max()) + 1)),
        table=table,
        generators=["g"],
        sequences=mine,
        prompt_ids=flat[0],
        completion_ids=flat[1],
        logprobs=np.zeros(int(table.sampled[mine].sum()), np.float32),
        versions=np.zeros(int(table.sampled[mine].sum()), np.int32),
        given=given_spans(np.concatenate([np.empty(0, np.bool_), *sampled])),
    )


@given(tables(), st.integers(1, 200))
def test_every_sequence_is_in_one_micro_batch_of_its_rank(
    drawn: tuple[SequenceTable, int], budget: int
) -> None:
    table, ranks = drawn
    rows = np.arange(len(table), dtype=np.int32)
    plan = plan_micro_batches(table, rows, ranks=ranks, token_budget=budget)
    assert len(plan) == ranks
    for rank, mine in enumerate(plan):
        assert sorted(np.concatenate(mine)) == list(np.flatnonzero(table.rank == rank))


@given(tables(), st.integers(1, 200))
def test_the_budget_holds_and_ranks_have_equal_counts(
    drawn: tuple[SequenceTable, int], budget: int
) -> None:
    table, ranks = drawn
    rows = np.arange(len(table), dtype=np.int32)
    lengths = input_lengths(table)
    plan = plan_micro_batches(table, rows, ranks=ranks, token_budget=budget)
    assert len({len(mine) for mine in plan}) == 1
    for members in (m for mine in plan for m in mine if len(m)):
        assert len(members) * lengths[members].max() <= budget or len(members) == 1
    assert any(all(len(m) for m in mine) for mine in plan), "some rank is never idle"


@given(tables(), st.data())
def test_updates_split_the_batch_between_groups(
    drawn: tuple[SequenceTable, int], data: st.DataObject
) -> None:
    table, _ = drawn
    n_groups = len(np.unique(table.group))
    minibatches = data.draw(st.integers(1, n_groups))
    updates = plan_updates(table, minibatches=minibatches)
    assert sorted(np.concatenate(updates)) == list(range(len(table)))
    groups = [set(table.group[rows]) for rows in updates]
    assert sum(map(len, groups)) == n_groups, "no group is in two updates"
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    with pytest.raises(ValueError, match="cannot be split"):
        plan_updates(table, minibatches=n_groups + 1)


@given(tables(max_ranks=2), st.integers(1, 100))
def test_the_tokens_that_are_trained_are_exactly_the_sampled_ones(
    drawn: tuple[SequenceTable, int], budget: int
) -> None:
    table, ranks = drawn
    rows = np.arange(len(table), dtype=np.int32)
    plan = plan_micro_batches(table, rows, ranks=ranks, token_budget=budget)
    for rank, mine in enumerate(plan):
        shard = shard_of(table, rank)
        index = ShardIndex(shard)
        nothing = np.empty(0, np.bool_)
        sampled = np.concatenate([nothing, *(sampled_of(table, s) for s in shard.sequences)])
        trained = shard.completion_ids[sampled]
        seen = []
        for members in mine:
            batch = index.assemble(members)
            assert batch.input_ids.size <= budget or len(batch.input_ids) == 1
            seen.extend(batch.token_index)
            np.testing.assert_array_equal(batch.targets, trained[batch.token_index])
            np.testing.assert_array_equal(batch.targets // 1000, batch.sequence)
            # What the model reads at the position of a target is the token before it.
            before = batch.input_ids[batch.row, batch.column]
            position = batch.targets % 1000 - 500
            last_of_prompt = table.prompt_length[batch.sequence] - 1
            expected = np.where(position == 0, last_of_prompt, 500 + position - 1)
            np.testing.assert_array_equal(before, 1000 * batch.sequence + expected)
        assert sorted(seen) == list(range(len(trained)))


def test_a_shard_that_contradicts_its_table_is_refused() -> None:
    table = SequenceTable(
        group=np.zeros(1, np.int32),
        reward=np.zeros(1, np.float32),
        correct=np.zeros(1, np.bool_),
        prompt_length=np.array([2], np.int32),
        length=np.array([3], np.int32),
        sampled=np.array([3], np.int32),
        logprob_sum=np.zeros(1, np.float32),
        rank=np.zeros(1, np.int32),
        finished=np.ones(1, np.bool_),
        generator=np.zeros(1, np.int32),
    )
    good = shard_of(table, 0)
    with pytest.raises(ValueError, match=r"step 3, rank 0: \(2, 2\).*\(2, 3\)"):
        ShardIndex(Shard(**{**vars(good), "completion_ids": good.completion_ids[:-1]}))
    empty = SequenceTable(**{**vars(table), "length": np.array([0], np.int32)})
    with pytest.raises(ValueError, match="at least one prompt and one completion token"):
        ShardIndex(shard_of(empty, 0))
