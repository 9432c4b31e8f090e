"""Settings that are handed to vLLM and DeepSpeed as they are, and those that asyncds decides.

What has a setting of its own must be set there: set twice, the two would contradict each other, or
weights would arrive in an engine that is not the one the rest of the run knows of.
"""

from collections.abc import Mapping
from typing import Any

_HERE = "asyncds decides it"
_SHARDS = "set generator.replicas, tensor_parallel or pipeline_parallel"
_LORA = "set learner.lora"
_WEIGHTS = "the learner's weights replace those that an engine loads, in the run's dtype"

ENGINE_ARGS = {
    "model": "set model or generator.model",
    "model_weights": "set model or generator.model",
    "tokenizer": "set tokenizer",
    "skip_tokenizer_init": _HERE,
    "dtype": "set dtype",
    "seed": "set seed",
    "max_model_len": "set generator.max_model_len",
    "max_num_seqs": "set generator.max_num_seqs",
    "gpu_memory_utilization": "set generator.gpu_memory_utilization",
    "kv_cache_memory_bytes": "set generator.kv_cache_gb",
    "enforce_eager": "set generator.enforce_eager",
    "tensor_parallel_size": "set generator.tensor_parallel",
    "pipeline_parallel_size": "set generator.pipeline_parallel",
    "logprobs_mode": "the objective needs the log-probabilities that were sampled from",
    "weight_transfer_config": _HERE,
    "worker_extension_cls": _HERE,
    "worker_cls": _HERE,
    "disable_log_stats": _HERE,
    "enable_sleep_mode": _HERE,
    "runner": _HERE,
    "convert": _HERE,
    "quantization": _WEIGHTS,
    "quantization_config": _WEIGHTS,
    "hf_overrides": _WEIGHTS,
    "model_class_overrides": _WEIGHTS,
    "enable_lora": _LORA,
    "max_loras": _LORA,
    "max_lora_rank": _LORA,
    "lora_dtype": _LORA,
    "fully_sharded_loras": _LORA,
    "max_cpu_loras": _LORA,
    "nnodes": _SHARDS,
    "node_rank": _SHARDS,
    "master_addr": _SHARDS,
    "master_port": _SHARDS,
    "prefill_context_parallel_size": _SHARDS,
    "decode_context_parallel_size": _SHARDS,
    "enable_expert_parallel": _SHARDS,
    "enable_elastic_ep": _SHARDS,
    "enable_eplb": _SHARDS,
}
"""Of vLLM's engine, each with what to do instead; those that begin with data_parallel too."""

_MICRO = "set learner.micro_batch_tokens"
_PRECISION = "set dtype"
_ADAMW = "set learner.lr, betas, eps and weight_decay"
_NOT = "the learner does not train so"
DEEPSPEED: Mapping[str, Any] = {
    "train_batch_size": _MICRO,
    "train_micro_batch_size_per_gpu": _MICRO,
    "gradient_accumulation_steps": _MICRO,
    "gradient_clipping": "set learner.max_grad_norm",
    "zero_allow_untested_optimizer": _HERE,
    "zero_force_ds_cpu_optimizer": _HERE,
    "optimizer": _ADAMW,
    "scheduler": "set learner.lr_schedule and warmup_steps",
    "bf16": _PRECISION,
    "fp16": _PRECISION,
    "amp": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _PRECISION,
    "communication_data_type": _PRECISION,
    "checkpoint": {"writer": "the learner writes checkpoints beside training by itself"},
    "zero_optimization": {"stage": "set learner.zero_stage"},
    "tensor_parallel": _NOT,
    "pipeline": _NOT,
    "sequence_parallel_size": _NOT,
    "compression_training": _NOT,
    "curriculum_learning": _NOT,
    "data_efficiency": _NOT,
    "progressive_layer_drop": _NOT,
    "sparse_attention": _NOT,
    "elasticity": _NOT,
    "autotuning": _NOT,
    "load_universal_checkpoint": _NOT,
}
"""Of DeepSpeed's configuration, each with what to do instead."""

DEEPSPEED_KNOWN = (
    "activation_checkpointing",
    "aio",
    "checkpoint",
    "comet",
    "comms_config",
    "comms_logger",
    "csv_monitor",
    "disable_allgather",
    "disable_python_gc",
    "dump_state",
    "flops_profiler",
    "gradient_predivide_factor",
    "log_level",
    "memory_breakdown",
    "nebula",
    "prescale_gradients",
    "sparse_gradients",
    "steps_per_print",
    "tensorboard",
    "timers",
    "wall_clock_breakdown",
    "wandb",
    "zero_optimization",
)
"""Keys of DeepSpeed's configuration that are handed on; it ignores one that it does not know."""


def refused_engine_args(given: Mapping[str, Any]) -> list[str]:
    """Problems of what is set in generator.engine_args, a sentence each."""
    return [
        f"engine_args.{key} can't be set: {why}"
        for key in given
        if (why := ENGINE_ARGS.get(key, _SHARDS if key.startswith("data_parallel") else ""))
    ]


def refused_deepspeed(given: Mapping[str, Any], *, zero_stage: int) -> list[str]:
    """Problems of what is set in learner.deepspeed, a sentence each."""
    problems = list(_decided(given, DEEPSPEED, "deepspeed"))
    unknown = [key for key in given if key not in DEEPSPEED_KNOWN and key not in DEEPSPEED]
    problems += [
        f"deepspeed.{key} is unknown: known are {', '.join(DEEPSPEED_KNOWN)}" for key in unknown
    ]
    zero = given.get("zero_optimization")
    for key, stage in (("offload_optimizer", 1), ("offload_param", 3)):
        device = offload_device(zero, key)
        name = f"deepspeed.zero_optimization.{key}"
        if device not in ("none", "cpu"):
            problems.append(f"{name}: device {device} can't be used: set it to cpu")
        elif device == "cpu" and zero_stage < stage:
            problems.append(f"{name} needs learner.zero_stage {stage} or more: raise it")
    return problems


def offload_device(zero: Any, key: str) -> str:
    """The device where DeepSpeed keeps the optimizer or the parameters: none, cpu or nvme."""
    given = zero.get(key) if isinstance(zero, Mapping) else None
    return str(given.get("device") or "none") if isinstance(given, Mapping) else "none"


def _decided(given: Mapping[str, Any], table: Mapping[str, Any], path: str) -> list[str]:
    problems = []
    for key, value in given.items():
        why = table.get(key)
        if isinstance(why, Mapping):
            if isinstance(value, Mapping):
                problems += _decided(value, why, f"{path}.{key}")
            else:
                problems.append(f"{path}.{key} must be a mapping")
        elif why:
            problems.append(f"{path}.{key} can't be set: {why}")
    return problems
