"""The sizes of public models, as their ``config.json`` has them, so that they need not be fetched.

From the models' pages on the Hugging Face hub. A model that is not here needs its config.json.
"""

from collections.abc import Mapping
from typing import Any

_QWEN2: dict[str, Any] = {"model_type": "qwen2", "use_sliding_window": False}
_QWEN3: dict[str, Any] = {"model_type": "qwen3", "head_dim": 128, "use_sliding_window": False}
_MOE = {"moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}
_LLAMA: dict[str, Any] = {"model_type": "llama"}
_MISTRAL: dict[str, Any] = {"model_type": "mistral", "head_dim": 128, "sliding_window": None}
_PHI: dict[str, Any] = {"model_type": "phi3", "sliding_window": None}

_TABLE: tuple[tuple[str, int, int, int, int, int, int, bool, int, dict[str, Any]], ...] = (
    # name, width, MLP, layers, heads, of keys, vocabulary, tied, positions, what else
    ("Qwen/Qwen2.5-0.5B", 896, 4864, 24, 14, 2, 151936, True, 32768, _QWEN2),
    ("Qwen/Qwen2.5-1.5B", 1536, 8960, 28, 12, 2, 151936, True, 131072, _QWEN2),
    ("Qwen/Qwen2.5-3B", 2048, 11008, 36, 16, 2, 151936, True, 32768, _QWEN2),
    ("Qwen/Qwen2.5-7B", 3584, 18944, 28, 28, 4, 152064, False, 131072, _QWEN2),
    ("Qwen/Qwen2.5-14B", 5120, 13824, 48, 40, 8, 152064, False, 131072, _QWEN2),
    ("Qwen/Qwen2.5-32B", 5120, 27648, 64, 40, 8, 152064, False, 131072, _QWEN2),
    ("Qwen/Qwen2.5-72B", 8192, 29568, 80, 64, 8, 152064, False, 131072, _QWEN2),
    ("Qwen/Qwen2.5-Math-1.5B", 1536, 8960, 28, 12, 2, 151936, True, 4096, _QWEN2),
    ("Qwen/Qwen2.5-Math-7B", 3584, 18944, 28, 28, 4, 152064, False, 4096, _QWEN2),
    ("Qwen/Qwen3-0.6B", 1024, 3072, 28, 16, 8, 151936, True, 40960, _QWEN3),
    ("Qwen/Qwen3-1.7B", 2048, 6144, 28, 16, 8, 151936, True, 40960, _QWEN3),
    ("Qwen/Qwen3-4B", 2560, 9728, 36, 32, 8, 151936, True, 40960, _QWEN3),
    ("Qwen/Qwen3-8B", 4096, 12288, 36, 32, 8, 151936, False, 40960, _QWEN3),
    ("Qwen/Qwen3-14B", 5120, 17408, 40, 40, 8, 151936, False, 40960, _QWEN3),
    ("Qwen/Qwen3-32B", 5120, 25600, 64, 64, 8, 151936, False, 40960, _QWEN3),
    (
        *("Qwen/Qwen3-30B-A3B", 2048, 6144, 48, 32, 4, 151936, False, 40960),
        {**_QWEN3, **_MOE, "model_type": "qwen3_moe"},
    ),
    ("meta-llama/Llama-3.2-1B", 2048, 8192, 16, 32, 8, 128256, True, 131072, _LLAMA),
    ("meta-llama/Llama-3.2-3B", 3072, 8192, 28, 24, 8, 128256, True, 131072, _LLAMA),
    ("meta-llama/Llama-3.1-8B", 4096, 14336, 32, 32, 8, 128256, False, 131072, _LLAMA),
    ("meta-llama/Llama-3.1-70B", 8192, 28672, 80, 64, 8, 128256, False, 131072, _LLAMA),
    ("mistralai/Mistral-7B-v0.3", 4096, 14336, 32, 32, 8, 32768, False, 32768, _MISTRAL),
    (
        *("mistralai/Ministral-8B-Instruct-2410", 4096, 12288, 36, 32, 8, 131072, False, 32768),
        {**_MISTRAL, "sliding_window": 32768},
    ),
    (
        *("mistralai/Mixtral-8x7B-v0.1", 4096, 14336, 32, 32, 8, 32000, False, 32768),
        {**_MISTRAL, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    (
        *("google/gemma-3-1b-it", 1152, 6912, 26, 4, 1, 262144, True, 32768),
        {"model_type": "gemma3_text", "head_dim": 256, "sliding_window": 512},
    ),
    ("microsoft/Phi-3-mini-4k-instruct", 3072, 8192, 32, 32, 32, 32064, False, 4096, _PHI),
    ("microsoft/phi-4", 5120, 17920, 40, 40, 10, 100352, False, 16384, _PHI),
)
_NAMES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "vocab_size", "tie_word_embeddings", "max_position_embeddings"),
)
_WITH_INSTRUCT = ("Qwen/Qwen2.5-", "meta-llama/Llama-")
"""Families whose instruct models have the sizes of their base models."""

PUBLISHED: Mapping[str, dict[str, Any]] = {
    name + end: {**dict(zip(_NAMES, sizes, strict=True)), **more}
    for name, *sizes, more in _TABLE
    for end in ("", "-Instruct")
    if not end or name.startswith(_WITH_INSTRUCT)
}
"""Fields by hub id."""
