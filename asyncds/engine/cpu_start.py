"""The start of vLLM's engine processes on a CPU."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo import config as dynamo
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerBase

METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


def start_on_cpu(
    arguments: AsyncEngineArgs,
    *,
    threads: int,
    make_logger: Callable[[Any, int], StatLoggerBase],
) -> AsyncLLM:
    """Start an engine whose workers compute with this many threads each.

    An engine of one worker is forked from this process, which has imported what it needs: to
    import it again takes 15 s of a core. No thread of torch's may have worked here before.
    """
    variables = {
        # Pinned, engines on one machine would all choose the same cores.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
    }
    alone = arguments.tensor_parallel_size * arguments.pipeline_parallel_size == 1
    variables[METHOD] = "fork" if alone and os.environ.get(METHOD) != "spawn" else "spawn"
    if alone:
        # One process for scheduler and model instead of two, which would spin on shared memory
        # while they wait for each other: a third less CPU time per token. vLLM refuses it on CPU
        # by default only because it couldn't bind threads then.
        arguments.distributed_executor_backend = "uni"
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if arguments.enforce_eager:
        # vLLM's samplers ask for compilation by themselves: 20 s of a C++ compiler for two
        # reductions, on every new machine.
        variables["TORCHDYNAMO_DISABLE"] = "1"
    dynamo.disable = arguments.enforce_eager  # also for engines of this process after each other
    with _environment(variables):
        config = arguments.create_engine_config()
        # vLLM has just set it to spawn, because several workers must bind their threads.
        os.environ[METHOD] = variables[METHOD]
        if variables[METHOD] == "fork":
            torch.set_num_threads(threads)
        return AsyncLLM.from_vllm_config(
            config, stat_loggers=[make_logger], disable_log_stats=arguments.disable_log_stats
        )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
