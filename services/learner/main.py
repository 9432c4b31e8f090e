"""A learner rank's process; torchrun starts one per rank."""

import logging
import threading
import uuid
from contextlib import closing
from pathlib import Path

import torch
import torch.distributed as dist

from asyncds.algo.objective import Objective
from asyncds.config.schema import RunConfig
from asyncds.engine import checkpoint
from asyncds.engine.checkpoint import CheckpointError, NoRoomError
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
    Welcome,
)
from asyncds.telemetry.metrics.registry import build_metrics
from asyncds.transport.keys import ClientKeys, KeyFileError
from asyncds.transport.link import Link, LinkLostError, RefusedError
from asyncds.weights.probe import probe_tokens
from asyncds.weights.sender import WeightSender
from asyncds.weights.source import weight_specs
from asyncds.weights.staging import StagedWeights
from services.learner.inbox import BatchLateError, DrainedError, Inbox, PreemptedError
from services.learner.learner import Learner, agree_on
from services.learner.publisher import Publisher
from services.process import (
    BAD_INPUT,
    DONE,
    FAILURE,
    PREEMPTED,
    client_keys,
    coordinator_address,
    dump,
    first_signal,
    make_traces,
    metrics_server,
    run_directory,
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
        engine = _make_engine(config)
        step = _restore(engine, config)
    except (
        KeyFileError,
        CheckpointError,
        UnsupportedModelError,
        ValueError,
        OSError,
    ) as error:
        log.error("%s", error)
        return BAD_INPUT
    try:
        reason = _train(engine, config, step, keys)
    except DrainedError as told:
        reason = str(told)
    except PreemptedError as told:
        log.info("leaving: %s", told)
        return PREEMPTED
    except (BatchLateError, LinkLostError, NoRoomError, RefusedError, NonFiniteError) as error:
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
    c = config.learner
    return TrainingEngine(
        model=config.model,
        dtype=config.dtype,
        zero_stage=c.zero_stage,
        lr=c.lr,
        betas=c.betas,
        eps=c.eps,
        weight_decay=c.weight_decay,
        lr_schedule=c.lr_schedule,
        warmup_steps=c.warmup_steps,
        total_steps=config.steps * config.algorithm.updates_per_batch,
        max_grad_norm=c.max_grad_norm,
        micro_batch_tokens=c.micro_batch_tokens,
        temperature=config.sampling.temperature,
        logprob_chunk_tokens=c.logprob_chunk_tokens,
        gradient_checkpointing=c.gradient_checkpointing,
        reference_model=config.model if config.algorithm.needs_reference else None,
        seed=config.seed,
        deadline_s=c.collective_seconds,
        deepspeed_extra=c.deepspeed,
    )


def _restore(engine: TrainingEngine, config: RunConfig) -> int:
    """Load the newest checkpoint of the run that is whole, if it has any; the number of batches it
    has seen. Rank 0 looks for it: if it finds none that is whole, the gang ends with it."""
    root = run_directory(config) / "checkpoints"
    newest = agree_on(str(checkpoint.newest(root) or "") if engine.rank == 0 else "")
    if not newest:
        return 0
    log.info("starting from %s", newest)
    return int(checkpoint.load(engine, Path(newest))["step"])


def _train(engine: TrainingEngine, config: RunConfig, step: int, keys: ClientKeys | None) -> str:
    metrics = build_metrics("learner")
    traces = make_traces(config, role="learner", name=f"learner-{engine.rank}")
    first = engine.rank == 0
    vocab_size = engine.causal_lm.config.get_text_config().vocab_size
    transport = config.weights.transport
    if transport == "auto":
        transport = "nccl" if torch.cuda.is_available() else "gloo"
    device = engine.device if transport == "nccl" else torch.device("cpu")
    staged = StagedWeights(
        specs=weight_specs(engine.causal_lm),
        bucket_bytes=config.weights.bucket_mb << 20,
        keep=first,
        device=device,
    )
    learner = Learner(
        engine=engine,
        objective=Objective(config.algorithm, max_tokens=config.sampling.max_tokens),
        staged=staged,
        probe=probe_tokens(vocab_size=vocab_size, max_length=config.generator.max_model_len),
        checkpoints=run_directory(config) / "checkpoints",
        metrics=metrics,
        traces=traces,
        step=step,
        publish_every=config.weights.publish_every,
        max_lag=config.rollout.max_lag,
        checkpoint_every=config.checkpoint.every,
        keep_last=config.checkpoint.keep_last,
        batch_seconds=config.learner.batch_seconds,
        end_seconds=config.coordinator.stall_seconds,
    )
    vocabulary = load_tokenizer(config.tokenizer or config.model).get_vocab()
    fingerprint = vocabulary_fingerprint(vocabulary)
    gang = agree_on(uuid.uuid4().hex)
    inbox, ready = Inbox(), threading.Event()
    publisher: Publisher | None = None

    def receive(message: FromCoordinator) -> None:
        if isinstance(message, Dump):
            name = f"learner-{engine.rank}"
            dump(config, name=name, reason=message.reason, state=learner.state())
        if isinstance(message, LearnerAck):
            learner.keep(message.keep)
        if isinstance(message, Welcome):
            traces.run_id = message.id
        inbox.receive(message)
        if publisher is not None:
            publisher.receive(message)

    server = metrics_server(
        config,
        metrics,
        place=1 + engine.rank,
        healthy=lambda: "",
        ready=lambda: "" if ready.is_set() else "starting",
    )
    with closing(traces), server as address:
        link = Link(
            address=coordinator_address(config),
            identity=f"learner-{engine.rank}:{gang[:8]}",
            hello=lambda: LearnerHello(
                name=f"learner-{engine.rank}",
                incarnation=gang,
                protocol=PROTOCOL,
                rank=engine.rank,
                ranks=engine.ranks,
                step=learner.step,
                tokenizer=fingerprint,
                vocab_size=vocab_size,
                metrics=address,
            ),
            heartbeat=learner.heartbeat,
            heartbeat_seconds=config.coordinator.heartbeat_seconds,
            lost_seconds=config.coordinator.lost_seconds,
            on_message=receive,
            keys=keys,
        )
        try:
            if first:
                publisher = Publisher(
                    staged=staged,
                    sender=WeightSender(
                        transport=transport, host=config.weights.host, device=device
                    ),
                    go_seconds=config.weights.prepare_seconds + 5,
                    send=link.send,
                    traces=traces,
                )
            link.wait_welcome(config.coordinator.lost_seconds)
            ready.set()
            with first_signal(inbox.leave):
                reason = learner.run(link=link, inbox=inbox, publisher=publisher)
            link.send(Bye(leases=[], reason=reason))
            return reason
        except PreemptedError as told:
            link.send(Bye(leases=[], reason=str(told)))
            raise
        finally:
            if publisher is not None:
                publisher.close()
            link.close()
