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
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from asyncds.algo.advantages import (
    AdvantageInputs,
    DifferentialSmoothing,
    Grpo,
    Policy,
    Unlikeliness,
)
from asyncds.algo.aggregation import Aggregation, TokenMean, class_mean_weights
from asyncds.algo.best_of_k import BestOfGroup, GrPkpo, Pkpo
from asyncds.algo.corrections import Correction, NoCorrection, TokenWeights
from asyncds.algo.diagnostics import Parts, histogram, mismatch, sums_by_part
from asyncds.algo.kl import KL_ESTIMATORS, KlEstimator
from asyncds.algo.losses import Clip, Dppo, LossInputs, LossOutputs, PolicyLoss
from asyncds.algo.overlong import Overlong, OverlongMask, OverlongPenalty
from asyncds.algo.ratios import clamped
from asyncds.algo.sums import Sums

Advantage = Grpo | Unlikeliness | Pkpo | GrPkpo | BestOfGroup


@dataclass(frozen=True, kw_only=True)
class SequenceAdvantages:
    """What a micro-batch must know about its sequences, each [N].

    base float32: the advantage of the reward. shift float32: the part of differential smoothing
    that is settled for the whole sequence, zero but for ``reward_mean``. correct bool: the
    verifier's verdict. weight float32: what each of its tokens counts in the mean over the update;
    policy_weight float32: the same in the policy loss, 0 where an overlong sequence is masked.
    entropy_weight float32: what the entropy of each of its tokens adds to the objective.
    """

    base: Tensor
    shift: Tensor
    correct: Tensor
    weight: Tensor
    policy_weight: Tensor
    entropy_weight: Tensor

    def rows(self, index: Tensor) -> "SequenceAdvantages":
        """Those of the sequences ``index`` (int64 [n]), in that order, on ``index``'s device."""
        return SequenceAdvantages(
            **{name: x.to(index.device)[index] for name, x in vars(self).items()}
        )


@dataclass(frozen=True, kw_only=True)
class DifferentialEntropy:
    """Entropy control by class: ``+ a_p E[H | correct] − a_n E[H | incorrect]`` is maximised
    (arXiv 2511.19942, section 4.8.2), the control experiment to differential smoothing.

    The expectations are means over the tokens of the correct, and of the incorrect sequences of an
    update, in the proportions of the aggregation; a class that is not there adds nothing.

    Raises ValueError where one is negative, or neither is positive.
    """

    correct: float = 0.0
    incorrect: float = 0.0

    def __post_init__(self) -> None:
        if not (self.correct >= 0 and self.incorrect >= 0 and self.correct + self.incorrect > 0):
            raise ValueError(
                f"differential entropy ({self.correct}, {self.incorrect}) raises the entropy of "
                "correct and lowers that of incorrect rollouts: choose both ≥ 0, and one > 0."
            )


@dataclass(frozen=True, kw_only=True)
class LogLinear:
    """A proximal policy without a forward pass: ``log π_old = (1 − λ) log μ + λ log π_θ``.

    λ (``current``) in 0..1, exclusive, is how near π_θ it lies; π_θ is held constant. The ratio
    then is ``(π_θ/μ)^(1−λ)`` and the weight ``π_old/μ = (π_θ/μ)^λ``, so that the trust region
    reaches μ even when a batch is one update. A proximal policy for the decoupled loss
    (arXiv 2505.24298); AReaL's approximation, with λ = d/(d + 1) for tokens d versions old.

    Raises ValueError for λ outside 0..1.
    """

    current: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.current < 1:
            raise ValueError(
                f"log_linear current = {self.current} is no policy between μ and π_θ: "
                "choose 0 < current < 1."
            )

    def __call__(self, log_mu: Tensor, log_current: Tensor) -> Tensor:
        """Log-probs of the tokens, [T], [T] -> [T], constant."""
        return torch.lerp(log_mu.to(log_current.dtype), log_current.detach(), self.current)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Which advantage, which loss, and which policy plays which part.

    ratio: the policy below the ratio that the loss clips. ``behaviour``: ρ = π_θ/μ, a correction
    and a trust region at once. ``proximal``: ρ = π_θ/π_old, and ``correction`` accounts for μ.
    proximal: what π_old is: None for the learner at the start of the batch.
    kl_coefficient: β ≥ 0 of a KL penalty to the reference, estimated by ``kl_estimator``.
    entropy_coefficient: α of a loss term −α H; negative for a penalty. differential_entropy: one
    for each class, beside it.
    aggregation: which mean over an update's tokens and sequences all terms of the loss are.
    overlong: what becomes of sequences that are cut off or nearly so; None: nothing.
    updates_per_batch: optimizer updates that share a batch, and so its π_old.

    Raises ValueError, with what to choose instead, for a combination that makes no sense.
    """

    advantage: Advantage = field(default_factory=Grpo)
    smoothing: DifferentialSmoothing | None = None
    policy_loss: PolicyLoss = field(default_factory=Clip)
    ratio: Policy = "behaviour"
    correction: Correction = field(default_factory=NoCorrection)
    proximal: LogLinear | None = None
    kl_coefficient: float = 0.0
    kl_estimator: KlEstimator = "k3"
    entropy_coefficient: float = 0.0
    differential_entropy: DifferentialEntropy | None = None
    aggregation: Aggregation = field(default_factory=TokenMean)
    overlong: Overlong | None = None
    updates_per_batch: int = 1

    def __post_init__(self) -> None:
        if self.ratio == "behaviour" and not self.policy_loss.uses_ratio:
            raise ValueError(
                f"{_name(self.policy_loss)} takes no ratio, so ratio=behaviour would leave stale "
                "tokens uncorrected: choose ratio=proximal, with a correction such as tis."
            )
        if self.ratio == "proximal" and isinstance(self.policy_loss, Dppo):
            raise ValueError(
                "dppo keeps the policy near the one that sampled, so its ratio is that to μ: "
                "choose ratio=behaviour, or another loss."
            )
        if self.ratio == "behaviour" and not isinstance(self.correction, NoCorrection):
            raise ValueError(
                f"ratio=behaviour already weighs each token by π/μ, and {_name(self.correction)} "
                "would count it twice: choose correction=none, or ratio=proximal."
            )
        if self.smoothing is not None and not isinstance(self.advantage, Grpo):
            raise ValueError(
                "differential smoothing shifts the advantage of grpo; "
                f"{_name(self.advantage)} shapes rewards by itself: choose one of the two."
            )
        if (
            self._smooths_rewards
            and isinstance(self.advantage, Grpo)
            and self.advantage.scale == "std"
        ):
            raise ValueError(
                "reward_mean shifts the rewards, and dividing by their std would undo γ (in a "
                "group that is all correct it blows any shift up to size 1): choose scale=none."
            )
        if self.proximal is not None and self._sequence_policy == "proximal":
            raise ValueError(
                "sequences are compared before π_θ is known, which log_linear is made of: "
                "choose source=behaviour, or proximal=none."
            )
        if self.proximal is not None and not self._uses_proximal:
            raise ValueError(
                "nothing in this objective reads π_old, so log_linear would change nothing: "
                "choose proximal=none, or ratio=proximal."
            )
        if isinstance(self.overlong, OverlongPenalty) and isinstance(self.advantage, Pkpo | GrPkpo):
            raise ValueError(
                f"{_name(self.advantage)} reads the verdict and not the reward, so an overlong "
                "penalty would change nothing: choose overlong=OverlongMask(), or none."
            )
        if not self.kl_coefficient >= 0:
            raise ValueError(
                f"kl_coefficient = {self.kl_coefficient} would drive the policy away from the "
                "reference without bound: choose kl_coefficient ≥ 0."
            )
        if self.updates_per_batch < 1:
            raise ValueError(f"updates_per_batch = {self.updates_per_batch}: choose at least 1.")

    @property
    def needs_proximal(self) -> bool:
        """Whether π_old must be computed for the whole batch, without gradient, before training."""
        if self.proximal is not None:
            return False
        several_updates = self.updates_per_batch > 1
        return (several_updates and self._uses_proximal) or self._sequence_policy == "proximal"

    @property
    def needs_reference(self) -> bool:
        """Whether the base model's log-probs are needed."""
        return self.kl_coefficient > 0

    @property
    def needs_entropy(self) -> bool:
        """Whether the entropy of the current policy is needed, with its gradient."""
        return self.entropy_coefficient != 0 or self.differential_entropy is not None

    @property
    def _uses_proximal(self) -> bool:
        """Whether the loss of a token depends on π_old."""
        return (
            (self.smoothing is not None and self.smoothing.source == "proximal")
            or (self.ratio == "proximal" and self.policy_loss.uses_ratio)
            or not isinstance(self.correction, NoCorrection)
        )

    @property
    def _smooths_rewards(self) -> bool:
        return self.smoothing is not None and self.smoothing.form == "reward_mean"

    @property
    def _sequence_policy(self) -> Policy:
        """The policy whose log-probs of whole sequences the advantages read, if any."""
        if self.smoothing is not None and self._smooths_rewards:
            return self.smoothing.source
        if isinstance(self.advantage, Unlikeliness):
            return self.advantage.source
        return "behaviour"

    def sequence_advantages(
        self,
        *,
        reward: Tensor,
        correct: Tensor,
        group: Tensor,
        length: Tensor,
        behaviour_logprob_sum: Tensor,
        proximal_logprob_sum: Tensor | None = None,
        update: Tensor | None = None,
        finished: Tensor | None = None,
    ) -> SequenceAdvantages:
        """From the table of all N sequences of a batch, once per batch.

        reward float [N]; correct bool [N]; group int [N]; length int [N], tokens of the completion;
        the log-prob sums float [N], over the completion. The proximal one is read only by
        ``reward_mean`` and ``unlikeliness`` with that source, and must then be there.
        update int64 [N]: which of the batch's updates a sequence belongs to, 0..m-1; by default
        the batch is a single one. finished bool [N]: the completion ended by itself; read only,
        and then needed, where overlong sequences are masked.

        Raises ValueError for tensors that differ in shape or hold NaN or infinity.
        """
        tensors = {
            "reward": reward,
            "correct": correct,
            "group": group,
            "length": length,
            "behaviour_logprob_sum": behaviour_logprob_sum,
            "proximal_logprob_sum": proximal_logprob_sum,
            "update": update,
            "finished": finished,
        }
        _check(tensors)
        logprob_sum = behaviour_logprob_sum
        if self._sequence_policy == "proximal":
            if proximal_logprob_sum is None:
                raise ValueError(
                    "advantages by the proximal policy's sequences need proximal_logprob_sum."
                )
            logprob_sum = proximal_logprob_sum
        if isinstance(self.overlong, OverlongPenalty):
            reward = reward + self.overlong(length.double())
        inputs = AdvantageInputs(
            reward=reward,
            correct=correct,
            group=group,
            mean_logprob=logprob_sum.double() / length.clamp(min=1),
        )
        base = self.advantage(inputs)
        shift = torch.zeros_like(base)
        if self.smoothing is not None and self._smooths_rewards:
            shifted = reward + self.smoothing.reward_shift(inputs.mean_logprob, correct)
            shift = self.advantage(replace(inputs, reward=shifted)) - base
        if update is None:
            update = torch.zeros_like(length, dtype=torch.int64)
        weight = self.aggregation(length, update)
        entropy_weight = self.entropy_coefficient * weight
        if self.differential_entropy is not None:
            by_class = torch.where(
                correct, self.differential_entropy.correct, -self.differential_entropy.incorrect
            )
            of_class = class_mean_weights(weight, correct, length, update)
            entropy_weight = entropy_weight + by_class * of_class
        policy_weight = weight
        if isinstance(self.overlong, OverlongMask):
            if finished is None:
                raise ValueError("masking overlong sequences needs finished.")
            policy_weight = weight * finished
        return SequenceAdvantages(
            base=base,
            shift=shift,
            correct=correct,
            weight=weight.float(),
            policy_weight=policy_weight.float(),
            entropy_weight=entropy_weight.float(),
        )

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
        for needed, name in (
            (self.needs_proximal, "proximal"),
            (self.needs_reference, "reference"),
            (self.needs_entropy, "entropy"),
        ):
            if needed and tensors[name] is None:
                raise ValueError(f"this objective needs the {name} of every token.")

        learner = current.detach() if proximal is None else proximal.detach()
        old = learner if self.proximal is None else self.proximal(behaviour, current)
        shift = sequences.shift[sequence]
        if self.smoothing is not None:
            source = old if self.smoothing.source == "proximal" else behaviour
            shift = shift + self.smoothing.token_shift(source, sequence, sequences.correct)
        advantage = sequences.base[sequence] + shift

        inputs = LossInputs(
            logprob=current,
            log_ratio=current - (behaviour if self.ratio == "behaviour" else old),
            advantage=advantage,
            sequence=sequence,
        )
        outputs = self.policy_loss(inputs)
        weights = self.correction(behaviour, old, sequence)
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
            kl = KL_ESTIMATORS[self.kl_estimator](current, reference.detach())
            loss = loss + self.kl_coefficient * (weight * kl).sum()
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


def _name(choice: object) -> str:
    return type(choice).__name__.lower()
