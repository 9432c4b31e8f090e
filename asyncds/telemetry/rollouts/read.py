"""Groups of the journal as texts with their scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from asyncds.protocol.batch import Bool, Int32
from asyncds.protocol.codec import GroupArrays, decode_group, unpack_group
from asyncds.rollout.journal_reader import GroupRow
from asyncds.telemetry.rollouts.texts import Decode, pieces

SAMPLES_DELETED = "The samples were deleted to keep the journal within coordinator.journal_gb."


class Token(NamedTuple):
    """A token as text and id, and of a sampled one log μ in nats and the version of its weights."""

    text: str
    id: int
    logprob: float | None = None
    version: int | None = None


@dataclass(frozen=True)
class Turn:
    """A part of a completion: the policy's own words, or what an environment said.

    tokens: as many as were asked for.
    """

    text: str
    sampled: bool
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One completion.

    turns: its parts in order, one where everything was sampled. answers: by equivalence, the
    primary one first, "" where there is none. finished: it ended by itself. reason: the limit that
    ended it, or why it has no score, "" where neither is so. tokens: how many were sampled. oldest,
    newest: their versions. mean_logprob: mean_t log μ, nats. parts: what the reward is made of, by
    name.
    """

    text: str
    turns: tuple[Turn, ...]
    answers: dict[str, str]
    reward: float
    correct: bool
    finished: bool
    reason: str
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


def read_rollout(
    group: GroupRow, decode: Decode, *, most: int | None = None, singles: int = 0
) -> Rollout:
    """Unpack and decode a group, its first `most` completions if that is given.

    singles: tokens of each turn that are also given one by one. A longer turn has those of its
    two ends, with a token in their middle that says how many are left out. Raises ProtocolError if
    the journal holds something else.
    """
    if not group.payload:
        return Rollout(group=group, prompt="", completions=[])
    arrays = unpack_group(decode_group(group.payload))
    ids = arrays.completions()[:most]
    texts = [decode(some.tolist()) for some in ids]
    ends = np.cumsum(arrays.lengths)[: len(ids)]
    own = np.split(arrays.sampled, ends)[: len(ids)]
    sampled = iter(zip(arrays.logprobs.tolist(), arrays.versions.tolist(), strict=True))
    turns = [
        tuple(_turns(_tokens(some, mask, sampled), decode, singles))
        for some, mask in zip(ids, own, strict=True)
    ]
    return _rollout(group, arrays, decode(arrays.prompt_ids.tolist()), texts, turns)


def rollout_with(group: GroupRow, *, prompt: str, texts: Sequence[str]) -> Rollout:
    """The same of a group whose texts are known. Raises ProtocolError."""
    if not group.payload:
        return Rollout(group=group, prompt="", completions=[])
    arrays = unpack_group(decode_group(group.payload))
    return _rollout(group, arrays, prompt, texts, [(Turn(text, True),) for text in texts])


def _tokens(ids: Int32, sampled: Bool, values: Iterator[tuple[float, int]]) -> list[Token]:
    """The tokens of a completion, without their texts. values: of the sampled ones."""
    return [
        Token("", id, *next(values)) if own else Token("", id)
        for id, own in zip(ids.tolist(), sampled.tolist(), strict=True)
    ]


def _turns(tokens: list[Token], decode: Decode, singles: int) -> Iterator[Turn]:
    for sampled, part in groupby(tokens, key=lambda token: token.version is not None):
        turn = list(part)
        text = decode([token.id for token in turn])
        yield Turn(text, sampled, tuple(_singles(turn, decode, singles)))


def _singles(turn: list[Token], decode: Decode, most: int) -> list[Token]:
    """The tokens of a turn with their texts, of a long one those of its two ends."""
    if len(turn) > most:
        head, tail = turn[: most // 2], turn[len(turn) - most // 2 :]
        middle = [Token(f"… {len(turn) - len(head) - len(tail):,} tokens …", -1)] if most else []
        return [*_singles(head, decode, most), *middle, *_singles(tail, decode, most)]
    texts = pieces([token.id for token in turn], decode)
    return [token._replace(text=text) for token, text in zip(turn, texts, strict=True)]


def _rollout(
    group: GroupRow,
    arrays: GroupArrays,
    prompt: str,
    texts: Sequence[str],
    turns: Sequence[tuple[Turn, ...]],
) -> Rollout:
    completions, start = [], 0
    for i, tokens in enumerate(arrays.sampled_lengths.tolist()[: len(texts)]):
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
                reason=arrays.reasons[i] if arrays.reasons else "",
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
