"""Named algorithms: what they set, what is set besides, and that files without one are as ever."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from asyncds.algo.algorithm import AlgorithmConfig
from asyncds.algo.bundles import BUNDLES
from asyncds.config.load import ConfigError, dump_config, load_config, parse_config
from asyncds.config.sweep import load_sweep
from tests.support.paths import ROOT


@pytest.mark.parametrize("kind", BUNDLES)
def test_a_bundle_sets_what_it_says_and_leaves_the_rest(kind: str) -> None:
    config, plain = AlgorithmConfig(kind=kind), AlgorithmConfig()
    for axis in AlgorithmConfig.model_fields:
        value = BUNDLES[kind].get(axis)
        if value is None and axis != "kind":
            assert getattr(config, axis) == getattr(plain, axis)
        elif isinstance(value, dict):
            assert value.items() <= getattr(config, axis).model_dump().items()
    written = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert written["kind"] == kind
    assert AlgorithmConfig.model_validate(written) == config


@pytest.mark.parametrize("kind", BUNDLES)
def test_a_bundle_is_documented(kind: str) -> None:
    assert f"| `{kind}` |" in (ROOT / "docs" / "algorithms.md").read_text()


def algorithm(values: dict[str, Any]) -> AlgorithmConfig:
    return parse_config({"model": "m", "algorithm": values}).algorithm


def test_every_field_can_be_set_besides() -> None:
    config = algorithm({"kind": "dr_grpo", "loss": {"high": 0.3}, "entropy_coef": 0.1})
    assert config.loss.model_dump()["high"] == 0.3
    assert config.loss.kind == "clip"
    assert config.aggregation.kind == "constant_length"
    assert config.entropy_coef == 0.1
    other = algorithm({"kind": "dr_grpo", "loss": {"kind": "cispo"}})
    assert other.loss.model_dump() == AlgorithmConfig(loss={"kind": "cispo"}).loss.model_dump()  # type: ignore[arg-type]


def test_without_a_kind_nothing_is_different() -> None:
    assert algorithm({}) == AlgorithmConfig()
    assert AlgorithmConfig().advantage.kind == "ds_grpo"
    assert AlgorithmConfig().kind is None


@pytest.mark.parametrize("order", [1, -1])
def test_a_kind_replaces_the_section_of_the_file_and_settings_come_on_top(
    tmp_path: Path, order: int
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: m\nalgorithm: {advantage: {kind: ds_grpo, gamma_p: 1}}\n")
    overrides = ["algorithm.kind=grpo", "algorithm.loss.high=0.5"][::order]
    config = load_config(file, overrides).algorithm
    assert (config.kind, config.advantage.kind) == ("grpo", "grpo")
    assert config.loss.model_dump()["high"] == 0.5
    assert (
        parse_config(yaml.safe_load(dump_config(load_config(file, overrides)))).algorithm == config
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "grop"}, r"algorithm\.kind"),
        ({"kind": "dapo", "loss": {"high": -1}}, r"algorithm\.loss\.high: "),
        (
            {"kind": "dapo", "advantage": {"gamma_p": 1}},
            r"unknown key algorithm\.advantage\.gamma_p",
        ),
    ],
)
def test_mistakes_beside_a_bundle_are_told(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        algorithm(values)


def test_a_sweep_varies_the_kind(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: m\nsteps: 4\n")
    sweep = {
        "name": "s",
        "run": "run.yaml",
        "set": {"algorithm.entropy_coef": 0.1},
        "grid": {"algorithm.kind": ["grpo", "dapo"]},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    _, runs = load_sweep(tmp_path / "sweep.yaml")
    assert [r.config.algorithm.kind for r in runs] == ["grpo", "dapo"]
    assert {r.config.algorithm.entropy_coef for r in runs} == {0.1}
