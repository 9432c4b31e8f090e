"""The check that a model computes the same where completions share the row of their prompt."""

import logging
from typing import Any

import torch
from torch import nn

from asyncds.engine.policy_model import rounding

log = logging.getLogger(__name__)

PROMPT, COMPLETION = 5, 4
"""Tokens of the prompt and of each completion that are tried."""


def shares_prompts(policy: nn.Module, device: torch.device) -> bool:
    """Whether a model computes the same with several completions in a row; logs why not.

    ``policy`` is a PolicyModel or the DeepSpeed engine around one (then this is a collective).
    """
    causal_lm: Any = getattr(policy, "module", policy).causal_lm
    vocabulary = causal_lm.config.get_text_config().vocab_size
    tolerance = rounding(next(policy.parameters()).dtype)
    reason = why_not(causal_lm) or try_out(
        policy, vocabulary=vocabulary, device=device, tolerance=tolerance
    )
    if reason is not None:
        log.info("every completion is computed with a prompt of its own: %s", reason)
    return reason is None


def why_not(causal_lm: nn.Module) -> str | None:
    """The reason for which a model can't do it, as far as its configuration says; else None."""
    config = causal_lm.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is None and getattr(config, "sliding_window", None) is not None:
        kinds = ["sliding_attention"]
    others = sorted(set(kinds or ()) - {"full_attention"})
    if others:
        return f"it has layers of {' and '.join(others)}"
    attention = causal_lm.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        return f"attention of the kind {attention} takes no mask of its own"
    return None


def try_out(
    policy: nn.Module, *, vocabulary: int, device: torch.device, tolerance: float
) -> str | None:
    """The reason for which a model can't do it, as a trial shows; else None.

    tolerance: what log-probabilities may differ by, in nats. See `difference` for the others.
    """
    policy.eval()
    try:
        distance = difference(policy, vocabulary=vocabulary, device=device)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        return f"its code takes no such mask or positions ({error})"
    finally:
        policy.train()
    if not distance <= tolerance:
        return f"its log-probabilities change by {distance:.3g}"
    return None


def difference(policy: nn.Module, *, vocabulary: int, device: torch.device) -> float:
    """The largest difference, in nats, between two completions in one row and in rows of their own.

    Whatever a model leaves out of masks or positions (a state, a bias by distance) shows here.
    """
    length = PROMPT + 2 * COMPLETION
    ids = torch.arange(1, length + 1, device=device) * 7919 % vocabulary
    prompt, first, second = ids.split([PROMPT, COMPLETION, COMPLETION])
    apart = torch.stack([torch.cat([prompt, first]), torch.cat([prompt, second])])
    step = torch.arange(COMPLETION - 1, device=device)
    second_of = torch.arange(2, device=device).repeat_interleave(COMPLETION - 1)
    targets = apart[:, PROMPT + 1 :].flatten()
    places = torch.arange(PROMPT + COMPLETION, device=device)

    def scored(inputs: torch.Tensor, row: torch.Tensor, column: torch.Tensor, **tree: Any) -> Any:
        return policy(inputs, row, column, targets, temperature=1.0, **tree).log_probs

    with torch.no_grad():
        expected = scored(apart, second_of, (PROMPT + step).repeat(2))
        actual = scored(
            ids[None],
            torch.zeros_like(second_of),
            torch.cat([PROMPT + step, PROMPT + COMPLETION + step]),
            position=torch.cat([places, places[PROMPT:]])[None],
            segment=torch.tensor([[0] * PROMPT + [1] * COMPLETION + [2] * COMPLETION]).to(device),
        )
    return float((actual - expected).abs().max())
