"""Named algorithms: for each the choices that make it. docs/algorithms.md has their sources.

A bundle names only what differs from the defaults of ``AlgorithmConfig``, which are those of an
asynchronous run: the clip ratio against the policy that sampled, a mean over tokens, no KL penalty.
"""

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]

DEFAULT_KINDS: Values = {
    "loss": {"kind": "clip"},
    "correction": {"kind": "none"},
    "proximal": {"kind": "recomputed"},
    "aggregation": {"kind": "token_mean"},
    "overlong": {"kind": "keep"},
}
"""Kinds of the axes that a bundle does not name, so that a field of theirs can be set by itself."""

_GRPO = {"advantage": {"kind": "grpo"}}

BUNDLES: dict[str, Values] = {
    "grpo": _GRPO,
    "ds_grpo": {"advantage": {"kind": "ds_grpo"}},
    "ds_grpo_positive": {"advantage": {"kind": "ds_grpo", "gamma_n": 0.0}},
    "ds_grpo_negative": {"advantage": {"kind": "ds_grpo", "gamma_p": 0.0}},
    "unlikeliness": {"advantage": {"kind": "unlikeliness"}},
    "pkpo": {"advantage": {"kind": "pkpo"}},
    "gr_pkpo": {"advantage": {"kind": "gr_pkpo"}},
    "best_of_group": {"advantage": {"kind": "best_of_group"}},
    "dr_grpo": {
        "advantage": {"kind": "grpo", "scale": "none"},
        "loss": {"kind": "clip", "high": 0.2},
        "aggregation": {"kind": "constant_length"},
    },
    "dapo": {**_GRPO, "loss": {"kind": "clip"}, "overlong": {"kind": "mask"}},
    "cispo": {**_GRPO, "loss": {"kind": "cispo"}},
    "gspo": {
        **_GRPO,
        "loss": {"kind": "gspo", "ratio": "proximal"},
        "correction": {"kind": "sequence_mask"},
        "aggregation": {"kind": "sequence_mean"},
        "updates_per_batch": 4,
    },
    "dppo": {**_GRPO, "loss": {"kind": "dppo"}},
}


def with_bundle(values: Any) -> Any:
    """The settings of an algorithm, completed by those of the bundle that ``kind`` names.

    What is given wins, field by field; where another ``kind`` is given for an axis, none of the
    bundle's fields of that axis is left.
    """
    if not isinstance(values, Mapping) or values.get("kind") not in BUNDLES:
        return values
    return _merged(_merged(DEFAULT_KINDS, BUNDLES[values["kind"]]), values)


def _merged(default: Values, given: Values) -> dict[str, Any]:
    merged = {**default, **given}
    for key in default.keys() & given.keys():
        mine, theirs = default[key], given[key]
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            same = theirs.get("kind", mine.get("kind")) == mine.get("kind")
            merged[key] = _merged(mine, theirs) if same else theirs
    return merged
