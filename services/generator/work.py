"""A generator's work: from a lease to a group, sampled, scored and packed."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import numpy as np
from vllm.exceptions import VLLMClientError

from asyncds.engine.generation import Completion, GenerationEngine
from asyncds.protocol.batch import Int32
from asyncds.protocol.codec import GroupArrays, pack_group
from asyncds.protocol.spans import given_spans, sampled_mask
from asyncds.protocol.wire import Delivered, Lease
from asyncds.scoring.pool import group_scores
from asyncds.scoring.scorer import GroupScores, Scorer
from asyncds.tasks.base import Row, Task, reward_parts
from asyncds.tasks.encoding import TemplateError, encode_prompt
from asyncds.tasks.mixture import name_of, own
from asyncds.telemetry.metrics.registry import Metrics
from asyncds.telemetry.traces.spans import Trace, attempt_key, nanoseconds
from services.generator.episodes import EpisodePlayer, Played
from services.generator.shown_texts import ShownTexts

T = TypeVar("T")


class LeaseError(Exception):
    """A lease can't be fulfilled; `permanent` if another attempt would fail too."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.permanent = permanent


class GroupSampler:
    """Samples, scores and packs the group that a lease asks for.

    Many leases are worked on at the same time; nothing is kept between them.
    """

    def __init__(
        self,
        *,
        engine: GenerationEngine,
        scorer: Scorer,
        task: Task,
        tokenizer: Any,
        metrics: Metrics,
        episodes: Mapping[str, EpisodePlayer] | None = None,
    ) -> None:
        """episodes: who plays them, by the name of the environment in ``tasks_in``."""
        self._engine = engine
        self._scorer = scorer
        self._task = task
        self._tokenizer = tokenizer
        self._shown = ShownTexts(tokenizer)
        self._metrics = metrics
        self._episodes = episodes or {}

    async def fulfil(self, lease: Lease, *, trace: Trace | None = None) -> Delivered:
        """Sample and score a group. Raises LeaseError. trace: the lease's.

        Past `lease.straggler_seconds` the group is made of the completions that are there, if they
        are at least `lease.min_group`.
        """
        try:
            row = self._task.rows(lease.split)[lease.row]
            prompt = np.asarray(encode_prompt(self._task, row, self._tokenizer), dtype=np.int32)
        except Exception as error:  # a task or a template of one's own raises what it likes
            why = f"no prompt can be made: {type(error).__name__}: {error}"
            raise LeaseError(why[:500], permanent=True) from error
        began = time.time_ns()
        played: list[Played] | None = None
        player = self._episodes.get(name_of(self._task, row))
        try:
            if player is None:
                completions = await self._sample(lease, prompt)
            else:
                played = await self._play(lease, row, prompt, player)
                completions = [episode.completion for episode in played]
        except TemplateError as error:
            raise LeaseError(str(error)[:500], permanent=True) from error
        except (VLLMClientError, ValueError) as error:
            raise LeaseError(f"vLLM refuses it: {error}"[:500], permanent=True) from error
        if trace is not None:
            _trace_sampling(trace, lease, completions, began)
        if len(completions) < lease.min_group:
            raise LeaseError(
                f"only {len(completions)} of {lease.group_size} completions within "
                f"{lease.straggler_seconds:g} s",
                permanent=False,
            )
        sampled, unscored = time.monotonic(), time.time_ns()
        if played is None:
            judged = await self._scorer.score(row, [c.text for c in completions])
        else:
            judged = group_scores(row, [episode.reply for episode in played])
        score_seconds, errors = time.monotonic() - sampled, sum(judged.errors.values())
        if trace is not None:
            parent = attempt_key(lease.attempt)
            trace.span("score", start=unscored, end=time.time_ns(), parent=parent, errors=errors)
        for reason, n in judged.errors.items():
            self._metrics.counter("score_errors_total", reason=reason).inc(n)
        for limit in (c.limit for c in completions if c.limit is not None):
            self._metrics.counter("limits_total", limit=limit).inc()
        self._metrics.histogram("score_seconds").observe(score_seconds)
        return Delivered(
            lease=lease.id,
            attempt=lease.attempt,
            group=pack_group(_arrays(prompt, completions, judged, own(self._task, row)[0])),
            texts=self._shown.of(prompt.tolist(), [c.text for c in completions]),
            score_errors=errors,
            score_error=judged.error[:500],
        )

    async def _sample(self, lease: Lease, prompt: Int32) -> list[Completion]:
        """Completions of `prompt`, int32 [T]; fewer than the lease asks for if some are late."""
        engine = self._engine
        _fits(lease, prompt, room=engine.max_model_len)
        return await _survivors(
            [
                engine.generate(
                    prompt,
                    request_id=f"{lease.id}-{lease.attempt}-{i}",
                    max_tokens=lease.max_tokens,
                    temperature=lease.temperature,
                    top_p=lease.top_p,
                    top_k=max(lease.top_k, 0),
                    min_p=lease.min_p,
                    seed=lease.seed + i,
                )
                for i in range(lease.group_size)
            ],
            seconds=lease.straggler_seconds,
            clock=engine.sampling_clock,
        )

    async def _play(
        self, lease: Lease, row: Row, prompt: Int32, player: EpisodePlayer
    ) -> list[Played]:
        """Episodes of a row; fewer than the lease asks for if some are late."""
        _fits(lease, prompt, room=self._engine.max_model_len)
        words = self._task.prompt(row)
        return await _survivors(
            [player.play(lease, row, words, prompt, i) for i in range(lease.group_size)],
            seconds=lease.straggler_seconds,
            clock=self._engine.sampling_clock,
        )


def _fits(lease: Lease, prompt: Int32, *, room: int) -> None:
    if len(prompt) + lease.max_tokens > room:
        raise LeaseError(
            f"a prompt of {len(prompt)} tokens and {lease.max_tokens} of answer exceed "
            f"generator.max_model_len {room}",
            permanent=True,
        )


def _trace_sampling(trace: Trace, lease: Lease, completions: list[Completion], began: int) -> None:
    """Trace how long a group waited for its first completion to begin, and was sampled."""
    parent, ended = attempt_key(lease.attempt), time.time_ns()
    waited = min((c.queue_seconds for c in completions), default=0.0)
    decoding = min(began + nanoseconds(waited), ended)
    trace.span("queue", start=began, end=decoding, parent=parent)
    trace.span(
        "generate",
        start=decoding,
        end=ended,
        parent=parent,
        completions=len(completions),
        wanted=lease.group_size,
        tokens=sum(len(c.token_ids) for c in completions),
    )


async def _survivors(
    requests: list[Coroutine[Any, Any, T]], *, seconds: float, clock: Callable[[], float]
) -> list[T]:
    """The results of `requests` that are there after `seconds` by `clock`; the rest is ended."""
    tasks = [asyncio.create_task(request) for request in requests]
    pending, end = set(tasks), clock() + seconds
    try:
        while pending and (left := end - clock()) > 0:
            _, pending = await asyncio.wait(pending, timeout=left)
        return [t.result() for t in tasks if t not in pending]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _arrays(
    prompt: Int32,
    completions: list[Completion],
    judged: GroupScores,
    task: Task,
) -> GroupArrays:
    scores = judged.scores
    return GroupArrays(
        prompt_ids=prompt,
        lengths=np.array([len(c.token_ids) for c in completions], dtype=np.int32),
        completion_ids=np.concatenate([c.token_ids for c in completions]),
        # Rounding may lift the log-probability of a certain token above 0 by 1e-7.
        logprobs=np.minimum(np.concatenate([c.logprobs for c in completions]), 0.0),
        versions=np.concatenate([c.versions for c in completions]),
        given=given_spans(
            np.concatenate([sampled_mask(c.given, len(c.token_ids)) for c in completions])
        ),
        rewards=np.array([s.reward for s in scores], dtype=np.float32),
        correct=np.array([s.correct for s in scores]),
        finished=np.array([c.finish_reason == "stop" for c in completions]),
        answers=_by_equivalence([s.answers for s in scores], task),
        # What has no score has a reward of 0, and so have its parts.
        parts={
            name: np.array([s.parts.get(name, 0.0) for s in scores], dtype=np.float32)
            for name in reward_parts(task)
        },
        reasons=[judged.failures.get(i) or c.limit or "" for i, c in enumerate(completions)],
    )


def _by_equivalence(answers: list[tuple[str, ...]], task: Task) -> dict[str, list[str]]:
    """Arrange answer keys in columns by equivalence, the primary one first."""
    nothing = ("",) * len(task.equivalences)
    columns = zip(*(a or nothing for a in answers), strict=True)
    by_name = {name: list(c) for name, c in zip(task.equivalences, columns, strict=True)}
    return {task.equivalence: by_name.pop(task.equivalence), **by_name}
