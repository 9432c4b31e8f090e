import json
import os
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from asyncds.config.load import ConfigError, parse_config
from asyncds.config.schema import RunConfig
from asyncds.launch import machine, preflight
from asyncds.launch.local import absolute_paths
from asyncds.launch.machine import Gpu, existing, parse_gpus
from asyncds.launch.model_directory import check_model
from tests.support.synthetic_run import WORDS, make_model

H200 = Gpu(name="H200", memory_gb=139.0, capability=(9, 0))
T4 = Gpu(name="T4", memory_gb=15.0, capability=(7, 5))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpus(monkeypatch, [])


def has_gpus(monkeypatch: pytest.MonkeyPatch, found: list[Gpu]) -> None:
    monkeypatch.setattr(preflight, "gpus", lambda: found)
    monkeypatch.setattr(preflight, "uses_cuda", lambda: bool(found))
    monkeypatch.delenv("NCCL_MULTI_RANK_GPU_ENABLE", raising=False)


def config_of(model: Path | str, tmp_path: Path, **sections: Any) -> RunConfig:
    return parse_config({"model": str(model), "runs_dir": str(tmp_path / "runs")} | sections)


def problems(model: Path | str, tmp_path: Path, **sections: Any) -> list[str]:
    return preflight.preflight(config_of(model, tmp_path, **sections))


def test_nothing_to_complain_about(model: Path, tmp_path: Path) -> None:
    assert problems(model, tmp_path) == []


def test_caches_that_memory_has_no_room_for(model: Path, tmp_path: Path) -> None:
    (found,) = problems(model, tmp_path, generator={"kv_cache_gb": 4e8, "replicas": 2})
    assert "the KV caches of generators take 8e+08 GiB" in found
    assert "lower generator.kv_cache_gb" in found


# --- the model ----------------------------------------------------------------------------------


def test_missing_tiny_model_says_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = problems("models/tiny-countdown", tmp_path)
    assert found.endswith("make it with `asyncds tiny-model models/tiny-countdown`")
    (found,) = problems("models/tiny-countdown-1", tmp_path)
    assert found.endswith("`make study` those of the studies")


@pytest.mark.parametrize("name", ["./qwen", "/nowhere/qwen", "a/b/c", "~/qwen"])
def test_missing_directory(name: str, tmp_path: Path) -> None:
    (found,) = problems(name, tmp_path)
    assert found == f"model {name} is not there: give a Hugging Face model directory or a hub id"


def test_missing_directory_beside_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert "is not there" in problems("models/qwen", tmp_path)[0]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub on loopback that has one model, and an empty cache."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            known = self.path.startswith("/Qwen/Qwen3-1.7B/")
            self.send_response(200 if known else 404)
            self.send_header("ETag", '"1"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", "0")
            if not known:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _use_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_hub_ids_are_looked_up(tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _use_hub(monkeypatch, hub)
    assert problems("Qwen/Qwen3-1.7B", tmp_path) == []
    (found,) = problems("Qwen/Qwen3-1.8B", tmp_path)
    assert "nor a model on the Hugging Face hub" in found


def test_an_unreachable_hub_is_said_at_once(
    tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_hub(monkeypatch, "http://127.0.0.1:1")
    (found,) = problems("Qwen/Qwen3-1.7B", tmp_path)
    assert "the hub can't be reached" in found


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no weights"),
        ("tokenizer.json", "has no tokenizer.json"),
    ],
)
def test_incomplete_directory(file: str, says: str, model: Path, tmp_path: Path) -> None:
    (model / file).unlink()
    (found,) = problems(model, tmp_path)
    assert found.startswith(f"model {model} {says}")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_files_that_are_not_json(file: str, model: Path, tmp_path: Path) -> None:
    (model / file).write_text("{")
    (found,) = problems(model, tmp_path)
    assert f"{file} can't be read" in found


def test_a_shard_is_missing(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (found,) = problems(model, tmp_path)
    assert found.endswith("lacks weights that its index lists: model-2.safetensors")


def test_tokenizer_that_knows_more_than_the_model(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", vocab_size=len(WORDS) - 1)
    (found,) = problems(model, tmp_path)
    assert f"token ids up to {len(WORDS) - 1}" in found
    assert f"ends at {len(WORDS) - 2}" in found


def test_an_added_token_counts(model: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({"id": len(WORDS), "content": "<pad>"})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "do not belong together" in problems(model, tmp_path)[0]


def test_the_tokenizer_may_lie_elsewhere(model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "tokenizer", words=[*WORDS, "more"])
    (model / "tokenizer.json").unlink()
    (found,) = problems(model, tmp_path, tokenizer=str(other))
    assert "do not belong together" in found
    (found,) = problems(model, tmp_path, tokenizer="/nowhere")
    assert found.startswith("tokenizer /nowhere is not there")


def test_unigram_vocabularies_are_lists(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"] = {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}
    tokenizer["added_tokens"] = []
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    _, facts = check_model(str(model), None)
    assert facts is not None
    assert facts.vocab == {"a": 0, "b": 1}


def test_generators_must_load_the_same_kind_of_model(model: Path, tmp_path: Path) -> None:
    same = make_model(tmp_path / "same")
    assert problems(model, tmp_path, generator={"model": str(same)}) == []
    swapped = [WORDS[1], WORDS[0], *WORDS[2:]]
    other = make_model(tmp_path / "other", vocab_size=200, words=swapped)
    size, tokens = problems(model, tmp_path, generator={"model": str(other)})
    assert f"has 200 tokens, model {model} {len(WORDS)}" in size
    assert "another tokenizer" in tokens


def test_no_room_for_a_prompt(model: Path, tmp_path: Path) -> None:
    (found,) = problems(model, tmp_path, sampling={"max_tokens": 256})
    assert "leaves no room for a prompt" in found
    (found,) = problems(model, tmp_path, generator={"max_model_len": 512})
    assert "above the 256 positions" in found


# --- the machine --------------------------------------------------------------------------------


def test_a_port_in_use(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = problems(model, tmp_path, coordinator={"port": port})
        assert found.startswith(f"coordinator.port: port {port} of 127.0.0.1 is in use")
        (found,) = problems(model, tmp_path, telemetry={"port": port - 1})
        assert found.startswith(f"telemetry.port: port {port} ")
    assert problems(model, tmp_path, coordinator={"port": port}) == []


def test_ports_that_overlap(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    telemetry, coordinator = {"port": port}, {"port": port + 2}
    found = problems(model, tmp_path, telemetry=telemetry, coordinator=coordinator)
    assert any("is one of the metrics servers' ports" in f for f in found)


def test_an_address_of_another_machine(model: Path, tmp_path: Path) -> None:
    (found,) = problems(model, tmp_path, telemetry={"host": "192.0.2.1", "port": 20000})
    assert "192.0.2.1 is not an address of this machine" in found


def test_the_run_directory_is_taken(model: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (found,) = problems(model, tmp_path)
    assert f"`asyncds run --resume {tmp_path / 'runs' / 'run'}`" in found
    assert preflight.preflight(config_of(model, tmp_path), resume=True) == []


def test_the_run_directory_can_not_be_made(model: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    assert "is not a directory" in problems(model, tmp_path)[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_the_run_directory_can_not_be_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o500)
    assert "no permission" in problems(model, tmp_path)[0]


def test_the_disk_is_nearly_full(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "free_bytes", lambda path: 3 << 30)
    assert problems(model, tmp_path) == []
    with (model / "model.safetensors").open("r+b") as weights:
        weights.truncate(1 << 30)  # half a billion parameters, 8 GiB for each of 3 checkpoints
    (found,) = problems(model, tmp_path)
    assert found.startswith("3.0 GiB are free")
    assert "need about 25.0" in found


def test_software_is_missing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "version", lambda name: None if "vllm" in name else "1.0")
    (found,) = problems(model, tmp_path)
    assert found.startswith("not installed: vllm:")


def test_ray_is_missing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "version", lambda name: None if name == "ray" else "1.0")
    assert problems(model, tmp_path) == []
    (found,) = problems(model, tmp_path, scoring={"backend": "ray"})
    assert "install `asyncds[ray]`" in found


def test_nccl_needs_gpus(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = problems(model, tmp_path, weights={"transport": "nccl"})
    assert "nccl needs GPUs" in found
    has_gpus(monkeypatch, [H200, H200])
    assert problems(model, tmp_path, weights={"transport": "nccl"}) == []


def test_workers_in_a_row_need_gpus(model: Path, tmp_path: Path) -> None:
    (found,) = problems(model, tmp_path, generator={"pipeline_parallel": 2})
    assert "generator.pipeline_parallel 2 needs GPUs" in found


def test_more_processes_than_gpus(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_gpus(monkeypatch, [H200])
    (found,) = problems(model, tmp_path)
    assert "need 2 GPUs and 1 are here" in found
    monkeypatch.setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1")
    assert problems(model, tmp_path) == []
    (found,) = problems(model, tmp_path, generator={"tensor_parallel": 2})
    assert "a generator needs 2 GPUs" in found


def test_bfloat16_needs_a_newer_gpu(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_gpus(monkeypatch, [T4, T4])
    (found,) = problems(model, tmp_path)
    assert "needs compute capability 8.0, T4 has 7.5" in found
    assert problems(model, tmp_path, dtype="float32") == []


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    found = problems("/nowhere", tmp_path, weights={"transport": "nccl"})
    assert len(found) == 2


SMI = """\
NVIDIA H200, 143771, 9.0, 0, GPU-aaaa
Tesla, with a comma, 15360, 7.5, 1, GPU-bbbb
NVIDIA GB10, [N/A], 12.1, 2, GPU-cccc
"""


def test_gpus_by_nvidia_smi() -> None:
    first, second, third = parse_gpus(SMI, None)
    assert (first.name, first.capability) == ("NVIDIA H200", (9, 0))
    assert second.name == "Tesla, with a comma"
    assert third.memory_gb is None
    assert parse_gpus(SMI, ["1"]) == [second]
    assert parse_gpus(SMI, ["GPU-aa"]) == [first]
    assert parse_gpus(SMI, []) == []


def test_the_nearest_directory_that_exists(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert machine.cores() >= 1
    assert machine.memory_bytes() > 1 << 20


# --- the task -----------------------------------------------------------------------------------


def math_task(dataset: Path, **options: Any) -> dict[str, Any]:
    source = [{"dataset": str(dataset)}]
    return {"kind": "math", "train": source, "eval": [{"dataset": str(dataset), "n": 1}], **options}


@pytest.fixture
def problems_file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "1 + 1?", "answer": 2}\n{"problem": "2 + 2?", "answer": 4}\n')
    return path


def test_data_that_is_not_there(model: Path, tmp_path: Path, problems_file: Path) -> None:
    (found,) = problems(model, tmp_path, task=math_task(tmp_path / "problem.jsonl"))[:1]
    assert found.startswith("task: data set ")
    assert found.endswith(f"did you mean {problems_file}?")


def test_data_that_can_not_be_read(model: Path, tmp_path: Path, problems_file: Path) -> None:
    problems_file.write_text(problems_file.read_text() + '{"problem": ')
    (found,) = problems(model, tmp_path, task=math_task(problems_file))
    assert f"task: {problems_file}, line 3: not JSON" in found


def test_a_base_model_is_not_asked_in_chats(
    model: Path, tmp_path: Path, problems_file: Path
) -> None:
    (found,) = problems(model, tmp_path, task=math_task(problems_file))
    assert f"{model} has no chat template" in found
    assert "set task.chat.template" in found
    with_template = math_task(problems_file, chat={"template": "{{ messages }}"})
    assert problems(model, tmp_path, task=with_template) == []
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert problems(model, tmp_path, task=math_task(problems_file)) == []
    (found,) = problems(
        model, tmp_path, task=math_task(problems_file, chat={"template": "no.file"})
    )
    assert "chat.template no.file" in found


def test_paths_are_absolute_in_the_resolved_configuration(
    model: Path, tmp_path: Path, problems_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    task = {
        "kind": "math",
        "train": [{"dataset": "problems.jsonl"}],
        "eval": [{"dataset": "~/problems.jsonl"}, {"dataset": "someone/on-the-hub"}],
        "chat": {"template": "chat.jinja"},
    }
    resolved = absolute_paths(config_of(model, tmp_path, task=task)).task.model_dump()
    assert resolved["train"][0]["dataset"] == str(problems_file)
    assert [source["dataset"] for source in resolved["eval"]] == [
        str(problems_file),
        "someone/on-the-hub",
    ]
    assert resolved["chat"]["template"] == str(tmp_path / "chat.jinja")


def test_details_of_chats_need_chats(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.chat has no effect with prompt_style plain"):
        config_of(model, tmp_path, task={"kind": "countdown", "chat": {"system": "x"}})
