"""Episodes: completions in which an environment answers, and the policy goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncds.config.sampling import EpisodesConfig, Limit
from asyncds.engine.generation import Completion, GenerationEngine
from asyncds.protocol.batch import Int32
from asyncds.protocol.spans import given_spans
from asyncds.protocol.wire import Lease
from asyncds.scoring.frames import Reply
from asyncds.scoring.scorer import Scorer
from asyncds.tasks.base import Prompt, Row
from asyncds.tasks.encoding import Conversation
from asyncds.tasks.environment import Environment


@dataclass(frozen=True)
class Played:
    """An episode as one completion, with its score or the reason why it has none."""

    completion: Completion
    reply: Reply


class EpisodePlayer:
    """Plays episodes of an environment with an engine. Nothing is kept between them."""

    def __init__(
        self,
        *,
        engine: GenerationEngine,
        scorer: Scorer,
        task: Environment,
        tokenizer: Any,
        limits: EpisodesConfig,
    ) -> None:
        self._engine = engine
        self._scorer = scorer
        self._task = task
        self._tokenizer = tokenizer
        self._conversation = Conversation(task, tokenizer)
        self._limits = limits

    async def play(
        self, lease: Lease, row: Row, prompt: Prompt, prompt_ids: Int32, sample: int
    ) -> Played:
        """Play an episode of a row, the lease's sample of that number.

        row: as the scorer's task has it. prompt, prompt_ids: what the episode begins with.
        It goes on until the environment gives a score, fails, or a limit is reached.
        """
        transcript = _Transcript(prompt_ids)
        async with self._scorer.episode(row) as episode:
            end = self._engine.sampling_clock() + self._limits.seconds
            while True:
                turn = await self._sample(lease, transcript, sample)
                transcript.add_sampled(turn)
                reply = await episode.step(turn.text)
                if reply.answer is None:
                    break
                said = self._conversation.after(prompt, reply.answer, last=int(turn.token_ids[-1]))
                late = self._engine.sampling_clock() >= end
                if limit := self._limit(lease, transcript, said=len(said), late=late):
                    transcript.limit = limit
                    reply = await episode.cut_off()
                    break
                transcript.add_given(said)
            closed = await episode.close()
        return Played(transcript.completion(self._tokenizer), closed if closed.reason else reply)

    def _limit(
        self, lease: Lease, transcript: "_Transcript", *, said: int, late: bool
    ) -> Limit | None:
        """The limit that ends an episode whose environment has said so many tokens."""
        if len(transcript.turns) >= self._limits.max_turns:
            return "turns"
        if transcript.length + said >= lease.max_tokens:
            return "tokens"
        return "seconds" if late else None

    async def _sample(self, lease: Lease, transcript: "_Transcript", sample: int) -> Completion:
        turn = len(transcript.turns)
        return await self._engine.generate(
            transcript.ids,
            request_id=f"{lease.id}-{lease.attempt}-{sample}-{turn}",
            max_tokens=min(
                self._limits.turn_tokens or lease.max_tokens, lease.max_tokens - transcript.length
            ),
            temperature=lease.temperature,
            top_p=lease.top_p,
            top_k=max(lease.top_k, 0),
            min_p=lease.min_p,
            seed=turn_seed(lease.seed + sample, turn),
            stop=self._task.stop,
        )


def turn_seed(seed: int, turn: int) -> int:
    """The seed of a turn: of the first the sample's own, of later ones others, all different.

    With one seed for all of them, chance would fall alike in every turn.
    """
    if turn == 0:
        return seed
    return int(np.random.SeedSequence([seed, turn]).generate_state(1, np.uint32)[0] >> 1)


class _Transcript:
    """The tokens of an episode, from its prompt on: what was sampled, and what was said to it."""

    def __init__(self, prompt: Int32) -> None:
        self._prompt = prompt
        self._parts: list[Int32] = []
        self._sampled: list[bool] = []
        self.turns: list[Completion] = []
        self.limit: Limit | None = None

    @property
    def length(self) -> int:
        """Tokens after the prompt."""
        return sum(map(len, self._parts))

    @property
    def ids(self) -> Int32:
        """All tokens, with the prompt."""
        return np.concatenate([self._prompt, *self._parts])

    def add_sampled(self, turn: Completion) -> None:
        """Go on with what was sampled."""
        self._add(turn.token_ids, sampled=True)
        self.turns.append(turn)

    def add_given(self, ids: Sequence[int]) -> None:
        """Go on with what the environment said."""
        self._add(np.asarray(ids, dtype=np.int32), sampled=False)

    def _add(self, ids: Int32, *, sampled: bool) -> None:
        self._parts.append(ids)
        self._sampled.append(sampled)

    def completion(self, tokenizer: Any) -> Completion:
        """The episode as a completion, which the last turn or a limit ended."""
        ids = np.concatenate(self._parts)
        mask = np.repeat(self._sampled, [len(part) for part in self._parts])
        return Completion(
            token_ids=ids,
            logprobs=np.concatenate([turn.logprobs for turn in self.turns]),
            versions=np.concatenate([turn.versions for turn in self.turns]),
            finish_reason=self.limit or self.turns[-1].finish_reason,
            text=tokenizer.decode(ids.tolist(), skip_special_tokens=True),
            queue_seconds=self.turns[0].queue_seconds,
            given=given_spans(mask),
        )
