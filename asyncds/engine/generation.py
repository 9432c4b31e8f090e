"""The generation engine: vLLM, with weights that are replaced while requests are running."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Self, get_args
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from asyncds.config.engines import GeneratorConfig
from asyncds.config.lora import LoraConfig
from asyncds.config.sampling import Limit
from asyncds.engine.cpu_start import start_on_cpu
from asyncds.engine.forking import garbage_kept
from asyncds.engine.sampling_clock import SamplingClock
from asyncds.engine.weight_update import UpdateResult, call, receive
from asyncds.protocol.spans import NONE
from asyncds.weights.adapter_files import policy_adapter
from asyncds.weights.communicator import TransferFailed
from asyncds.weights.layout import Layout
from asyncds.weights.plugin import BACKEND
from asyncds.weights.vllm_transfer import WORKER_EXTENSION

RPC_GRACE_SECONDS = 10.0
"""How much longer than a transfer's own deadline its remote calls may take before they fail."""
_LIMITS: dict[str, Limit] = {"length": "tokens", **{name: name for name in get_args(Limit)}}
ACTIVATION_SECONDS = 60.0
"""How long an activation may take: it reads no more than the machine's own memory."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One completion of T tokens, of which S were sampled: all of them, but in an episode.

    token_ids: int32 [T], with the end-of-sequence token where one was sampled. given: int32 [k, 2],
    spans (start, count) of what was not sampled. logprobs: float32 [S], in nats, of the sampled
    tokens under the distribution they were sampled from (temperature and truncation applied).
    versions: int32 [S], of the weights that sampled each of them.
    finish_reason: ``"stop"``, ``"length"``, ``"abort"``, or the limit that ended an episode. text:
    without special tokens. queue_seconds: how long it waited in the engine before its first token
    was worked on.
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    versions: npt.NDArray[np.int32]
    finish_reason: str
    text: str
    queue_seconds: float = 0.0
    given: npt.NDArray[np.int32] = field(default_factory=NONE.copy)

    @property
    def limit(self) -> Limit | None:
        """The limit that ended it, None if none did."""
        return _LIMITS.get(self.finish_reason)


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """The engine's load: running and waiting requests, share of the KV cache in use (0 … 1)."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0


class GenerationEngine:
    """vLLM's ``AsyncLLM`` for reinforcement learning. Made by ``start``.

    ``version`` is that of the weights. ``weights_valid`` is False while a version is activated, and
    stays so when that fails: the model then holds a mixture of two versions. The engine stays
    paused (running requests are kept, new ones wait) until an ``update_weights`` succeeds.
    ``cache_salt``: requests share cached prefixes only under the same salt. It changes in the pause
    for new weights, so that no request starts from the KV cache of older ones.
    """

    def __init__(self, *, engine: AsyncLLM, stats: "_Stats") -> None:
        self.version = 0
        self.weights_valid = True
        self.cache_salt = "version-0"
        self.sampling_clock = SamplingClock()
        self._engine = engine
        self._tokenizer = engine.get_tokenizer()
        self._stats = stats
        self._updating = asyncio.Lock()
        self._adapter: LoRARequest | None = None

    @classmethod
    async def start(
        cls,
        settings: GeneratorConfig,
        *,
        model: str,
        dtype: str,
        seed: int,
        cpu_threads: int,
        tokenizer: str | None = None,
        lora: LoraConfig | None = None,
    ) -> Self:
        """Start the engine's processes with the weights of ``model``, labelled version 0.

        tokenizer: directory or hub id, where it is not the model's. dtype: name of a torch dtype.
        cpu_threads: on a CPU, the threads of each worker. lora: where versions are adapters of it.
        Raises TimeoutError after ``settings.start_seconds``.
        """
        cpu = current_platform.is_cpu()
        arguments = AsyncEngineArgs(
            model=model,
            tokenizer=tokenizer or model,
            dtype=dtype,
            max_model_len=settings.max_model_len,
            tensor_parallel_size=settings.tensor_parallel,
            pipeline_parallel_size=settings.pipeline_parallel,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            kv_cache_memory_bytes=int(settings.kv_cache_gb * 2**30) if cpu else None,
            max_num_seqs=settings.max_num_seqs,
            enforce_eager=settings.enforce_eager,
            seed=seed,
            logprobs_mode="processed_logprobs",
            weight_transfer_config={"backend": BACKEND},
            worker_extension_cls=WORKER_EXTENSION,
            disable_log_stats=True,
            **({} if lora is None else _lora_arguments(lora)),
            **settings.engine_args,
        )
        if cpu and arguments.enable_chunked_prefill is None:
            # A prompt cut in two makes vLLM rewind the request's random generator, which
            # generators of a CPU cannot do: the engine would die.
            arguments.enable_chunked_prefill = False
        loggers: list[_Stats] = []

        def make_logger(vllm_config: Any, engine_index: int) -> "_Stats":
            loggers.append(_Stats(vllm_config, engine_index))
            return loggers[-1]

        def make_engine() -> AsyncLLM:
            with garbage_kept():  # vLLM forks on GPUs too, where it can
                if cpu:
                    return start_on_cpu(arguments, threads=cpu_threads, make_logger=make_logger)
                return AsyncLLM.from_engine_args(arguments, stat_loggers=[make_logger])

        before = set(multiprocessing.active_children())
        try:
            async with asyncio.timeout(settings.start_seconds):
                engine = await asyncio.to_thread(make_engine)
                await engine.update_weight_version("0")
        except TimeoutError as error:
            # The thread that waits for them would keep this process from ending.
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
            raise TimeoutError(
                f"the engine did not start within generator.start_seconds, "
                f"{settings.start_seconds:g} s: raise it"
            ) from error
        return cls(engine=engine, stats=loggers[0])

    async def generate(
        self,
        prompt_ids: Sequence[int] | npt.NDArray[np.int32],
        *,
        request_id: str,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int | None = None,
        ignore_eos: bool = False,
        stop: Sequence[str] = (),
    ) -> Completion:
        """Sample one completion. Cancelling the call aborts the request.

        stop: texts that end it, and are its end.
        """
        output = await self._run(
            prompt_ids,
            SamplingParams(
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                min_p=min_p,
                seed=seed,
                ignore_eos=ignore_eos,
                stop=list(stop),
                include_stop_str_in_output=True,
                logprobs=0,
                flat_logprobs=True,
                detokenize=bool(stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,
            ),
            request_id=request_id,
            cache_salt=self.cache_salt,
        )
        [sample] = output.outputs
        return Completion(
            token_ids=np.asarray(sample.token_ids, dtype=np.int32),
            logprobs=np.asarray(sample.logprobs.logprobs, dtype=np.float32),
            versions=_versions(sample),
            finish_reason=sample.finish_reason,
            text=self._tokenizer.decode(sample.token_ids, skip_special_tokens=True),
            queue_seconds=_queue_seconds(output),
        )

    async def log_probs(
        self, token_ids: Sequence[int], *, timeout: float
    ) -> npt.NDArray[np.float32]:
        """Log-probabilities, float32 [T-1], of ``token_ids[1:]`` [T] under the current weights.

        At temperature 1, each given the tokens before it, with nothing from the prefix cache.
        Raises TimeoutError, also where the engine is paused.
        """
        async with asyncio.timeout(timeout):
            output = await self._run(
                token_ids,
                SamplingParams(
                    max_tokens=1,
                    prompt_logprobs=0,
                    flat_logprobs=True,
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                ),
                request_id=f"probe-{uuid4().hex}",
                cache_salt=uuid4().hex,
            )
        return np.asarray(output.prompt_logprobs.logprobs, dtype=np.float32)

    async def abort(self, request_ids: Sequence[str]) -> None:
        """End requests now; their ``generate`` returns what there is, as ``"abort"``."""
        await self._engine.abort(request_ids)

    async def update_weights(
        self,
        *,
        version: int,
        rendezvous: str,
        rank_offset: int,
        world_size: int,
        layout: Layout,
        checksums: Sequence[int],
        timeout: float,
        cache_salt: str | None = None,
    ) -> UpdateResult:
        """Receive ``version`` in the group at ``rendezvous``, and go on with it.

        The engine's workers are ranks rank_offset … rank_offset + TP·PP - 1 of ``world_size``. The
        group is kept for as long as the rendezvous is the same. layout and checksums are the
        sender's. Requests go on while it arrives, within ``timeout`` seconds. It is activated in a
        pause, through which they keep their KV cache. cache_salt: the engine's from then on; by
        default one per version.

        Raises TransferFailed; NotJoined when there was no group. What has failed before the pause
        changes nothing: the engine goes on with the weights it has. When an activation fails, it
        stays paused and ``weights_valid`` is False.
        """
        start = perf_counter()
        info = {
            "rendezvous": rendezvous,
            "rank_offset": rank_offset,
            "world_size": world_size,
            "layout": layout.pack(),
            "checksums": list(checksums),
            "timeout": timeout,
        }
        async with self._updating:
            async with _failing(f"version {version} was not received", timeout):
                await receive(self._engine, info)
            received = perf_counter()
            async with self._resumed_when_valid():
                async with _failing(f"version {version} was not activated", ACTIVATION_SECONDS):
                    # Not AsyncLLM.pause_generation: it sleeps 20 ms after the same call.
                    await self._engine.engine_core.pause_scheduler_async(
                        mode="keep", clear_cache=False
                    )
                    self.sampling_clock.stop()
                    self.weights_valid = False
                    self.cache_salt = cache_salt or f"version-{version}"
                    await call(self._engine, "activate")
                    await self._engine.update_weight_version(str(version))
                    if layout.adapter is not None:
                        self._adapter = policy_adapter("loaded by the workers")
                self.version = version
                self.weights_valid = True
        return UpdateResult(
            receive_seconds=received - start, pause_seconds=perf_counter() - received
        )

    @property
    def max_model_len(self) -> int:
        """The most tokens, of prompt and completion together, that a request may have."""
        return int(self._engine.model_config.max_model_len)

    @property
    def vocab_size(self) -> int:
        """The size of the vocabulary: token ids lie below it."""
        return int(self._engine.model_config.get_vocab_size())

    async def health(self) -> None:
        """Return when the engine's processes are alive; raise ``EngineDeadError`` otherwise."""
        await self._engine.check_health()

    def stats(self) -> EngineStats:
        """Return the load of the last engine step."""
        return self._stats.latest

    def on_step(self, tell: Callable[[EngineStats], None] | None) -> None:
        """Have the load told after every step of the engine, or no more (None)."""
        self._stats.on_step = tell

    async def stop(self, *, timeout: float) -> None:
        """End the engine's processes, by force after ``timeout`` seconds. Call it once."""
        engine = self._engine
        del self._engine
        if engine.output_handler is not None:
            engine.output_handler.cancel()
        await asyncio.to_thread(engine.shutdown, timeout)

    @asynccontextmanager
    async def _resumed_when_valid(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if self.weights_valid:
                async with asyncio.timeout(RPC_GRACE_SECONDS):
                    await self._engine.resume_generation()
                self.sampling_clock.go_on()

    async def _run(
        self,
        prompt_ids: Sequence[int] | npt.NDArray[np.int32],
        params: SamplingParams,
        *,
        request_id: str,
        cache_salt: str,
    ) -> RequestOutput:
        prompt = TokensPrompt(
            prompt_token_ids=np.asarray(prompt_ids).tolist(), cache_salt=cache_salt
        )
        async for output in self._engine.generate(
            prompt, params, request_id, lora_request=self._adapter
        ):
            last = output
        return last


def _lora_arguments(lora: LoraConfig) -> dict[str, Any]:
    """Arguments of vLLM for an engine that has one adapter."""
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": lora.served_rank}


def _queue_seconds(output: RequestOutput) -> float:
    stats = output.metrics
    return 0.0 if stats is None else max(0.0, stats.scheduled_ts - stats.queued_ts)


def _versions(sample: CompletionOutput) -> npt.NDArray[np.int32]:
    versions = np.empty(len(sample.token_ids), dtype=np.int32)
    for span in sample.weight_versions:
        versions[span.start : span.end] = int(span.version)
    return versions


@asynccontextmanager
async def _failing(what: str, seconds: float) -> AsyncIterator[None]:
    """Turn every failure inside into TransferFailed, also not to end in time.

    An engine that is dead is something else.
    """
    try:
        async with asyncio.timeout(seconds + RPC_GRACE_SECONDS):
            yield
    except (EngineDeadError, TransferFailed):
        raise
    except Exception as error:
        raise TransferFailed(f"{what}: {error!r}") from error


class _Stats(StatLoggerBase):
    """vLLM's scheduler statistics, the latest only."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self.latest = EngineStats()
        self.on_step: Callable[[EngineStats], None] | None = None

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        if scheduler_stats is not None:
            self.latest = EngineStats(
                running=scheduler_stats.num_running_reqs,
                waiting=scheduler_stats.num_waiting_reqs,
                kv_cache_usage=scheduler_stats.kv_cache_usage,
            )
            if self.on_step is not None:
                self.on_step(self.latest)

    def log_engine_initialized(self) -> None:
        """Nothing to say."""
