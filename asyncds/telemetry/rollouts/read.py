"""Groups of the journal as texts with their scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncds.protocol.batch import Bool, Int32
from asyncds.protocol.codec import GroupArrays, decode_group, unpack_group
from asyncds.rollout.journal_reader import GroupRow
from asyncds.telemetry.rollouts.texts import Decode

SAMPLES_DELETED = "The samples were deleted to keep the journal within coordinator.journal_gb."


@dataclass(frozen=True)
class Turn:
    """A part of a completion: the policy's own words, or what an environment said."""

    text: str
    sampled: bool


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One completion.

    turns: of an episode, its parts in order; () where everything was sampled. answers: by
    equivalence, the primary one first, "" where there is none. tokens: how many were sampled.
    oldest, newest: their versions. mean_logprob: mean_t log μ, nats. parts: what the reward is made
    of, by name.
    """

    text: str
    turns: tuple[Turn, ...]
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
    turns = [_turns(ids, sampled, decode) for ids, sampled in _with_masks(arrays)]
    return _rollout(group, arrays, decode(arrays.prompt_ids.tolist()), texts, turns)


def rollout_with(group: GroupRow, *, prompt: str, texts: Sequence[str]) -> Rollout:
    """The same of a group whose texts are known. Raises ProtocolError."""
    if not group.payload:
        return Rollout(group=group, prompt="", completions=[])
    arrays = unpack_group(decode_group(group.payload))
    return _rollout(group, arrays, prompt, texts, [()] * len(texts))


def _with_masks(arrays: GroupArrays) -> Iterator[tuple[Int32, Bool]]:
    """Tokens of each completion, with the mask of the sampled ones."""
    ends = np.cumsum(arrays.lengths)[:-1]
    return zip(arrays.completions(), np.split(arrays.sampled, ends), strict=True)


def _turns(ids: Int32, sampled: Bool, decode: Decode) -> tuple[Turn, ...]:
    if sampled.all():
        return ()
    starts = np.flatnonzero(np.diff(sampled, prepend=~sampled[0]))
    return tuple(
        Turn(decode(part.tolist()), bool(sampled[start]))
        for start, part in zip(starts, np.split(ids, starts[1:]), strict=True)
    )


def _rollout(
    group: GroupRow,
    arrays: GroupArrays,
    prompt: str,
    texts: Sequence[str],
    turns: Sequence[tuple[Turn, ...]],
) -> Rollout:
    completions, start = [], 0
    for i, tokens in enumerate(arrays.sampled_lengths.tolist()):
        part = slice(start, start + tokens)
        start = part.stop
        completions.append(
            Completion(
                text=texts[i],
                turns=turns[i],
                answers={name: keys[i] for name, keys in arrays.answers.items()},
                reward=float(arrays.rewards[i]),
                correct=bool(arrays.correct[i]),
                finished=bool(arrays.finished[i]),
                tokens=tokens,
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
