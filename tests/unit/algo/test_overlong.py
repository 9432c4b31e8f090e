"""Completions near the largest number of tokens: what they lose, and what a mask takes away."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncds.algo.aggregation import SequenceMean, TokenMean
from asyncds.algo.best_of_k import GrPkpo, Pkpo
from asyncds.algo.losses import Dppo
from asyncds.algo.objective import Objective, SequenceAdvantages
from asyncds.algo.overlong import Overlong, OverlongMask, OverlongPenalty

LENGTH = torch.tensor([2, 4, 3, 4])
FINISHED = torch.tensor([True, False, True, True])
REWARD = torch.tensor([1.0, 0.0, 0.0, 1.0])
SEQUENCE = torch.repeat_interleave(LENGTH)
LOG_MU = -torch.linspace(0.1, 1.3, 13)


def sequences(objective: Objective, finished: torch.Tensor | None = FINISHED) -> SequenceAdvantages:
    return objective.sequence_advantages(
        reward=REWARD,
        correct=REWARD == 1,
        group=torch.zeros(4, dtype=torch.int64),
        length=LENGTH,
        behaviour_logprob_sum=torch.zeros(4).index_add_(0, SEQUENCE, LOG_MU),
        finished=finished,
    )


def gradient(objective: Objective) -> torch.Tensor:
    """Of the loss, by each token's log-prob."""
    current = (LOG_MU + 0.05).requires_grad_()
    loss, _ = objective.loss(
        sequences=sequences(objective),
        sequence=SEQUENCE,
        current=current,
        behaviour=LOG_MU,
        reference=LOG_MU - 0.1 if objective.needs_reference else None,
        entropy=None,
    )
    loss.backward()
    assert current.grad is not None
    return current.grad


def test_the_penalty_by_hand() -> None:
    penalty = OverlongPenalty(max_tokens=10, buffer_tokens=4, weight=0.5)
    np.testing.assert_allclose(
        penalty(np.array([1.0, 6, 7, 8, 9, 10])), [0, 0, -0.125, -0.25, -0.375, -0.5]
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
    penalty = OverlongPenalty(max_tokens=max_tokens, buffer_tokens=buffer, weight=weight)
    length = np.sort(np.minimum(lengths, max_tokens)).astype(np.float64)
    values = penalty(length)
    assert (np.diff(values) <= 0).all()
    assert (values[length <= max_tokens - buffer] == 0).all()
    np.testing.assert_allclose(values[length == max_tokens], -weight)
    np.testing.assert_array_equal(penalty(torch.from_numpy(length)).numpy(), values)


@pytest.mark.parametrize(
    ("buffer", "weight", "says"), [(0, 1, "buffer"), (9, 1, "buffer"), (2, 0, "weight")]
)
def test_a_penalty_that_makes_no_sense_is_refused(buffer: int, weight: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OverlongPenalty(max_tokens=8, buffer_tokens=buffer, weight=weight)


@pytest.mark.parametrize("advantage", [Pkpo(k=2), GrPkpo(k=2)], ids=["pkpo", "gr_pkpo"])
def test_a_penalty_that_nothing_reads_is_refused(advantage: Pkpo | GrPkpo) -> None:
    penalty = OverlongPenalty(max_tokens=8, buffer_tokens=2, weight=1)
    with pytest.raises(ValueError, match="would change nothing"):
        Objective(advantage=advantage, overlong=penalty)


def test_the_penalty_is_part_of_the_reward() -> None:
    penalty = OverlongPenalty(max_tokens=4, buffer_tokens=2, weight=1)
    with_penalty = sequences(Objective(overlong=penalty))
    shaped = np.array([1, -1, -0.5, 0])
    expected = (shaped - shaped.mean()) / (shaped.std() + 1e-6)
    np.testing.assert_allclose(with_penalty.base, expected, rtol=1e-5)


@pytest.mark.parametrize("aggregation", [TokenMean(), SequenceMean()], ids=str)
def test_a_mask_takes_the_policy_loss_of_what_was_cut_off_and_no_more(
    aggregation: TokenMean | SequenceMean,
) -> None:
    """The other tokens' gradients stay, to the bit: same statistics, same denominator."""

    def objective(overlong: Overlong | None, kl: float = 0.0) -> Objective:
        # DPPO's loss is not zero even where the advantage is.
        return Objective(
            policy_loss=Dppo(),
            aggregation=aggregation,
            overlong=overlong,
            kl_coefficient=kl,
            kl_estimator="k2",
        )

    cut = SEQUENCE == 1
    plain = gradient(objective(None))
    masked = gradient(objective(OverlongMask()))
    assert (plain[cut] != 0).all()
    assert (masked[cut] == 0).all()
    torch.testing.assert_close(masked[~cut], plain[~cut], rtol=0, atol=0)
    with_kl = gradient(objective(OverlongMask(), kl=0.1))
    assert (with_kl[cut] != 0).all(), "the KL term acts on all tokens"


def test_a_mask_needs_to_know_what_was_cut_off() -> None:
    with pytest.raises(ValueError, match="needs finished"):
        sequences(Objective(overlong=OverlongMask()), finished=None)
