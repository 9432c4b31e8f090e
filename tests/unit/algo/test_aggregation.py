"""The engine divides a sum by the update's tokens; the weights must make the wanted mean of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.algo.aggregation import (
    Aggregation,
    ConstantLength,
    SequenceMean,
    TokenMean,
    class_mean_weights,
)

ALL: list[Aggregation] = [TokenMean(), SequenceMean(), ConstantLength(tokens=5)]


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, update and verdict of each sequence."""
    n = draw(st.integers(1, 10))

    def some(element: st.SearchStrategy[int]) -> np.ndarray:
        return np.array(draw(st.lists(element, min_size=n, max_size=n)))

    return some(st.integers(0, 4)), some(st.integers(0, 2)), some(st.integers(0, 1)) == 1


def wanted(aggregation: Aggregation, losses: list[np.ndarray]) -> float:
    """The mean, as it is written, over the token losses of an update's sequences."""
    match aggregation:
        case TokenMean():
            return np.concatenate(losses).mean()
        case SequenceMean():
            return np.mean([x.mean() if len(x) else 0.0 for x in losses])
        case ConstantLength():
            return np.mean([x.sum() / aggregation.tokens for x in losses])


@pytest.mark.parametrize("aggregation", ALL, ids=str)
@settings(deadline=None)
@given(batch=batches(), seed=st.integers(0, 9))
def test_the_sum_over_the_number_of_tokens_is_the_wanted_mean(aggregation, batch, seed) -> None:  # type: ignore[no-untyped-def]
    length, update, _ = batch
    weight = aggregation(length, update, max_tokens=9)
    rng = np.random.default_rng(seed)
    losses = [rng.normal(size=n) for n in length]
    for u in np.unique(update):
        mine = np.flatnonzero(update == u)
        tokens = length[mine].sum()
        if not tokens:
            assert not weight[mine].any() or isinstance(aggregation, TokenMean)
            continue
        total = sum(weight[i] * losses[i].sum() for i in mine)
        assert total / tokens == pytest.approx(wanted(aggregation, [losses[i] for i in mine]))


@settings(deadline=None)
@given(batch=batches(), seed=st.integers(0, 9))
def test_class_weights_give_the_mean_over_the_class(batch, seed) -> None:  # type: ignore[no-untyped-def]
    length, update, correct = batch
    values = [np.random.default_rng(seed + i).normal(size=n) for i, n in enumerate(length)]
    for aggregation in ALL:
        weight = class_mean_weights(
            aggregation(length, update, max_tokens=9), correct, length, update
        )
        for u in np.unique(update):
            for verdict in (True, False):
                mine = np.flatnonzero((update == u) & (correct == verdict) & (length > 0))
                if not len(mine):
                    continue
                total = sum(weight[i] * values[i].sum() for i in mine)
                by_sequence = isinstance(aggregation, SequenceMean)
                mean = (
                    np.mean([values[i].mean() for i in mine])
                    if by_sequence
                    else np.concatenate([values[i] for i in mine]).mean()
                )
                assert total / length[update == u].sum() == pytest.approx(mean)


def test_a_constant_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        ConstantLength(tokens=0)
