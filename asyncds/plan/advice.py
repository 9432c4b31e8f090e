"""Advice on settings that would make a run fit: candidates are tried, not guessed."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from asyncds.config.load import ConfigError, parse_config
from asyncds.config.schema import RunConfig

Settings = dict[str, Any]
_RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
_SPLITS = (1, 2, 4, 8)


def advise(
    config: RunConfig, fits: Callable[[RunConfig], bool], *, longest: int, heads: int
) -> Settings | None:
    """The first settings that fit, or None where none of those that are tried do.

    First those that take no GPU more: one change alone, from what costs least time to what costs
    most, then all up to some one together; then the same with ever more GPUs. What turns out not to
    be needed is left out. longest: tokens of the longest sequence. heads: of the model's attention,
    which the GPUs of a generator must divide.
    """

    def works(settings: Settings) -> bool:
        changed = changed_by(config, settings)
        return changed is not None and fits(changed)

    for more in _more_gpus(config, heads):
        if more and works(more):
            return more
        ranks = more.get("learner.ranks", config.learner.ranks)
        changes = [*_changes(config, longest, ranks)]
        for change in changes:
            if works(more | change):
                return more | change
        together = more
        for change in changes:
            together = together | change
            if works(together):
                return _needed(together, works)
    return None


def changed_by(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig | None:
    """The configuration with dotted settings changed; None where it is refused then."""
    values = config.model_dump(mode="json")
    for path, value in settings.items():
        *parents, leaf = path.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    try:
        return parse_config(values)
    except ConfigError:
        return None


def _more_gpus(config: RunConfig, heads: int) -> list[Settings]:
    """Nothing, and then what takes more GPUs, by how many."""
    ranks, generator = config.learner.ranks, config.generator
    split = generator.tensor_parallel
    pairs = product(
        [n for n in _RANKS if n >= ranks and config.trains] or [ranks],
        [n for n in _SPLITS if n >= split and heads % n == 0] or [split],
    )
    found = []
    for r, s in sorted(
        pairs, key=lambda pair: pair[0] + pair[1] * generator.replicas * generator.pipeline_parallel
    ):
        settings: Settings = {}
        if s != split:
            settings["generator.tensor_parallel"] = s
        if r != ranks:
            settings["learner.ranks"] = r
        found.append(settings)
    return [{}, *(settings for settings in found if settings)]


def _changes(config: RunConfig, longest: int, ranks: int) -> Iterator[Settings]:
    """Changes that take no GPU more, from what costs least time to what costs most."""
    learner = config.learner
    if learner.logprob_chunk_tokens > 512:
        yield {"learner.logprob_chunk_tokens": 512}
    yield {"learner.deepspeed.zero_optimization.reduce_bucket_size": 50_000_000}
    for stage in (1, 2, 3):
        # On one rank stage 2 still keeps a copy of gradients less than stage 1.
        if learner.zero_stage < stage and (ranks > 1 or stage == 2):
            yield {"learner.zero_stage": stage}
    tokens = learner.micro_batch_tokens // 2
    while tokens >= longest:
        yield {"learner.micro_batch_tokens": tokens}
        tokens //= 2
    if learner.gradient_checkpointing is not True:
        yield {"learner.gradient_checkpointing": True}


def _needed(settings: Settings, works: Callable[[Settings], bool]) -> Settings:
    """The changes without those that are not needed, beginning with what costs most."""
    for path in reversed([*settings]):
        fewer = {key: value for key, value in settings.items() if key != path}
        if works(fewer):
            settings = fewer
    return settings
