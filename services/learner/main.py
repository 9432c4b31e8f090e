"""A learner rank's process; torchrun starts one per rank."""

import logging
import os
import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from msgspec.structs import replace

from asyncds.algo.objective import Objective
from asyncds.config.schema import RunConfig
from asyncds.engine.checkpoint import CheckpointError
from asyncds.engine.checkpoint_owner import ReplacedError
from asyncds.engine.export import ExportError, try_export
from asyncds.engine.policy_model import UnsupportedModelError
from asyncds.engine.tokenizer import load_tokenizer, vocabulary_fingerprint
from asyncds.engine.training import NonFiniteError, TrainingEngine
from asyncds.protocol.wire import (
    PROTOCOL,
    Bye,
    Dump,
    FromCoordinator,
    LearnerAck,
    LearnerHello,
    Message,
    Welcome,
)
from asyncds.telemetry.metrics.registry import Metrics, build_metrics
from asyncds.telemetry.traces.traces import Traces
from asyncds.transport.announce import announce
from asyncds.transport.keys import ClientKeys, KeyFileError
from asyncds.transport.link import Link, LinkLostError, RefusedError
from asyncds.weights.communicator import TransferFailed
from asyncds.weights.names import check_names
from asyncds.weights.probe import probe_tokens
from asyncds.weights.sender import WeightSender
from asyncds.weights.source import weight_specs
from services.learner.checkpoints import Checkpoints
from services.learner.inbox import BatchLateError, DrainedError, Inbox, PreemptedError
from services.learner.learner import Learner
from services.learner.publisher import Publisher, PublisherDiedError
from services.learner.shared_staging import shared_staging
from services.process import (
    BAD_INPUT,
    DONE,
    FAILURE,
    PREEMPTED,
    client_keys,
    dump,
    first_signal,
    make_traces,
    metrics_server,
    run_directory,
    settle_heap,
    start_logging,
)
from services.warm import Assignments

log = logging.getLogger(__name__)


def main(config: RunConfig) -> int:
    """Train until the run is over. Returns the exit code."""
    start_logging()
    try:
        return _serve(config)
    finally:
        _leave_group()


def serve_runs(assignments: Assignments) -> int:
    """Train one run after another, on a single rank."""
    try:
        while config := assignments.next():
            code = _serve(config)
            assignments.finished(code)
            if code != DONE:
                return code
        return DONE
    finally:
        _leave_group()


def _serve(config: RunConfig) -> int:
    if not config.trains:
        log.error("steps is 0, so that there is nothing to train: raise it, or start no learner")
        return BAD_INPUT
    if not torch.cuda.is_available():
        torch.set_num_threads(config.learner.cpu_threads)
    try:
        keys = client_keys(config)
        config.algorithm.resolved()  # told before anything is loaded
        if os.environ.get("RANK", "0") == "0":
            announce(config.coordinator, name="learner-0", doing="loading the model", keys=keys)
        tokenizer = load_tokenizer(config.tokenizer or config.model)
        engine = _make_engine(config)
        if engine.rank == 0:
            try_export(engine)
            names = (spec.name for spec in weight_specs(engine.causal_lm))
            if config.sends_whole_weights:
                check_names(names, config.model, prefix=engine.causal_lm.base_model_prefix)
        metrics = build_metrics("learner")
        checkpoints = Checkpoints(
            run_directory(config) / "checkpoints",
            engine=engine,
            config=config,
            metrics=metrics,
        )
        checkpoints.restore()
        settle_heap()
    except (
        KeyFileError,
        CheckpointError,
        ExportError,
        UnsupportedModelError,
        ValueError,
        OSError,
    ) as error:
        log.error("%s", error)
        return BAD_INPUT
    try:
        reason = _train(engine, config, checkpoints, metrics, keys, tokenizer)
    except DrainedError as told:
        reason = str(told)
    except PreemptedError as told:
        log.info("leaving: %s", told)
        return PREEMPTED
    except (
        BatchLateError,
        CheckpointError,
        LinkLostError,
        NonFiniteError,
        PublisherDiedError,
        RefusedError,
        ReplacedError,
        TransferFailed,
    ) as error:
        log.error("%s", error)
        return FAILURE
    finally:
        engine.close()
    log.info("leaving: %s", reason)
    return DONE


def _leave_group() -> None:
    """Threads of a group that is not left may abort the process when the interpreter ends."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _make_engine(config: RunConfig) -> TrainingEngine:
    return TrainingEngine(
        config.learner,
        model=config.model,
        dtype=config.dtype,
        temperature=config.sampling.temperature,
        total_steps=config.steps * config.algorithm.updates_per_batch,
        seed=config.seed,
        reference_model=config.model if config.algorithm.needs_reference else None,
        tokenizer=config.tokenizer,
    )


def _train(
    engine: TrainingEngine,
    config: RunConfig,
    checkpoints: Checkpoints,
    metrics: Metrics,
    keys: ClientKeys | None,
    tokenizer: Any,
) -> str:
    """Be one rank of one worker group, until the run is over. Returns the reason."""
    name = f"learner-{engine.rank}"
    traces = make_traces(config, role="learner", name=name)
    learner = _make_learner(engine, config, checkpoints, metrics, traces, tokenizer)
    vocabulary = vocabulary_fingerprint(tokenizer.get_vocab())
    introduction = _introduction(engine, name, checkpoints.owner, vocabulary=vocabulary)
    inbox, ready = Inbox(), threading.Event()
    server = metrics_server(
        config,
        metrics,
        place=1 + engine.rank,
        healthy=lambda: "",
        ready=lambda: "" if ready.is_set() else "starting",
    )

    def receive(message: FromCoordinator) -> None:
        if isinstance(message, Dump):
            dump(config, name=name, reason=message.reason, state=learner.state())
        if isinstance(message, LearnerAck):
            checkpoints.keep(message.keep)
        if isinstance(message, Welcome):
            traces.run_id = message.id
        inbox.receive(message)
        if publisher is not None:
            publisher.receive(message)

    with closing(traces), server:
        publisher = None
        if engine.rank == 0:
            publisher = _make_publisher(
                engine, config, learner, traces, lambda m: link.send(m), lambda: link.beat()
            )
        link = Link(
            config.coordinator,
            identity=f"{name}:{introduction.incarnation[:8]}",
            hello=lambda: replace(introduction, step=learner.step),
            heartbeat=learner.heartbeat,
            on_message=receive,
            keys=keys,
        )
        # What publisher and writer say of what is under way still leaves by the link.
        sending = closing(publisher) if publisher is not None else nullcontext()
        with closing(link), sending, closing(checkpoints):
            link.wait_welcome(config.coordinator.lost_seconds)
            ready.set()
            try:
                with first_signal(inbox.leave):
                    reason = learner.run(link=link, inbox=inbox, publisher=publisher)
            except PreemptedError as told:
                link.send(Bye(reason=str(told)))
                raise
            link.send(Bye(reason=reason))
            return reason


def _make_learner(
    engine: TrainingEngine,
    config: RunConfig,
    checkpoints: Checkpoints,
    metrics: Metrics,
    traces: Traces,
    tokenizer: Any,
) -> Learner:
    return Learner(
        config,
        engine=engine,
        objective=Objective(config.algorithm, max_tokens=config.sampling.max_tokens),
        staged=shared_staging(
            specs=weight_specs(engine.causal_lm, adapter=config.sent_adapter is not None),
            bucket_bytes=config.weights.bucket_mb << 20,
            rank=engine.rank,
            ranks=engine.ranks,
            pin=engine.device.type == "cuda",
            adapter=engine.adapter if config.sent_adapter else None,
        ),
        probe=probe_tokens(
            tokenizer=tokenizer,
            vocab_size=_vocab_size(engine),
            max_length=config.generator.max_model_len,
        ),
        metrics=metrics,
        traces=traces,
        checkpoints=checkpoints,
    )


def _make_publisher(
    engine: TrainingEngine,
    config: RunConfig,
    learner: Learner,
    traces: Traces,
    send: Callable[[Message], None],
    staged_new: Callable[[], None],
) -> Publisher:
    return Publisher(
        staged=learner.staged,
        sender=WeightSender(
            transport=_transport(config),
            host=config.weights.host,
            device=engine.device,
        ),
        go_seconds=config.weights.prepare_seconds + 5,
        send=send,
        staged_new=staged_new,
        traces=traces,
    )


def _introduction(
    engine: TrainingEngine, name: str, incarnation: str, *, vocabulary: str
) -> LearnerHello:
    """The introduction of this rank; the incarnation is one for all ranks."""
    return LearnerHello(
        name=name,
        incarnation=incarnation,
        protocol=PROTOCOL,
        rank=engine.rank,
        ranks=engine.ranks,
        step=0,
        tokenizer=vocabulary,
        vocab_size=_vocab_size(engine),
    )


def _vocab_size(engine: TrainingEngine) -> int:
    return int(engine.causal_lm.config.get_text_config().vocab_size)


def _transport(config: RunConfig) -> Literal["gloo", "nccl"]:
    if config.weights.transport == "auto":
        return "nccl" if torch.cuda.is_available() else "gloo"
    return config.weights.transport
