"""The whole objective: from rewards and log-probs to a loss and what is to be logged about it.

Four policies may take part. Log-probs are of the sampled tokens, in nats, temperature applied.

==========  ====================================================================================
behaviour   μ, sampled the token: some generator, some versions ago. Always known.
proximal    π_old, the learner at the start of the batch. Recomputed where ``needs_proximal``;
            otherwise π_θ itself, held constant, which is the same while a batch is one update.
            With a ``LogLinear`` proximal policy, one between μ and π_θ instead.
current     π_θ, being trained: the only one that carries a gradient.
reference   π_0, the base model; only for a KL penalty.
==========  ====================================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asyncds.algo.advantages.base import Float, Pooling, Sequences
from asyncds.algo.algorithm import AlgorithmConfig
from asyncds.algo.corrections.base import TokenWeights
from asyncds.algo.diagnostics import Parts, histogram, mismatch, sums_by_part
from asyncds.algo.losses.base import LossInputs, LossOutputs
from asyncds.algo.overlong import OverlongMask
from asyncds.algo.proximal import LogLinear
from asyncds.algo.ratios import clamped
from asyncds.algo.segments import mean_over_segment, sum_over_segment
from asyncds.algo.sums import Sums


@dataclass(frozen=True, kw_only=True)
class SequenceAdvantages:
    """Advantages and weights of a batch's sequences, each [N].

    base float32: the advantage of the reward. shift float32: what is added to it for the whole
    sequence. coefficient float32: by what the log-probs of its tokens are multiplied and added.
    correct bool: the verifier's verdict. weight float32: what each of its tokens counts in the mean
    over the update; policy_weight float32: the same in the policy loss, 0 where an overlong
    sequence is masked. entropy_weight float32: what the entropy of each of its tokens adds to the
    objective.
    """

    base: Tensor
    shift: Tensor
    coefficient: Tensor
    correct: Tensor
    weight: Tensor
    policy_weight: Tensor
    entropy_weight: Tensor

    def to(self, device: torch.device) -> "SequenceAdvantages":
        """The same on another device."""
        return SequenceAdvantages(**{name: x.to(device) for name, x in vars(self).items()})

    def rows(self, index: Tensor) -> "SequenceAdvantages":
        """The part of the sequences ``index`` (int64 [n]), in that order."""
        return SequenceAdvantages(**{name: x[index] for name, x in vars(self).items()})


class Objective:
    """The loss of a batch, as the configuration describes it.

    max_tokens: where completions are cut off. A configuration with schedules describes one
    objective for every step, which `at` makes. Raises KindError for a kind of the person's own that
    can't be used.
    """

    def __init__(self, config: AlgorithmConfig, *, max_tokens: int) -> None:
        self.config = config.resolved()
        self._max_tokens = max_tokens

    def at(self, step: int) -> "Objective":
        """The objective of training batch `step`, counted from 0."""
        return Objective(self.config.at(step), max_tokens=self._max_tokens)

    def sequence_advantages(
        self,
        table: Sequences,
        *,
        proximal_logprob_sum: Float | None = None,
        update: npt.NDArray[np.int64] | None = None,
        finished: npt.NDArray[np.bool_] | None = None,
    ) -> SequenceAdvantages:
        """Advantages from the table of all N sequences of a batch, once per batch; on the CPU.

        table: with log-probs of the behaviour policy. proximal_logprob_sum float [N]: those of the
        proximal one; read, and then needed, where the advantage compares sequences by it. update
        int64 [N]: which of the batch's updates a sequence belongs to, 0..m-1; by default the batch
        is a single one. finished bool [N]: the completion ended by itself; read, and then needed,
        where overlong sequences are masked.

        Raises ValueError for arrays that differ in shape or hold NaN or infinity.
        """
        config = self.config
        given = {field.name: getattr(table, field.name) for field in fields(table)}
        given |= {"update": update, "finished": finished}
        given |= {"proximal_logprob_sum": proximal_logprob_sum}
        _check({name: torch.as_tensor(x) for name, x in given.items() if x is not None})
        logprob_sum = table.logprob_sum
        if config.advantage.sequence_policy == "proximal":
            if proximal_logprob_sum is None:
                raise ValueError(
                    "advantages by the proximal policy's sequences need proximal_logprob_sum."
                )
            logprob_sum = proximal_logprob_sum
        length = table.length.astype(np.float64)
        added = config.overlong.added_reward(length, max_tokens=self._max_tokens)
        shaped = replace(table, reward=table.reward + added, logprob_sum=logprob_sum)
        if update is None:
            update = np.zeros(len(table.length), dtype=np.int64)
        weight = config.aggregation(table.length, update, max_tokens=self._max_tokens)
        by_class = config.differential_entropy(weight, table.correct, table.length, update)
        policy_weight = weight
        if isinstance(config.overlong, OverlongMask):
            if finished is None:
                raise ValueError("masking overlong sequences needs finished.")
            policy_weight = weight * config.overlong.teaches(finished)
        result = SequenceAdvantages(
            base=_tensor(config.advantage(shaped)),
            shift=_tensor(config.advantage.sequence_shift(shaped)),
            coefficient=_tensor(config.advantage.token_coefficient(shaped)),
            correct=torch.tensor(table.correct, dtype=torch.bool),
            weight=_tensor(weight),
            policy_weight=_tensor(policy_weight),
            entropy_weight=_tensor(config.entropy_coef * weight + by_class),
        )
        _check(vars(result))
        return replace(result, base=result.base * _tensor(config.class_weights(table.correct)))

    def loss(
        self,
        *,
        sequences: SequenceAdvantages,
        sequence: Tensor,
        current: Tensor,
        behaviour: Tensor,
        proximal: Tensor | None = None,
        reference: Tensor | None = None,
        entropy: Tensor | None = None,
        parts: Parts | None = None,
    ) -> tuple[Tensor, Sums]:
        """The sum (not the mean) of the loss over a micro-batch of whole sequences, and its sums.

        sequences: those of the micro-batch, [n]. sequence int64 [T]: which of them a token belongs
        to, 0..n-1. current, behaviour, proximal, reference float [T]: the policies' log-probs of
        the tokens, of which only ``current`` gets a gradient. entropy float [T]: the current
        policy's, in nats. parts: of the tokens, whose ratios are summed up on their own too. T may
        be 0: the loss is then a zero that can still be differentiated.

        Divide by the number of tokens of the *whole* update before the backward pass, so that the
        gradient doesn't depend on how the batch is split; the weights of ``sequences`` make it the
        mean that ``aggregation`` stands for.

        Raises ValueError where a needed input is missing, and for tensors that differ in shape or
        hold NaN or infinity.
        """
        tensors = {
            "sequence": sequence,
            "current": current,
            "behaviour": behaviour,
            "proximal": proximal,
            "reference": reference,
            "entropy": entropy,
        }
        _check(tensors)
        config = self.config
        for needed, name in (
            (config.needs_proximal, "proximal"),
            (config.needs_reference, "reference"),
            (config.needs_entropy, "entropy"),
        ):
            if needed and tensors[name] is None:
                raise ValueError(f"this objective needs the {name} of every token.")

        learner = current.detach() if proximal is None else proximal.detach()
        old = learner
        if isinstance(config.proximal, LogLinear):
            old = config.proximal(behaviour, current)
        shift = sequences.shift[sequence]
        if source := config.advantage.token_policy:
            logprob = (old if source == "proximal" else behaviour).detach()
            pooled = _pooled(logprob, sequence, config.advantage.pooling)
            shift = shift + sequences.coefficient[sequence] * pooled
        advantage = sequences.base[sequence] + shift

        inputs = LossInputs(
            logprob=current,
            log_ratio=current - (behaviour if config.loss.against == "behaviour" else old),
            advantage=advantage,
            sequence=sequence,
        )
        outputs = config.loss(inputs)
        weights = config.correction(behaviour, old, sequence)
        weight = sequences.weight[sequence]
        policy_loss = sequences.policy_weight[sequence] * weights.apply(outputs.loss)
        loss = policy_loss.sum()

        correct = sequences.correct[sequence]
        drift = {"ratio": clamped(inputs.log_ratio).exp(), **mismatch(behaviour, learner)}
        metrics = {
            "policy_loss": policy_loss,
            "advantage": advantage,
            "ds_shift_correct": shift[correct],
            "ds_shift_incorrect": shift[~correct],
            **drift,
            **_cut_metrics(inputs.advantage, outputs, weights),
        }
        if reference is not None:
            kl = config.kl(current, reference.detach())
            loss = loss + config.kl.coef * (weight * kl).sum()
            metrics["kl"] = kl
        if entropy is not None:
            loss = loss - (sequences.entropy_weight[sequence] * entropy).sum()
            metrics["entropy"] = entropy
            metrics["entropy_correct"] = entropy[correct]
            metrics["entropy_incorrect"] = entropy[~correct]
        sums = [
            Sums.of(metrics),
            histogram("ratio", inputs.log_ratio),
            histogram("importance_weight", learner - behaviour),
        ]
        if parts is not None:
            sums.append(sums_by_part(drift, parts))
        return loss, Sums.joined(sums)


def _cut_metrics(
    advantage: Tensor, outputs: LossOutputs, weights: TokenWeights
) -> dict[str, Tensor]:
    positive, negative = advantage > 0, advantage < 0
    return {
        "clipped_positive": outputs.clipped[positive],
        "clipped_negative": outputs.clipped[negative],
        "truncated_positive": weights.truncated[positive],
        "truncated_negative": weights.truncated[negative],
        "masked_positive": ~weights.keep[positive],
        "masked_negative": ~weights.keep[negative],
    }


def _pooled(logprob: Tensor, sequence: Tensor, pooling: Pooling) -> Tensor:
    if pooling == "mean":
        return mean_over_segment(logprob, sequence)
    return sum_over_segment(logprob, sequence) if pooling == "sum" else logprob


def _tensor(values: Float) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def _check(tensors: Mapping[str, Tensor | None]) -> None:
    given = {name: x for name, x in tensors.items() if x is not None}
    shapes = {name: tuple(x.shape) for name, x in given.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"these must be flat and of one length: {shapes}")
    for name, x in given.items():
        finite = torch.isfinite(x)
        if not finite.all():
            where = int(torch.nonzero(~finite)[0])
            raise ValueError(
                f"{name} is not finite at {int((~finite).sum())} of {len(x)} places, "
                f"first {x[where].item()} at {where}"
            )
