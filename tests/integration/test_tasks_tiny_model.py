"""The tiny base model: an ordinary Hugging Face directory, made once, that learns."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.decoders import DecodeStream
from transformers import AutoModelForCausalLM, AutoTokenizer

from asyncds.tasks.base import encode_prompt
from asyncds.tasks.countdown.problems import Problem, Space, every_problem, split
from asyncds.tasks.countdown.task import CountdownTask
from asyncds.tasks.countdown.tiny_data import demonstrations
from asyncds.tasks.countdown.tiny_model import Recipe, make_tiny_model, save_untrained
from asyncds.tasks.countdown.tiny_tokenizer import VOCABULARY, tiny_tokenizer
from asyncds.tasks.countdown.verifier import score_plain

pytestmark = pytest.mark.slow

SHORT = Recipe(clean_steps=12, babble_steps=3, batch_size=64, warmup_steps=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int, float]]]:
    out = tmp_path_factory.mktemp("models") / "deeper" / "tiny"
    steps: list[tuple[int, int, float]] = []
    make_tiny_model(out, recipe=SHORT, threads=1, progress=lambda *step: steps.append(step))
    return out, steps


def test_it_learns(trained: tuple[Path, list[tuple[int, int, float]]]) -> None:
    _, steps = trained
    assert [(done, total) for done, total, _ in steps] == [(i, 15) for i in range(1, 16)]
    assert steps[-1][2] < 0.75 * steps[0][2]


def test_an_ordinary_directory(trained: tuple[Path, list[tuple[int, int, float]]]) -> None:
    out, _ = trained
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.num_parameters() == 507_648
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size == 110
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert [file.name for file in out.parent.iterdir()] == ["tiny"]

    task = CountdownTask()
    prompts = [encode_prompt(task, row, tokenizer) for row in task.rows("eval")[:4]]
    assert {len(prompt) for prompt in prompts} == {6}
    ids = torch.tensor(prompts)
    sampled = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=8
    )
    assert sampled.shape[1] <= 14


def test_numbers_are_single_tokens_and_text_comes_back(
    trained: tuple[Path, list[tuple[int, int, float]]],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained[0])
    assert tokenizer.convert_ids_to_tokens(range(110)) == list(VOCABULARY)
    ids = tokenizer.encode("2*(10+5)", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["2", "*", "(", "10", "+", "5", ")"]
    ids.append(tokenizer.eos_token_id)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text == "2 * ( 10 + 5 )"
    assert score_plain(text, [2, 5, 10], 30).correct
    # Token by token, as an engine decodes.
    stream = DecodeStream(skip_special_tokens=True)
    pieces = [stream.step(tokenizer.backend_tokenizer, i) or "" for i in ids]
    assert "".join(pieces) == text


@pytest.mark.parametrize("text", ["100", "2 5 10 = 130 :", "two", "2 & 3"])
def test_what_has_no_token_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="UNK"):
        tiny_tokenizer(max_length=64).encode(text)


def test_it_is_made_once(trained: tuple[Path, list[tuple[int, int, float]]]) -> None:
    out, _ = trained
    before = (out / "model.safetensors").stat().st_mtime_ns
    make_tiny_model(out, recipe=SHORT, progress=lambda *step: pytest.fail("trained again"))
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="not a model of this recipe"):
        make_tiny_model(out, recipe=replace(SHORT, seed=1))
    assert json.loads((out / "recipe.json").read_text())["seed"] == 0


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, steps: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_tiny_model(tmp_path / "tiny", recipe=SHORT, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_untrained_models_differ_by_seed_only(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        save_untrained(tmp_path / name, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


class TestDemonstrations:
    def test_held_out_problems_are_not_shown(self) -> None:
        tokenizer = tiny_tokenizer(max_length=64)
        train, held_out = split(every_problem(Space()), n_eval=128, seed=0)
        data = demonstrations(train, tokenizer)
        shown = {tuple(prompt) for prompt in data.prompts.tolist()}
        assert len(shown) == len(data.prompts) == len(train)
        task = CountdownTask()
        for row, problem in zip(task.rows("eval"), held_out, strict=True):
            assert row.fields == {"numbers": list(problem.numbers), "target": problem.target}
            assert tuple(encode_prompt(task, row, tokenizer)) not in shown

    def test_answers_are_solutions_and_babble_uses_the_numbers(self) -> None:
        tokenizer = tiny_tokenizer(max_length=64)
        problems = [Problem((2, 5, 10), t) for t in (30, 17, 20)] + [Problem((1, 2, 3), 6)]
        data = demonstrations(problems, tokenizer)
        for babble, right in ((0.0, 1.0), (1.0, 0.3)):
            prompts, answers = data.batch(np.random.default_rng(0), 400, babble=babble)
            correct = 0
            for prompt, answer in zip(prompts, answers, strict=True):
                numbers, target = prompt[:3].tolist(), int(prompt[4])
                text = tokenizer.decode(answer, skip_special_tokens=True)
                correct += score_plain(text, numbers, target).correct
                judged = [score_plain(text, numbers, p.target).correct for p in problems]
                assert any(judged)
            assert correct == 400 if right == 1.0 else 40 < correct < 300
