"""How far the sampling policies are from the learner: in total, by part of a batch, as quantiles.

All of it is sums, so that it adds up over micro-batches and ranks like the means do. A quantile is
no sum; it is read from a histogram, which is one.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asyncds.algo.kl import k3
from asyncds.algo.quantiles import QUANTILES
from asyncds.algo.ratios import LOG_RATIO_LIMIT, clamped
from asyncds.algo.sums import Sums

_SQUARED = "importance_weight_squared"

# Bins of equal width in asinh(log ratio / 0.1): in the log ratio they are 0.0007 wide at 0, where a
# run that goes well has nearly all of its tokens, 0.015 at ln 10, and 0.13 at the limit of 20.
_LINEAR = 0.1
_BINS_PER_UNIT = 150
_MIDDLE = round(math.asinh(LOG_RATIO_LIMIT / _LINEAR) * _BINS_PER_UNIT)
_BINS = 2 * _MIDDLE + 1
_CENTRES = _LINEAR * np.sinh((np.arange(_BINS) - _MIDDLE) / _BINS_PER_UNIT)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts of a batch's tokens to be looked at on their own, such as ``lag=2``.

    names: of all parts, the same on every rank, whether or not one has tokens there. index int64
    [ways, T]: the parts that each token belongs to, one of every way to divide the batch.
    """

    names: tuple[str, ...]
    index: Tensor

    def tokens(self, index: Tensor) -> "Parts":
        """The part of the tokens ``index`` (int64 [t]), in that order."""
        return Parts(names=self.names, index=self.index[:, index])


def mismatch(log_mu: Tensor, log_learner: Tensor) -> dict[str, Tensor]:
    """Per token, [T], [T] -> [T] each: k3 of KL(μ ‖ π), the weight w = π/μ and its square."""
    w = clamped(log_learner - log_mu).double().exp()
    return {
        "mismatch_kl": k3(log_mu, log_learner),
        "importance_weight": w,
        _SQUARED: w.square(),
    }


def sums_by_part(values: Mapping[str, Tensor], parts: Parts) -> Sums:
    """The sums of per-token values ([T] each) in every part, named ``value/part``."""
    n, ways = len(parts.names), len(parts.index)
    part = parts.index.flatten()
    per_token = torch.stack([x.detach().double() for x in values.values()], dim=1)
    total = per_token.new_zeros(n, len(values)).index_add_(0, part, per_token.repeat(ways, 1)).T
    count = torch.bincount(part, minlength=n).to(total).expand_as(total)
    names = tuple(f"{value}/{part}" for value in values for part in parts.names)
    return Sums(names, torch.stack((total, count), dim=2).reshape(-1, 2))


def histogram(name: str, log_ratio: Tensor) -> Sums:
    """How many of the log-ratios [T] (in nats, limited to ±20) are in each bin.

    `summarise` makes quantiles of the ratios from it, right to 1 % between 0.1 and 10.
    """
    place = torch.asinh(clamped(log_ratio.detach()).double() / _LINEAR) * _BINS_PER_UNIT
    count = torch.bincount(place.round().long() + _MIDDLE, minlength=_BINS).double()
    return Sums(_bin_names(name), torch.stack((count, torch.zeros_like(count)), dim=1))


def summarise(sums: Sums) -> dict[str, float]:
    """The metrics of an objective, from its sums over micro-batches and ranks.

    Means over tokens by name. For the importance weights w of the learner against μ the effective
    sample size as a fraction of the tokens, ``ess`` = ``(Σw)² / (T Σw²)``: 1 on-policy, 1/T when
    one token outweighs all. Of a part that has tokens the same, as ``name/part``, with their number
    as ``tokens/part``. Of a histogram the quantiles, as ``name/p50``.
    """
    result: dict[str, float] = {}
    bins: dict[str, list[float]] = {}
    for name, (total, count) in zip(sums.names, sums.table.tolist(), strict=True):
        quantity, _, part = name.partition("/")
        if part.startswith("bin="):
            bins.setdefault(quantity, []).append(total)
        elif not part:
            result[name] = total / max(count, 1)
        elif count:
            result[name] = total / count
            result[f"tokens/{part}"] = count
    for name in [n for n in result if n.startswith(_SQUARED)]:
        of = name.removeprefix(_SQUARED)
        square = result.pop(name)
        result["ess" + of] = result["importance_weight" + of] ** 2 / square if square else 0.0
    for name, counts in bins.items():
        for quantile, value in _quantiles(np.array(counts)).items():
            result[f"{name}/{quantile}"] = value
    return result


def _quantiles(counts: npt.NDArray[np.float64]) -> dict[str, float]:
    """Quantiles of the exponentials of what a histogram counted, interpolated like numpy's."""
    upto = counts.cumsum()
    if not upto[-1]:
        return dict.fromkeys(QUANTILES, 0.0)
    place = np.array(list(QUANTILES.values())) * (upto[-1] - 1)
    below, above = (
        np.exp(_CENTRES[np.searchsorted(upto, k, side="right")])
        for k in (np.floor(place), np.ceil(place))
    )
    value = below + (above - below) * (place % 1)
    return dict(zip(QUANTILES, value.tolist(), strict=True))


@functools.cache
def _bin_names(name: str) -> tuple[str, ...]:
    return tuple(f"{name}/bin={i}" for i in range(_BINS))
