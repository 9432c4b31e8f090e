"""Model families: how a ``config.json`` names a model's sizes, and which tensors follow from them.

A family is described by where it differs from Llama. Sizes that a ``config.json`` leaves out are
those that its family has by default in transformers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from asyncds.plan.shape import ModelShape, Tensor

Fields = Mapping[str, Any]


class UnknownModelError(ValueError):
    """The configuration of a model whose sizes can't be read; the message says what would help."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where a family differs from Llama.

    norms: normalisations of the residual stream's width in a layer. norm_bias, qkv_bias, out_bias,
    mlp_bias, head_bias: which have a bias, or the field that says so. qk_norm: one normalisation of
    a head's width for queries and one for keys. gated: whether the MLP multiplies two halves.
    fused: one matrix for queries, keys and values, and one for both halves. windowed: of how many
    layers in a row all but the last have a window. experts_field, expert_width_field: where their
    number and width are. defaults: of sizes.
    """

    norms: int = 2
    norm_bias: bool = False
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp_bias: bool | str = False
    head_bias: bool = False
    qk_norm: bool = False
    gated: bool = True
    fused: bool = False
    tied: bool = False
    windowed: int = 0
    experts_field: str = ""
    expert_width_field: str = "intermediate_size"
    defaults: Fields = field(default_factory=dict)


_GEMMA = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
_ALL = -1
"""Every layer is windowed, where there is a window."""

FAMILIES: Mapping[str, Family] = {
    "llama": Family(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias"),
    "mistral": Family(windowed=_ALL, defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "ministral": Family(windowed=_ALL, defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "ministral3": Family(windowed=_ALL, defaults={"num_key_value_heads": 8, "head_dim": 128}),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        qk_norm=True,
        defaults={"head_dim": 128},
    ),
    "qwen3_moe": Family(
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        qk_norm=True,
        experts_field="num_experts",
        expert_width_field="moe_intermediate_size",
        defaults={"num_experts_per_tok": 8},
    ),
    "mixtral": Family(
        windowed=_ALL,
        experts_field="num_local_experts",
        defaults={"num_key_value_heads": 8, "num_experts_per_tok": 2},
    ),
    "gemma2": Family(
        norms=4,
        tied=True,
        windowed=2,
        defaults={**_GEMMA, "vocab_size": 256_000, "sliding_window": 4096},
    ),
    "gemma3_text": Family(
        norms=4,
        tied=True,
        qk_norm=True,
        windowed=6,
        defaults={**_GEMMA, "vocab_size": 262_208, "sliding_window": 4096},
    ),
    "phi": Family(
        norms=1,
        norm_bias=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        head_bias=True,
        gated=False,
    ),
    "phi3": Family(fused=True, windowed=_ALL),
}
"""The families whose tensors are known, by ``model_type``."""


def model_shape(config: Fields) -> ModelShape:
    """Read the shape from the fields of a ``config.json``.

    Of a model of several modalities, the language model. Raises UnknownModelError.
    """
    fields = {**config, **config.get("text_config", {})}
    name = str(fields.get("model_type"))
    family = FAMILIES.get(name)
    if family is None:
        raise UnknownModelError(
            f"nothing is known of the tensors of a model of type {name}: the types that can be "
            f"planned are {', '.join(sorted(FAMILIES))}"
        )
    try:
        return _shape(name, family, {**family.defaults, **fields})
    except KeyError as error:
        raise UnknownModelError(f"the configuration of the model lacks {error}") from error


def _shape(name: str, family: Family, fields: Fields) -> ModelShape:
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    layers = fields["num_hidden_layers"]
    tied = fields.get("tie_word_embeddings")
    experts = fields[family.experts_field] if family.experts_field else 0
    sparse = _sparse_layers(fields) if experts else 0
    window = fields.get("sliding_window") if fields.get("use_sliding_window", True) else None
    windowed = _windowed_layers(family, fields) if window else 0
    sizes: dict[str, Any] = {
        "layers": layers,
        "width": width,
        "heads": heads,
        "kv_heads": fields.get("num_key_value_heads") or heads,
        "head_width": fields.get("head_dim") or width // heads,
        "mlp_width": fields[family.expert_width_field if experts else "intermediate_size"],
        "gated": family.gated,
        "vocabulary": fields["vocab_size"],
        "tied": family.tied if tied is None else tied,
        "positions": fields.get("max_position_embeddings"),
        "experts": experts,
        "experts_per_token": fields["num_experts_per_tok"] if experts else 1,
        "sparse_layers": sparse,
        "dense_width": fields["intermediate_size"] if sparse < layers else 0,
        "window": window if windowed else None,
        "windowed_layers": windowed,
    }
    empty = ModelShape(family=name, tensors=(), **sizes)
    return ModelShape(family=name, tensors=tuple(_tensors(family, fields, empty)), **sizes)


def _sparse_layers(fields: Fields) -> int:
    """Layers that have experts: every so many, but those that are named as dense."""
    every, dense = fields.get("decoder_sparse_step", 1), fields.get("mlp_only_layers") or ()
    layers = fields["num_hidden_layers"]
    return sum(i not in dense and (i + 1) % every == 0 for i in range(layers))


def _windowed_layers(family: Family, fields: Fields) -> int:
    kinds = fields.get("layer_types")
    if kinds is not None:
        return sum(kind == "sliding_attention" for kind in kinds)
    layers = int(fields["num_hidden_layers"])
    if family.windowed == _ALL:
        return layers
    return layers - layers // family.windowed if family.windowed else 0


def _tensors(family: Family, fields: Fields, shape: ModelShape) -> Iterator[Tensor]:
    def has(trait: bool | str) -> bool:
        return bool(fields.get(trait)) if isinstance(trait, str) else trait

    def linear(name: str, out: int, inner: int, bias: bool | str, count: int) -> Iterator[Tensor]:
        yield Tensor(name, (out, inner), count)
        if has(bias):
            yield Tensor(f"{name}.bias", (out,), count)

    def norm(name: str, width: int, count: int) -> Iterator[Tensor]:
        yield Tensor(name, (width,), count)
        if family.norm_bias:
            yield Tensor(f"{name}.bias", (width,), count)

    n, width = shape.layers, shape.width
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    yield Tensor("embedding", (shape.vocabulary, width))
    if family.fused:
        yield from linear("attention.qkv", queries + 2 * keys, width, family.qkv_bias, n)
    else:
        yield from linear("attention.q", queries, width, family.qkv_bias, n)
        yield from linear("attention.k", keys, width, family.qkv_bias, n)
        yield from linear("attention.v", keys, width, family.qkv_bias, n)
    yield from linear("attention.out", width, queries, family.out_bias, n)
    if family.qk_norm:
        yield Tensor("attention.qk_norm", (shape.head_width,), 2 * n)
    for i in range(family.norms):
        yield from norm(f"norm.{i}", width, n)
    sparse, both = shape.sparse_layers, 2 if family.gated else 1
    if sparse:
        experts, inner = shape.experts, shape.mlp_width
        yield Tensor("router", (experts, width), sparse)
        yield Tensor("experts.up", (experts, both * inner, width), sparse)
        yield Tensor("experts.down", (experts, width, inner), sparse)
    if dense := n - sparse:
        inner = shape.dense_width if sparse else shape.mlp_width
        if family.fused:
            yield from linear("mlp.up", both * inner, width, family.mlp_bias, dense)
        else:
            yield from linear("mlp.up", inner, width, family.mlp_bias, both * dense)
        yield from linear("mlp.down", width, inner, family.mlp_bias, dense)
    yield from norm("final", width, 1)
    if not shape.tied:
        yield from linear("head", shape.vocabulary, width, family.head_bias, 1)
