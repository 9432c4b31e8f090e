"""Replacing the weights of a running vLLM engine: what its workers are asked, and how it ended."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM

from asyncds.weights.communicator import NotJoined, TransferFailed
from asyncds.weights.vllm_transfer import WorkerOutcome

FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.005, 0.1
"""Pauses between questions how far a transfer is, the first and the longest. Each is answered
between two steps of the engine."""


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """The outcome of an update of the weights, in seconds.

    receive_seconds: from joining the group until every worker had all of the version, while
    sampling went on. pause_seconds: how long no token was sampled.
    """

    receive_seconds: float
    pause_seconds: float


async def receive(engine: AsyncLLM, info: dict[str, Any]) -> None:
    """Have every worker receive a version (``TransferInfo``) while the engine goes on.

    Raises TransferFailed; the engine is as it was then, once the workers' own deadline is over.
    """
    await call(engine, "begin_transfer", info=info)
    pause = FIRST_POLL_SECONDS
    while True:
        await asyncio.sleep(pause)
        outcomes = await _ask(engine, "transfer_state")
        if not any(outcome.busy for outcome in outcomes):
            return _judge(outcomes)
        pause = min(1.5 * pause, LAST_POLL_SECONDS)


async def call(engine: AsyncLLM, method: str, **arguments: Any) -> None:
    """Call a method of `WorkerExtension` on every worker. Raises TransferFailed."""
    _judge(await _ask(engine, method, **arguments))


async def _ask(engine: AsyncLLM, method: str, **arguments: Any) -> list[WorkerOutcome]:
    answers = await engine.collective_rpc(method, kwargs=arguments)
    return [WorkerOutcome(**answer) for answer in answers]


def _judge(outcomes: Sequence[WorkerOutcome]) -> None:
    """Raise TransferFailed with the error of each worker that has one.

    It is NotJoined where none of these was in a group.
    """
    failed = {i: outcome for i, outcome in enumerate(outcomes) if outcome.error}
    if not failed:
        return
    kind = TransferFailed if any(outcome.joined for outcome in failed.values()) else NotJoined
    if len(outcomes) == 1:
        raise kind(outcomes[0].error)
    raise kind("; ".join(f"worker {i}: {outcome.error}" for i, outcome in failed.items()))
