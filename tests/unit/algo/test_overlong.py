"""Completions near the largest number of tokens: what they lose, and what a mask takes away."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncds.algo.advantages.gr_pkpo import GrPkpo
from asyncds.algo.advantages.pkpo import Pkpo
from asyncds.algo.aggregation import SequenceMean, TokenMean
from asyncds.algo.losses.dppo import Dppo
from asyncds.algo.objective import Objective, SequenceAdvantages
from asyncds.algo.overlong import Overlong, OverlongKeep, OverlongMask, OverlongPenalty
from tests.support.objectives import make_objective, table

LENGTH = torch.tensor([2, 4, 3, 4])
FINISHED = torch.tensor([True, False, True, True])
REWARD = torch.tensor([1.0, 0.0, 0.0, 1.0])
SEQUENCE = torch.repeat_interleave(LENGTH)
LOG_MU = -torch.linspace(0.1, 1.3, 13)


def sequences(objective: Objective, finished: torch.Tensor | None = FINISHED) -> SequenceAdvantages:
    return objective.sequence_advantages(
        table(
            reward=REWARD,
            length=LENGTH,
            logprob_sum=torch.zeros(4).index_add_(0, SEQUENCE, LOG_MU),
        ),
        finished=None if finished is None else finished.numpy(),
    )


def gradient(objective: Objective) -> torch.Tensor:
    """Of the loss, by each token's log-prob."""
    current = (LOG_MU + 0.05).requires_grad_()
    loss, _ = objective.loss(
        sequences=sequences(objective),
        sequence=SEQUENCE,
        current=current,
        behaviour=LOG_MU,
        reference=LOG_MU - 0.1 if objective.config.needs_reference else None,
        entropy=None,
    )
    loss.backward()
    assert current.grad is not None
    return current.grad


def test_the_penalty_by_hand() -> None:
    penalty = OverlongPenalty(buffer_tokens=4, weight=0.5)
    np.testing.assert_allclose(
        penalty.added_reward(np.array([1.0, 6, 7, 8, 9, 10]), max_tokens=10),
        [0, 0, -0.125, -0.25, -0.375, -0.5],
    )


@given(
    max_tokens=st.integers(1, 50),
    weight=st.floats(0.01, 10),
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=9),
    data=st.data(),
)
def test_the_penalty_falls_from_nothing_to_the_weight(
    max_tokens: int, weight: float, lengths: list[int], data: st.DataObject
) -> None:
    buffer = data.draw(st.integers(1, max_tokens))
    penalty = OverlongPenalty(buffer_tokens=buffer, weight=weight)
    length = np.sort(np.minimum(lengths, max_tokens)).astype(np.float64)
    values = penalty.added_reward(length, max_tokens=max_tokens)
    assert (np.diff(values) <= 0).all()
    assert (values[length <= max_tokens - buffer] == 0).all()
    np.testing.assert_allclose(values[length == max_tokens], -weight)


@pytest.mark.parametrize(("buffer", "weight", "says"), [(0, 1, "buffer"), (2, 0, "weight")])
def test_a_penalty_that_makes_no_sense_is_refused(buffer: int, weight: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OverlongPenalty(buffer_tokens=buffer, weight=weight)


@pytest.mark.parametrize("advantage", [Pkpo(k=2), GrPkpo(k=2)], ids=["pkpo", "gr_pkpo"])
def test_a_penalty_that_nothing_reads_is_refused(advantage: Pkpo | GrPkpo) -> None:
    penalty = OverlongPenalty(buffer_tokens=2, weight=1)
    with pytest.raises(ValueError, match="would change nothing"):
        make_objective(advantage=advantage, overlong=penalty)


def test_the_penalty_is_part_of_the_reward() -> None:
    penalty = OverlongPenalty(buffer_tokens=2, weight=1)
    with_penalty = sequences(make_objective(overlong=penalty, max_tokens=4))
    shaped = np.array([1, -1, -0.5, 0])
    expected = (shaped - shaped.mean()) / (shaped.std() + 1e-6)
    np.testing.assert_allclose(with_penalty.base, expected, rtol=1e-5)


@pytest.mark.parametrize("aggregation", [TokenMean(), SequenceMean()], ids=str)
def test_a_mask_takes_the_policy_loss_of_what_was_cut_off_and_no_more(
    aggregation: TokenMean | SequenceMean,
) -> None:
    """The other tokens' gradients stay, to the bit: same statistics, same denominator."""

    def objective(overlong: Overlong, kl: float = 0.0) -> Objective:
        # DPPO's loss is not zero even where the advantage is.
        return make_objective(
            loss=Dppo(),
            aggregation=aggregation,
            overlong=overlong,
            kl={"coef": kl, "estimator": "k2"},
        )

    cut = SEQUENCE == 1
    plain = gradient(objective(OverlongKeep()))
    masked = gradient(objective(OverlongMask()))
    assert (plain[cut] != 0).all()
    assert (masked[cut] == 0).all()
    torch.testing.assert_close(masked[~cut], plain[~cut], rtol=0, atol=0)
    with_kl = gradient(objective(OverlongMask(), kl=0.1))
    assert (with_kl[cut] != 0).all(), "the KL term acts on all tokens"


def test_a_mask_needs_to_know_what_was_cut_off() -> None:
    with pytest.raises(ValueError, match="needs finished"):
        sequences(make_objective(overlong=OverlongMask()), finished=None)
