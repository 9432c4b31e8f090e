import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncds.engine.micro_batches import (
    MicroBatch,
    ShardIndex,
    padding,
    plan_micro_batches,
    plan_updates,
)
from asyncds.engine.policy_model import seen
from asyncds.engine.shared_prompts import MASK_ELEMENTS, row_width
from asyncds.protocol.batch import SequenceTable, Shard
from asyncds.protocol.spans import given_spans

PROMPT = 1_000_000
"""Token ids of prompts are beyond those of completions."""


@st.composite
def tables(draw: st.DrawFn, max_ranks: int = 3) -> tuple[SequenceTable, int]:
    ranks = draw(st.integers(1, max_ranks))
    sequence = st.tuples(
        st.integers(0, 5),
        st.integers(1, 30),
        st.integers(0, ranks - 1),
        st.integers(1, 30),
    )
    rows = draw(st.lists(sequence, min_size=1, max_size=40))
    group, length, rank, sampled = np.array(rows, np.int32).T
    group = np.sort(group)
    prompt = np.array(draw(st.lists(st.integers(1, 40), min_size=6, max_size=6)), np.int32)[group]
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
    prompts = [PROMPT + 1000 * table.group[s] + np.arange(table.prompt_length[s]) for s in mine]
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


budgets = st.integers(1, 200)
hidden_sizes = st.none() | st.integers(1, 64)


@given(tables(), budgets, hidden_sizes)
def test_every_sequence_is_in_one_micro_batch_of_its_rank(
    drawn: tuple[SequenceTable, int], budget: int, hidden_size: int | None
) -> None:
    table, ranks = drawn
    rows = np.arange(len(table), dtype=np.int32)
    plan = plan_micro_batches(
        table, rows, ranks=ranks, token_budget=budget, hidden_size=hidden_size
    )
    assert len(plan) == ranks
    for rank, mine in enumerate(plan):
        of_rank = [row for members in mine for row in members]
        assert sorted(np.concatenate([*of_rank, []])) == list(np.flatnonzero(table.rank == rank))
        assert all(len(set(table.group[row])) == 1 for row in of_rank), "one prompt a row"
        if hidden_size is None:
            assert all(len(row) == 1 for row in of_rank)


@given(tables(), budgets, hidden_sizes)
def test_the_budget_holds_and_ranks_have_equal_counts(
    drawn: tuple[SequenceTable, int], budget: int, hidden_size: int | None
) -> None:
    table, ranks = drawn
    rows = np.arange(len(table), dtype=np.int32)
    plan = plan_micro_batches(
        table, rows, ranks=ranks, token_budget=budget, hidden_size=hidden_size
    )
    assert len({len(mine) for mine in plan}) == 1
    for members in (m for mine in plan for m in mine if m):
        widest = max(row_width(table, row) for row in members)
        assert len(members) * widest <= budget or sum(map(len, members)) == 1
    assert any(all(mine) for mine in plan), "some rank is never idle"
    assert 0 <= padding([m for mine in plan for m in mine], table) < 1


def one_group(*, prompt: int, length: int, n: int = 8) -> SequenceTable:
    filled = functools.partial(np.full, n)
    return SequenceTable(
        group=filled(0, np.int32),
        reward=filled(0, np.float32),
        correct=filled(False, np.bool_),
        prompt_length=filled(prompt, np.int32),
        length=filled(length, np.int32),
        sampled=filled(length, np.int32),
        logprob_sum=filled(0, np.float32),
        rank=filled(0, np.int32),
        finished=filled(True, np.bool_),
        generator=filled(0, np.int32),
    )


def test_a_mask_is_bounded_beside_long_sequences() -> None:
    long, short = one_group(prompt=4, length=9000, n=4), one_group(prompt=100, length=8, n=8)
    table = SequenceTable(
        **{name: np.concatenate([a, getattr(short, name)]) for name, a in vars(long).items()}
        | {"group": np.array([0, 1, 2, 3, *[4] * 8], np.int32)}
    )
    rows = np.arange(len(table), dtype=np.int32)
    [plan] = plan_micro_batches(table, rows, ranks=1, token_budget=65536, hidden_size=64)
    shared = [members for members in plan if any(len(row) > 1 for row in members)]
    assert shared
    for members in shared:
        widest = max(row_width(table, row) for row in members)
        assert len(members) * widest**2 <= MASK_ELEMENTS


@pytest.mark.parametrize(
    ("prompt", "length", "hidden_size", "rows"),
    [
        pytest.param(13, 7, 128, 1, id="a tiny model, an answer"),
        pytest.param(1024, 256, 3584, 1, id="7B, short answers"),
        pytest.param(256, 4096, 3584, 8, id="7B, long reasoning"),
        pytest.param(8192, 256, 3584, 2, id="7B, a long prompt: what the budget allows"),
        pytest.param(4096, 3072, 3584, 8, id="7B, both long"),
    ],
)
def test_prompts_are_shared_where_that_is_less_work(
    prompt: int, length: int, hidden_size: int, rows: int
) -> None:
    table = one_group(prompt=prompt, length=length)
    [[members]] = [
        [[row for m in mine for row in m]]
        for mine in plan_micro_batches(
            table,
            np.arange(8, dtype=np.int32),
            ranks=1,
            token_budget=9216,
            hidden_size=hidden_size,
        )
    ]
    assert len(members) == rows


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


@given(tables(max_ranks=2), st.integers(1, 100), hidden_sizes)
def test_the_tokens_that_are_trained_are_exactly_the_sampled_ones(
    drawn: tuple[SequenceTable, int], budget: int, hidden_size: int | None
) -> None:
    table, ranks = drawn
    rows = np.arange(len(table), dtype=np.int32)
    plan = plan_micro_batches(
        table, rows, ranks=ranks, token_budget=budget, hidden_size=hidden_size
    )
    for rank, mine in enumerate(plan):
        shard = shard_of(table, rank)
        index = ShardIndex(shard)
        nothing = np.empty(0, np.bool_)
        sampled = np.concatenate([nothing, *(sampled_of(table, s) for s in shard.sequences)])
        trained = shard.completion_ids[sampled]
        read = []
        for members in mine:
            batch = index.assemble(members)
            assert batch.input_ids.size <= budget or sum(map(len, members)) == 1
            read.extend(batch.token_index)
            np.testing.assert_array_equal(batch.targets, trained[batch.token_index])
            np.testing.assert_array_equal(batch.targets // 1000, batch.sequence)
            visible = visible_ids(batch)
            for t, (target, sequence) in enumerate(zip(batch.targets, batch.sequence, strict=True)):
                # What the model sees where it predicts a target is all before it, in its order.
                prompt = (
                    PROMPT + 1000 * table.group[sequence] + np.arange(table.prompt_length[sequence])
                )
                before = np.arange(1000 * sequence + 500, target)
                np.testing.assert_array_equal(visible[t], [*prompt, *before])
        assert sorted(read) == list(range(len(trained)))


def visible_ids(batch: MicroBatch) -> list[np.ndarray]:
    """What the model sees at the position of each target: token ids in the order of positions."""
    width = batch.input_ids.shape[1]
    if batch.segment is None:
        mask = np.tril(np.ones((len(batch.input_ids), width, width), bool))
        position = np.tile(np.arange(width), (len(batch.input_ids), 1))
    else:
        mask = seen(torch.from_numpy(batch.segment))[:, 0].numpy()
        assert batch.position is not None
        position = batch.position
    result = []
    for row, column in zip(batch.row, batch.column, strict=True):
        where = np.flatnonzero(mask[row, column])
        assert position[row, where].tolist() == list(range(len(where)))
        result.append(batch.input_ids[row, where])
    return result


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
