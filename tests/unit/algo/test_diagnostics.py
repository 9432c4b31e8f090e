"""Diagnostics by part and as quantiles: right, and the same however a batch is split."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncds.algo.diagnostics import Parts, histogram, mismatch, summarise, sums_by_part
from asyncds.algo.quantiles import QUANTILES
from asyncds.algo.sums import Sums

LIMIT = float(np.log(10))


def add(sums: list[Sums]) -> Sums:
    total = sums[0]
    for other in sums[1:]:
        total = total + other
    return total


@given(st.lists(st.floats(-LIMIT, LIMIT), min_size=1, max_size=300), st.integers(1, 4))
def test_quantiles_are_numpys_to_one_percent(log_ratios: list[float], pieces: int) -> None:
    parts = torch.tensor(log_ratios, dtype=torch.float64).tensor_split(pieces)
    result = summarise(add([histogram("ratio", part) for part in parts]))
    expected = np.quantile(np.exp(log_ratios), list(QUANTILES.values()))
    assert list(result) == [f"ratio/{quantile}" for quantile in QUANTILES]
    np.testing.assert_allclose(list(result.values()), expected, rtol=0.01)


def test_a_ratio_of_one_is_one_and_an_extreme_one_is_counted() -> None:
    on_policy = summarise(histogram("ratio", torch.zeros(5)))
    assert set(on_policy.values()) == {1.0}
    extreme = summarise(histogram("ratio", torch.tensor([-500.0, 1e-3, 500.0])))
    assert extreme["ratio/p50"] == pytest.approx(np.exp(1e-3), abs=4e-4)
    assert extreme["ratio/max"] == pytest.approx(np.exp(20), rel=0.1)
    assert set(summarise(histogram("ratio", torch.zeros(0))).values()) == {0.0}


def test_parts_by_hand() -> None:
    """Weights 1 and 2 at lag 0, 1/2 at lag 2, nothing at lag 1; b sampled the last two."""
    log_mu = torch.log(torch.tensor([0.5, 0.2, 0.4], dtype=torch.float64))
    log_learner = torch.log(torch.tensor([0.5, 0.4, 0.2], dtype=torch.float64))
    parts = Parts(
        names=("lag=0", "lag=1", "lag=2", "generator=a", "generator=b"),
        index=torch.tensor([[0, 0, 2], [3, 4, 4]]),
    )
    k3_of_2, k3_of_half = 1 - np.log(2), -0.5 + np.log(2)
    assert summarise(sums_by_part(mismatch(log_mu, log_learner), parts)) == {
        "tokens/lag=0": 2,
        "mismatch_kl/lag=0": pytest.approx(k3_of_2 / 2),
        "importance_weight/lag=0": pytest.approx(1.5),
        "ess/lag=0": pytest.approx(3**2 / (2 * 5)),
        "tokens/lag=2": 1,
        "mismatch_kl/lag=2": pytest.approx(k3_of_half),
        "importance_weight/lag=2": pytest.approx(0.5),
        "ess/lag=2": pytest.approx(1.0),
        "tokens/generator=a": 1,
        "mismatch_kl/generator=a": pytest.approx(0.0),
        "importance_weight/generator=a": pytest.approx(1.0),
        "ess/generator=a": pytest.approx(1.0),
        "tokens/generator=b": 2,
        "mismatch_kl/generator=b": pytest.approx((k3_of_2 + k3_of_half) / 2),
        "importance_weight/generator=b": pytest.approx(1.25),
        "ess/generator=b": pytest.approx(2.5**2 / (2 * 4.25)),
    }


@given(st.data())
def test_parts_add_up_however_the_tokens_are_split(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    order = data.draw(st.permutations(range(n)))
    cuts = sorted(data.draw(st.sets(st.integers(0, n))) | {0, n})
    lag = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
    noise = torch.Generator().manual_seed(n)
    log_mu, log_learner = -torch.rand(2, n, generator=noise, dtype=torch.float64)
    parts = Parts(names=tuple(f"lag={i}" for i in range(5)), index=lag[None])

    def sums(tokens: list[int]) -> Sums:
        at = torch.tensor(tokens, dtype=torch.int64)
        return sums_by_part(mismatch(log_mu[at], log_learner[at]), parts.tokens(at))

    split = summarise(add([sums(list(order[a:b])) for a, b in itertools.pairwise(cuts)]))
    assert split == pytest.approx(summarise(sums(list(range(n)))))
    for i in range(5):
        at = lag == i
        assert split.get(f"tokens/lag={i}", 0) == int(at.sum())
        if at.any():
            alone = summarise(Sums.of(mismatch(log_mu[at], log_learner[at])))
            assert {k: split[f"{k}/lag={i}"] for k in alone} == pytest.approx(alone)
