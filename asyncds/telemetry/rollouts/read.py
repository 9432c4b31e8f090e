"""Groups of the journal as texts with their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asyncds.protocol.codec import GroupArrays, decode_group, unpack_group
from asyncds.rollout.journal_reader import GroupRow
from asyncds.telemetry.rollouts.texts import Decode

SAMPLES_DELETED = "The samples were deleted to keep the journal within coordinator.journal_gb."


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One completion.

    answers: by equivalence, the primary one first, "" where there is none. oldest, newest: versions
    of its tokens. mean_logprob: mean_t log μ, nats. parts: what the reward is made of, by name.
    """

    text: str
    answers: dict[str, str]
    reward: float
    correct: bool
    finished: bool
    tokens: int
    oldest: int
    newest: int
    mean_logprob: float
    parts: dict[str, float]

    @property
    def answer(self) -> str:
        """The answer under the primary equivalence."""
        return next(iter(self.answers.values()))


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A group: its row of the journal, the prompt, the completions.

    Where the samples were deleted there are none, and the prompt is "".
    """

    group: GroupRow
    prompt: str
    completions: list[Completion]

    @property
    def deleted(self) -> bool:
        """The journal has the numbers alone."""
        return not self.group.payload


def read_rollout(group: GroupRow, decode: Decode) -> Rollout:
    """Unpack and decode a group. Raises ProtocolError if the journal holds something else."""
    if not group.payload:
        return Rollout(group=group, prompt="", completions=[])
    arrays = unpack_group(decode_group(group.payload))
    texts = [decode(ids.tolist()) for ids in arrays.completions()]
    return _rollout(group, arrays, decode(arrays.prompt_ids.tolist()), texts)


def rollout_with(group: GroupRow, *, prompt: str, texts: Sequence[str]) -> Rollout:
    """The same of a group whose texts are known. Raises ProtocolError."""
    if not group.payload:
        return Rollout(group=group, prompt="", completions=[])
    return _rollout(group, unpack_group(decode_group(group.payload)), prompt, texts)


def _rollout(group: GroupRow, arrays: GroupArrays, prompt: str, texts: Sequence[str]) -> Rollout:
    completions, start = [], 0
    for i, ids in enumerate(arrays.completions()):
        part = slice(start, start + len(ids))
        start = part.stop
        completions.append(
            Completion(
                text=texts[i],
                answers={name: keys[i] for name, keys in arrays.answers.items()},
                reward=float(arrays.rewards[i]),
                correct=bool(arrays.correct[i]),
                finished=bool(arrays.finished[i]),
                tokens=len(ids),
                oldest=int(arrays.versions[part].min()),
                newest=int(arrays.versions[part].max()),
                mean_logprob=float(arrays.logprobs[part].mean()),
                parts={name: float(values[i]) for name, values in arrays.parts.items()},
            )
        )
    return Rollout(group=group, prompt=prompt, completions=completions)


def tokenizer_of(config: dict[str, Any]) -> str:
    """Where a run's tokenizer is, by its config.yaml."""
    return config.get("tokenizer") or config["model"]
