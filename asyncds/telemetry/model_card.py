"""The card of an exported model: README.md with the metadata of the Hugging Face hub."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from asyncds.config.lora import LoraConfig
from asyncds.rollout.journal import Journal
from asyncds.telemetry.evaluations import Evaluation
from asyncds.telemetry.machine import hardware, versions
from asyncds.telemetry.run_log import read_run_log
from asyncds.telemetry.summary import read_summary
from asyncds.telemetry.trackers.public_config import without_secrets

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")
_LICENCE = ("license", "license_name", "license_link")
_UNKNOWN = "unknown: the card of the base model names none"
_PASS_EXPLAINED = (
    "Pass@k, in percent: the chance that k samples hold a correct one, unbiased, with its 95 % "
    "interval over problems. T: the sampling temperature."
)
_LOSS_EXPLAINED = "The loss is the mean over the tokens of answers, in nats."
_SECTIONS = {
    "task": "What is asked",
    "data": "Data",
    "sampling": "Sampling",
    "algorithm": "Objective",
    "rollout": "Batches",
    "batches": "Batches",
    "learner": "Optimizer",
}


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table of the card. rows: texts, one for each column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def model_card(run_dir: Path, *, step: int, place: str, adapter: bool = False) -> ModelCard:
    """The card of the weights of a step of a run.

    place: how the card calls the model, a hub id or a directory's name. adapter: whether what is
    there is the adapter that the run trained, and not a whole model. Local paths of the run's
    configuration are shortened to their last part.
    """
    config = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
    summary = read_summary(run_dir / "summary.json") or {}
    shown = without_secrets(config)
    supervised = "task" not in config
    evaluations = [] if supervised else _evaluations(run_dir, step)
    tables = [*_losses(run_dir, step)] if supervised else [*_shares(run_dir, evaluations, step)]
    licence: dict[str, Any] = _base_licence(config["model"])
    base, is_local = _public(config["model"]), _is_path(config["model"])
    name = config["name"]
    data = ModelCardData(
        model_name=name,
        base_model=None if is_local else base,
        pipeline_tag="text-generation",
        library_name="peft" if adapter else "transformers",
        tags=["asyncds", "sft" if supervised else "reinforcement-learning"],
        datasets=sorted({*_hub_data(config.get("task") or config.get("data"))}) or None,
        eval_results=[*_hub_results(config, evaluations, step)] or None,
        **licence,
    )
    return ModelCard.from_template(
        data,
        template_str=_TEMPLATE.read_text("utf-8"),
        name=name,
        supervised=supervised,
        base=base,
        base_link=base if is_local else f"[{base}](https://huggingface.co/{base})",
        licence=licence.get("license_name") or licence.get("license") or _UNKNOWN,
        step=step,
        steps=summary.get("steps") or config.get("steps") or step,
        dtype=config["dtype"],
        seed=config["seed"],
        hardware=summary.get("hardware") or hardware(),
        place=place,
        adapter=LoraConfig(**config["learner"]["lora"]).served_rank if adapter else None,
        prompted=_prompted(config.get("task") or config.get("data") or {}),
        tables=tables,
        explained=_LOSS_EXPLAINED if supervised else _PASS_EXPLAINED,
        sections=[
            (title, yaml.safe_dump(_public(shown[key]), sort_keys=False, allow_unicode=True))
            for key, title in _SECTIONS.items()
            if key in shown
        ],
        versions=_versions(summary.get("versions") or {}),
    )


def _evaluations(run_dir: Path, step: int) -> list[Evaluation]:
    """Results of the base model and of this step, in order."""
    if not (run_dir / "journal.db").exists():
        return []
    with closing(Journal(run_dir / "journal.db", read_only=True)) as journal:
        return [e.result() for e in journal.evaluations() if e.step in (0, step)]


def _shares(run_dir: Path, evaluations: list[Evaluation], step: int) -> Iterator[_Table]:
    """The run's own evaluations, then those that `asyncds eval` made beside the run."""
    named = [("base" if e["step"] == 0 else f"step {step}", e) for e in evaluations]
    if any(e["step"] == step for e in evaluations):
        yield _pass_table("Held-out problems of the run:", named)
    apart = run_dir.parent / f"{run_dir.resolve().name}-eval-step-{step}" / "results.json"
    if apart.is_file():
        found = yaml.safe_load(apart.read_text("utf-8"))
        several = [(task, e) for task, results in found["tasks"].items() for e in results]
        several += [("all together", e) for e in found["pooled"]]
        yield _pass_table(f"Evaluated apart, at step {step}:", several)


def _pass_table(title: str, named: Sequence[tuple[str, Evaluation]]) -> _Table:
    ks = sorted({k for _, e in named for k in e["pass@k"]}, key=int)
    return _Table(
        title=title,
        columns=["", "T", "problems", "samples", *(f"Pass@{k}" for k in ks)],
        rows=[
            [
                name,
                f"{e['temperature']:g}",
                str(e["n_problems"]),
                str(e["n_samples"]),
                *(_share(e, k) for k in ks),
            ]
            for name, e in named
        ],
    )


def _share(evaluation: Evaluation, k: str) -> str:
    if k not in evaluation["pass@k"]:
        return "–"
    low, high = (100 * end for end in evaluation["pass@k_interval"][k])
    return f"{100 * evaluation['pass@k'][k]:.1f} ({low:.1f}–{high:.1f})"


def _losses(run_dir: Path, step: int) -> Iterator[_Table]:
    lines = read_run_log(run_dir / "metrics.jsonl")
    known = [line for line in lines if line.get("learner/eval_loss") is not None]
    rows = [
        [str(line["step"]), _nats(line["learner/eval_loss"]), _nats(line.get("learner/loss"))]
        for line in known
        if line["step"] == step or line is known[0]
    ]
    if any(line["step"] == step for line in known):
        yield _Table(title="Loss:", columns=["step", "held-out rows", "batch"], rows=rows)


def _nats(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.4f}"


def _hub_results(
    config: dict[str, Any], evaluations: list[Evaluation], step: int
) -> Iterator[EvalResult]:
    for evaluation in evaluations:
        for k, share in evaluation["pass@k"].items() if evaluation["step"] == step else ():
            yield EvalResult(
                task_type="text-generation",
                dataset_type=config["task"]["kind"],
                dataset_name=config["task"]["kind"],
                dataset_split=evaluation["split"],
                metric_type=f"pass@{k}",
                metric_value=round(share, 4),
                metric_name=f"Pass@{k}, temperature {evaluation['temperature']:g}",
            )


def _prompted(asked: Mapping[str, Any]) -> str:
    """A sentence on how the model was prompted."""
    if asked.get("prompt_style") == "plain":
        return "Prompts were given as they stand, without a chat template."
    system = (asked.get("chat") or {}).get("system")
    told = f", with the system text {system!r}" if system else ""
    return f"Prompts were chats in the model's template{told}."


def _base_licence(model: str) -> dict[str, str]:
    """The licence that the base model's card names, as the metadata of the hub have it."""
    try:
        local = Path(model).expanduser() / "README.md"
        readme = local if Path(model).is_dir() else hf_hub_download(model, "README.md")
        data = ModelCard.load(readme).data.to_dict()
    except (OSError, ValueError, HfHubHTTPError):  # it has none, or the hub can't be reached
        return {}
    return {key: data[key] for key in _LICENCE if isinstance(data.get(key), str)}


def _hub_data(asked: Any) -> Iterator[str]:
    """Names of data sets on the hub in a section of the configuration."""
    if isinstance(asked, Mapping):
        for key, value in asked.items():
            if key == "dataset" and isinstance(value, str) and not _is_path(value):
                if asked.get("kind") != "reasoning_gym":
                    yield value
            else:
                yield from _hub_data(value)
    elif isinstance(asked, list | tuple):
        for value in asked:
            yield from _hub_data(value)


def _is_path(value: str) -> bool:
    return Path(value).expanduser().exists() or value.startswith(("/", ".", "~"))


def _public(value: Any) -> Any:
    """The value with paths of this machine shortened to their last part."""
    if isinstance(value, Mapping):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_public(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("/", "~/")):
        return Path(value).name
    return value


def _versions(known: Mapping[str, str]) -> str:
    here = versions()
    found = {name: known.get(name) or here[name] for name in here}
    named = {"asyncds": found.pop("version"), **found}
    return ", ".join(f"{name} {version}" for name, version in named.items() if version)
