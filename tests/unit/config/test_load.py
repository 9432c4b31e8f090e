"""Configuration files: overrides, round trips, and a sentence for every mistake."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from asyncds.config.load import ConfigError, dump_config, load_config, parse_config
from asyncds.config.schema import RunConfig
from asyncds.config.sweep import load_sweep
from tests.support.paths import ROOT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("model: m\nalgorithm: {advantage: {kind: ds_grpo, gamma_p: 1}}\n")
    return path


def test_shipped_configurations_are_valid() -> None:
    runs, paper = (sorted((ROOT / "configs").glob(p)) for p in ("*.yaml", "paper/*.yaml"))
    assert runs
    assert len(paper) == 6
    for path in runs + paper:
        load_config(path)


def test_shipped_studies_are_valid() -> None:
    files = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
    assert files
    for path in files:
        _, runs = load_sweep(path)
        assert len(runs) > 1


def test_overrides_reach_their_field(file: Path) -> None:
    config = load_config(file, ["learner.lr=1e-4", "eval.pass_at=[1, 2]", "generator.model=other"])
    assert config.learner.lr == 1e-4
    assert config.eval.pass_at == (1, 2)
    assert config.generator.model == "other"


def test_another_kind_clears_the_fields_of_the_one_before(file: Path) -> None:
    config = load_config(file, ["algorithm.advantage.kind=grpo"])
    assert config.algorithm.advantage.kind == "grpo"


def test_the_same_kind_keeps_its_fields(file: Path) -> None:
    config = load_config(file, ["algorithm.advantage.kind=ds_grpo"])
    assert getattr(config.algorithm.advantage, "gamma_p", None) == 1


def test_what_is_written_out_reads_back_the_same(file: Path) -> None:
    config = load_config(file, ["learner.lr=3e-7", "steps=7"])
    assert parse_config(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("learner.zerostage=1", "did you mean learner.zero_stage?"),
        ("zero_stage=1", "did you mean learner.zero_stage?"),
        ("algorithm.advantage.gama_p=1", "did you mean algorithm.advantage.gamma_p?"),
        ("steps=many", "steps: "),
        ("steps=-1", "steps: "),
        ("name=../elsewhere", "name: "),
        ("learner", "not of the form key=value"),
        ("learner.lr.x=1", "learner.lr"),
        ("rollout.group_size=[", "not valid YAML"),
        ("algorithm.advantage.kind=ppo", "algorithm.advantage"),
        ("weights.publish_every=3", "multiple of weights.publish_every"),
        ("algorithm.updates_per_batch=64", "algorithm.updates_per_batch"),
        ("coordinator.dead_seconds=1", "suspect_seconds"),
        ("algorithm.advantage={kind: pkpo, k: 9}", "lower k"),
        ("name=2024", "name: text is needed here: write it in quotes"),
        ("learner.lr=.inf", "learner.lr: Input should be a finite number"),
        ("learner.eps=1e400", "learner.eps: Input should be a finite number"),
        ("learner.betas=[0.9, 1]", "learner.betas.1"),
        ("algorithm.advantage.gamma_p=.nan", "finite number"),
        ("algorithm.kl.coef=.inf", "finite number"),
        ("sampling.temperature=.inf", "finite number"),
        ("sampling.temperature=0.001", "sampling.temperature"),
        ("eval.temperatures=[1, .inf]", "eval.temperatures.1"),
        ("seed=99999999999999999999", "seed: "),
        ("steps=99999999999999999999", "no whole number above 2^53"),
        ("task={kind: countdown, seed: 99999999999999999999}", "no whole number above 2^53"),
        ("rollout.group_size=99999999999", "rollout.group_size"),
        ("runs_dir=", "runs_dir"),
        ("task=countdown", "task: settings are needed here, such as {kind: countdown}"),
        ("algorithm=dapo", "algorithm: settings are needed here, such as {kind: dapo}"),
        ("learner=", "learner: settings are needed here, such as {ranks: …}"),
        ("eval.temperatures=1", "eval.temperatures: a list is needed here: put it in [ ]"),
        ("name=" + "a" * 201, "name: "),
    ],
)
def test_mistakes_are_told(file: Path, override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file, [override])
    assert sentence in str(caught.value)


def test_data_given_as_a_path_alone_is_told_once(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["task={kind: math, eval: [my.jsonl]}"])
    assert str(caught.value) == (
        "task.eval.0: settings are needed here, such as {dataset: …} (given: 'my.jsonl')"
    )


SAMPLED = "rollout.dynamic_sampling.enabled=true"
MASK = "algorithm.overlong.kind=mask"
BOTH = "algorithm.advantage={kind: ds_grpo, gamma_p: 0.1, gamma_n: 0.1}"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([SAMPLED, BOTH], "would never drop one"),
        (["algorithm.overlong={kind: penalty, buffer_tokens: 9}"], "sampling.max_tokens 8"),
    ],
)
def test_filters_that_make_no_sense_are_refused(
    file: Path, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(file, overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        [SAMPLED, "algorithm.advantage={kind: ds_grpo, gamma_p: 0.1, gamma_n: 0}"],
        [SAMPLED, "algorithm.advantage={kind: ds_grpo, gamma_p: 0, gamma_n: 0.1}"],
        [SAMPLED, BOTH, MASK],  # what is cut off altogether is dropped
        [SAMPLED, "algorithm.advantage={kind: pkpo, k: 1}", "rollout.group_size=1"],
        ["algorithm.overlong={kind: penalty, buffer_tokens: 8}"],
    ],
)
def test_filters_that_make_sense_are_not(file: Path, overrides: list[str]) -> None:
    load_config(file, overrides)


def test_a_weight_sync_is_given_up_before_the_learners_ranks_are(file: Path) -> None:
    two = ["learner.ranks=2", "weights.prepare_seconds=30"]
    with pytest.raises(ConfigError, match=r"may take 630 s .* learner\.collective_seconds 600"):
        load_config(file, [*two, "weights.transfer_seconds=600"])
    load_config(file, [*two, "weights.transfer_seconds=600", "learner.collective_seconds=631"])
    load_config(file, ["weights.transfer_seconds=600"])  # one rank waits for nobody


def test_what_teaches_nothing_is_refused_where_something_is_trained(file: Path) -> None:
    one = ["algorithm.advantage.kind=grpo", "rollout.group_size=1"]
    with pytest.raises(ConfigError, match="nothing can be learnt from a group of one"):
        load_config(file, one)
    load_config(file, [*one, "steps=0"])
    rounded = ["dtype=bfloat16", "learner.zero_stage=0"]
    with pytest.raises(ConfigError, match="choose zero_stage 1, or dtype float32"):
        load_config(file, rounded)
    load_config(file, [*rounded, "steps=0"])


def test_every_mistake_is_told_at_once(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["learner.zerostage=1", "steps=many"])
    assert len(str(caught.value).splitlines()) == 2


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    for text, sentence in (("- 1", "mapping"), ("a: [", "not valid YAML"), ("{}", "model")):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            load_config(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "missing.yaml")


def test_every_field_is_documented() -> None:
    def undocumented(model: type[BaseModel], path: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found += undocumented(inner, f"{path}{name}.")
            elif not field.description and name != "kind":
                found.append(path + name)
        return found

    assert undocumented(RunConfig, "") == []
