"""Corrections of whole sequences and bands, each against its formula in NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.algo.corrections.base import Correction, TokenWeights
from asyncds.algo.corrections.geometric_mask import GeometricMask
from asyncds.algo.corrections.icepop import IcePop
from asyncds.algo.corrections.sequence import SequenceTis
from asyncds.algo.corrections.sequence_mask import SequenceMask
from asyncds.algo.corrections.tis import Tis
from asyncds.algo.segments import mean_over_segment, sum_over_segment

ALL: list[Correction] = [Tis(), IcePop(), SequenceTis(), GeometricMask(), SequenceMask()]
LOG_WEIGHTS = st.lists(
    st.tuples(st.floats(-2, 2).map(lambda x: round(x, 3)), st.integers(0, 3)), max_size=16
)


def apply(correction: Correction, log_w: list[float], sequence: list[int]) -> TokenWeights:
    log_mu = torch.full((len(log_w),), -3.0, dtype=torch.float64)
    log_old = (log_mu + torch.tensor(log_w, dtype=torch.float64)).requires_grad_()
    return correction(log_mu, log_old, torch.tensor(sequence, dtype=torch.int64))


def reference(correction: Correction, log_w: np.ndarray, mates: np.ndarray) -> tuple[float, bool]:
    """(weight, keep) of a token with log-weight ``log_w`` among those of its sequence."""
    match correction:
        case Tis():
            return min(np.exp(log_w), correction.cap), True
        case IcePop():
            w = np.exp(log_w)
            return w, correction.low <= w <= correction.high
        case SequenceTis():
            return min(np.prod(np.exp(mates)), correction.cap), True
        case GeometricMask():
            mean = np.prod(np.exp(mates)) ** (1 / len(mates))
            return 1.0, correction.low <= mean <= correction.high
        case SequenceMask():
            return 1.0, correction.low <= np.prod(np.exp(mates)) <= correction.high
        case _:
            raise TypeError(correction)


@pytest.mark.parametrize(
    "correction", [*ALL, GeometricMask(low=0.7, high=1.4), IcePop(low=0.9, high=1.0)], ids=str
)
@settings(deadline=None)
@given(rows=LOG_WEIGHTS)
def test_equals_the_formula(correction, rows) -> None:  # type: ignore[no-untyped-def]
    log_w, sequence = np.array([w for w, _ in rows]), np.array([s for _, s in rows])
    ours = apply(correction, log_w.tolist(), sequence.tolist())
    for t, w in enumerate(log_w):
        weight, keep = reference(correction, w, log_w[sequence == sequence[t]])
        assert ours.weight[t].item() == pytest.approx(weight, rel=1e-9)
        assert ours.keep[t].item() == keep


def test_bands_by_hand() -> None:
    """Sequence 0 has the weights 2 and 1/2, sequence 1 has 4 and 1; sequence 2 is on-policy."""
    log_w = [math.log(w) for w in (2, 0.5, 4, 1, 1)]
    sequence = [0, 0, 1, 1, 2]

    def kept(correction: Correction) -> list[bool]:
        return apply(correction, log_w, sequence).keep.tolist()

    assert kept(IcePop(low=0.6, high=3)) == [True, False, False, True, True]
    assert kept(GeometricMask()) == [True, True, False, False, True]
    assert kept(GeometricMask(high=2.001)) == [True] * 5
    assert kept(SequenceMask()) == [True, True, False, False, True]
    assert kept(SequenceMask(high=4.001)) == [True] * 5
    whole = apply(SequenceTis(cap=3), log_w, sequence)
    torch.testing.assert_close(whole.weight, torch.tensor([1, 1, 3, 3, 1], dtype=torch.float64))
    assert whole.truncated.tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("correction", ALL, ids=str)
def test_on_policy_tokens_have_weight_1_and_weights_are_constants(correction: Correction) -> None:
    weights = apply(correction, [0.0] * 5, [0, 0, 0, 1, 2])
    assert weights.weight.tolist() == [1.0] * 5
    assert weights.keep.all()
    assert not weights.truncated.any()
    assert not weights.weight.requires_grad


@pytest.mark.parametrize("correction", ALL, ids=str)
def test_nothing_and_8192_tokens_of_drift_are_finite(correction: Correction) -> None:
    assert len(apply(correction, [], []).weight) == 0
    for drift in (-5.0, 5.0, 1e6):
        loss = apply(correction, [drift] * 8192, [0] * 8192).apply(torch.ones(8192).double())
        assert torch.isfinite(loss).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (kind, options)
        for kind in (IcePop, GeometricMask, SequenceMask)
        for options in ({"low": 1.1}, {"high": 0.9}, {"low": -0.1}, {"low": math.nan})
    ],
)
def test_a_band_without_1_is_refused(kind: Any, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)


def test_a_sequence_cap_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="cap"):
        SequenceTis(cap=0.5)


@settings(deadline=None)
@given(rows=LOG_WEIGHTS)
def test_sums_and_means_over_a_segment(rows) -> None:  # type: ignore[no-untyped-def]
    values = torch.tensor([x for x, _ in rows], dtype=torch.float64)
    segment = torch.tensor([s for _, s in rows], dtype=torch.int64)
    for ours, theirs in ((sum_over_segment, np.sum), (mean_over_segment, np.mean)):
        expected = [theirs([y for y, r in rows if r == s]) for _, s in rows]
        np.testing.assert_allclose(ours(values, segment), expected, atol=1e-12)
