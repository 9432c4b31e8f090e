"""The policy: any Hugging Face causal language model, seen as log-probabilities of chosen tokens.

The logits of a micro-batch are its largest tensor by far (tokens x vocabulary). They are never held
at once here: only positions that predict a completion token are projected, in chunks, and the
backward pass projects each chunk a second time instead of keeping it.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Head arithmetic that other families name differently is caught by `check_head`.
_SOFTCAP_KEY = "final_logit_softcapping"
_MULTIPLIER_KEY = "logit_scale"
_DIVISOR_KEY = "logits_scaling"


class UnsupportedModelError(ValueError):
    """The model computes its logits in a way that the chunked projection does not reproduce."""


class HeadRule(NamedTuple):
    """logits = softcap * tanh(scale * (h W^T + b) / softcap); no cap where ``softcap`` is None."""

    scale: float = 1.0
    softcap: float | None = None


class TokenScores(NamedTuple):
    """log_probs [t]: log-probability of each target. entropy [t]: of its distribution, in nats."""

    log_probs: Tensor
    entropy: Tensor | None


def head_rule(config: Any) -> HeadRule:
    """Read the head's arithmetic from a Hugging Face model configuration."""
    text = config.get_text_config()
    multiplier = getattr(text, _MULTIPLIER_KEY, None) or 1.0
    divisor = getattr(text, _DIVISOR_KEY, None) or 1.0
    return HeadRule(scale=multiplier / divisor, softcap=getattr(text, _SOFTCAP_KEY, None))


def disable_dropout(model: nn.Module) -> None:
    """Turn every dropout off, so that the learner's policy is a function of its weights alone."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


class _ChunkedScores(torch.autograd.Function):
    """Log-probabilities and entropies of rows of softmax(head(hidden) / temperature).

    With p the softmax, z its logits and H its entropy:
    d log p_y / dz_j = 1[j = y] - p_j and dH / dz_j = -p_j (log p_j + H).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        rule: HeadRule,
        temperature: float,
        chunk_tokens: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        log_probs, entropy = [], []
        for rows, chosen in zip(
            hidden.split(chunk_tokens), targets.split(chunk_tokens), strict=True
        ):
            log_p = _log_softmax(rows, weight, bias, rule, temperature)[0]
            log_probs.append(log_p.gather(1, chosen[:, None]).squeeze(1))
            if with_entropy:
                entropy.append(-(log_p.exp() * log_p).sum(1))
        all_log_probs = torch.cat(log_probs)
        all_entropy = torch.cat(entropy) if with_entropy else all_log_probs.new_empty(0)
        ctx.save_for_backward(hidden, weight, bias, targets, all_entropy)
        ctx.options = (rule, temperature, chunk_tokens, with_entropy)
        if not with_entropy:
            ctx.mark_non_differentiable(all_entropy)
        return all_log_probs, all_entropy

    @staticmethod
    def backward(ctx: Any, grad_log_probs: Tensor, grad_entropy: Tensor) -> tuple[Any, ...]:
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        rule, temperature, chunk_tokens, with_entropy = ctx.options
        grad_hidden = torch.empty_like(hidden)
        # Summed over chunks in float32: in bfloat16 the result would depend on the chunk size.
        grad_weight = torch.zeros_like(weight, dtype=_wide(weight.dtype))
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=_wide(bias.dtype))
        for start in range(0, len(hidden), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            log_p, slope = _log_softmax(hidden[chunk], weight, bias, rule, temperature)
            p = log_p.exp()
            grad = -p * grad_log_probs[chunk, None]
            grad.scatter_add_(1, targets[chunk, None], grad_log_probs[chunk, None])
            if with_entropy:
                grad -= grad_entropy[chunk, None] * p * (log_p + entropy[chunk, None])
            grad = (grad * slope).to(hidden.dtype)
            grad_hidden[chunk] = grad @ weight
            grad_weight += grad.T @ hidden[chunk]
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
            *(None,) * 5,
        )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _log_softmax(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, rule: HeadRule, temperature: float
) -> tuple[Tensor, Tensor | float]:
    """Return log p [rows, vocab] and d z / d (h W^T + b), z being the logits over temperature."""
    logits = F.linear(hidden, weight, bias).to(_wide(hidden.dtype)) * rule.scale
    slope: Tensor | float = rule.scale / temperature
    if rule.softcap is not None:
        bounded = torch.tanh(logits / rule.softcap)
        logits = bounded * rule.softcap
        slope = (1.0 - bounded.square()) * slope
    return torch.log_softmax(logits / temperature, dim=1), slope


class ChunkedHead(nn.Module):
    """The model's own output projection, applied to chunks of positions.

    One module call does all chunks, so that ZeRO-3 gathers the weight once in the forward and once
    in the backward pass, whatever the chunk size.
    """

    def __init__(self, *, projection: nn.Linear, rule: HeadRule, chunk_tokens: int) -> None:
        super().__init__()
        # In a tuple, so that it is not registered here too: it is part of the model already.
        self._borrowed = (projection,)
        self.rule = rule
        self.chunk_tokens = chunk_tokens

    @property
    def projection(self) -> nn.Linear:
        """The model's output projection. ZeRO-3 must be told that its parameters are used here."""
        return self._borrowed[0]

    def forward(
        self, hidden: Tensor, targets: Tensor, *, temperature: float, with_entropy: bool
    ) -> TokenScores:
        """Score targets [t] under the distributions at hidden [t, width]."""
        log_probs, entropy = _ChunkedScores.apply(
            hidden,
            self.projection.weight,
            self.projection.bias,
            targets,
            self.rule,
            temperature,
            self.chunk_tokens,
            with_entropy,
        )
        return TokenScores(log_probs, entropy if with_entropy else None)


class PolicyModel(nn.Module):
    """A causal language model whose output is the log-probabilities of the tokens asked for.

    Positions are those of a right-padded micro-batch: with causal attention a real token never sees
    the padding behind it, so no mask is needed.
    """

    def __init__(self, *, causal_lm: nn.Module, chunk_tokens: int) -> None:
        super().__init__()
        projection = causal_lm.get_output_embeddings()
        if not isinstance(projection, nn.Linear):
            raise UnsupportedModelError(
                f"{type(causal_lm).__name__} has no linear output projection "
                f"(it is {type(projection).__name__}); choose a causal language model that has one"
            )
        disable_dropout(causal_lm)
        self.causal_lm = causal_lm
        self.head = ChunkedHead(
            projection=projection, rule=head_rule(causal_lm.config), chunk_tokens=chunk_tokens
        )

    def forward(
        self,
        input_ids: Tensor,
        row: Tensor,
        column: Tensor,
        targets: Tensor,
        *,
        temperature: float,
        position: Tensor | None = None,
        segment: Tensor | None = None,
        with_entropy: bool = False,
        own_head: bool = False,
    ) -> TokenScores:
        """Score the tokens that follow chosen positions.

        input_ids [rows, width] int64, right-padded. row, column [t]: positions of input_ids whose
        next token is scored. targets [t] int64: those next tokens. The result is float32.
        position, segment [rows, width] int64: where rows hold several completions of a prompt, as
        `MicroBatch` has them. own_head: let the model compute its logits itself, all at once (for
        ``check_head``).
        """
        if own_head:
            logits = self.causal_lm(input_ids=input_ids, use_cache=False).logits[row, column]
            log_p = torch.log_softmax(logits.to(_wide(logits.dtype)) / temperature, dim=1)
            return TokenScores(log_p.gather(1, targets[:, None]).squeeze(1), None)
        body = self.causal_lm.base_model
        tree = (
            {} if segment is None else {"position_ids": position, "attention_mask": seen(segment)}
        )
        hidden = body(input_ids=input_ids, use_cache=False, **tree).last_hidden_state[row, column]
        return self.head(hidden, targets, temperature=temperature, with_entropy=with_entropy)


def rounding(dtype: torch.dtype) -> float:
    """The difference in nats that two ways to compute a log-probability may have, by dtype."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 0.1


def seen(segment: Tensor) -> Tensor:
    """The positions that each position sees, bool [rows, 1, width, width], from segments.

    A completion sees its prompt (segment 0) and what comes before in itself, a prompt itself.
    """
    width = segment.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=segment.device).tril()
    same = segment[:, :, None] == segment[:, None, :]
    return (causal & (same | (segment == 0)[:, None, :]))[:, None]


def check_head(policy: nn.Module, *, vocabulary: int, device: torch.device) -> None:
    """Compare the chunked projection with the model's own logits on a short sequence.

    ``policy`` is a PolicyModel or the DeepSpeed engine around one (then this is a collective). Runs
    once in training mode and once not, so that randomness left in the model shows as well.

    Raises UnsupportedModelError where they differ by more than rounding.
    """
    length = min(32, vocabulary)
    ids = (torch.arange(length, device=device) * 7919 % vocabulary)[None, :]
    column = torch.arange(length - 1, device=device)
    inputs = (ids[:, :-1], torch.zeros_like(column), column, ids[0, 1:])
    with torch.no_grad():
        policy.eval()
        expected = policy(*inputs, temperature=1.0, own_head=True).log_probs
        policy.train()
        actual = policy(*inputs, temperature=1.0).log_probs
    tolerance = rounding(next(policy.parameters()).dtype)
    difference = (actual - expected).abs().max().item()
    if not difference <= tolerance:
        raise UnsupportedModelError(
            "the model's log-probabilities are not a linear projection of its last hidden states "
            f"(they differ by {difference:.3g}, {tolerance:g} allowed): its head does more than "
            f"{_SOFTCAP_KEY}, {_MULTIPLIER_KEY} and {_DIVISOR_KEY}, which are handled; "
            "choose another model"
        )
