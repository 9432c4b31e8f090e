"""vLLM's own series: what this version exports, and what the page of metrics says of it.

No engine runs: vLLM's logger for Prometheus is made from a configuration. tests/e2e has a real one.
"""

import json
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, generate_latest

from asyncds.engine.vllm_metrics import VllmMetrics
from tests.unit.deploy.test_monitoring import of_vllm

pytestmark = pytest.mark.slow  # importing vLLM


@pytest.fixture(scope="module")
def engine_logger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from transformers import Qwen2Config
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.metrics.loggers import PrometheusStatLogger
    from vllm.v1.metrics.prometheus import unregister_vllm_metrics

    model = tmp_path_factory.mktemp("model")
    config = Qwen2Config(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, architectures=["Qwen2ForCausalLM"],
    )  # fmt: skip
    (model / "config.json").write_text(json.dumps(config.to_dict()))
    arguments = AsyncEngineArgs(
        model=str(model), dtype="float32", max_model_len=32, skip_tokenizer_init=True
    )
    PrometheusStatLogger(arguments.create_engine_config())
    yield
    unregister_vllm_metrics()


def test_what_is_documented_is_what_this_version_exports(engine_logger: None) -> None:
    found = set()
    for family in VllmMetrics().collect():
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.add((name, family.type, frozenset(labels)))
    assert found == {(name, kind, frozenset(labels)) for name, kind, labels in of_vllm()}


def test_they_are_in_our_registry_and_nothing_else_of_the_process(engine_logger: None) -> None:
    registry = CollectorRegistry()
    Gauge("ours", "ours", registry=registry)
    registry.register(VllmMetrics())
    text = generate_latest(registry).decode()
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line[0] != "#"}
    assert "vllm:kv_cache_usage_perc" in names
    assert {name for name in names if not name.startswith("vllm:")} == {"ours"}
    assert "process_" in generate_latest(REGISTRY).decode()
