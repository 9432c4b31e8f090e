"""Knights and Knaves: puzzles with one solution, how they are asked, and the verifier."""

import os
import subprocess
import sys
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.tasks.base import Score
from asyncds.tasks.knights_knaves import prompts
from asyncds.tasks.knights_knaves.puzzles import (
    Puzzle,
    Statement,
    every_puzzle,
    sample_puzzles,
    solutions,
    statements,
)
from asyncds.tasks.knights_knaves.task import KnightsKnavesTask
from asyncds.tasks.knights_knaves.verifier import score_plain, score_tagged
from asyncds.tasks.registry import make_task

untimed = settings(deadline=None)

# The solution is knight, knave, knight.
PUZZLE: Puzzle = (
    Statement("neither", 1, 1),
    Statement("neither", 0, 2),
    Statement("different", 0, 1),
)
SOLUTION = (True, False, True)
RIGHT = "Ada is a knight, Ben is a knave, and Cleo is a knight"


@st.composite
def puzzles(draw: st.DrawFn) -> Puzzle:
    """Any set of statements, with any number of solutions."""
    people = draw(st.integers(2, 5))
    return tuple(draw(st.sampled_from(statements(i, people))) for i in range(people))


def read_plain(text: str) -> list[tuple[bool, ...]]:
    """The solutions of a plain prompt, by brute force over the text itself."""
    said = [part.split() for part in text.removesuffix(" :").split(" ; ")]
    found = []
    for knights in product((True, False), repeat=len(said)):
        kinds = {"K": True, "N": False, **dict(zip("ABCDEF", knights, strict=False))}
        rules = {
            "=": lambda a, b: a is b,
            "#": lambda a, b: a is not b,
            "&": lambda a, b: a and b,
            "|": lambda a, b: a or b,
            "!": lambda a, b: not a and not b,
        }
        true = tuple(rules[sign](kinds[a], kinds[b]) for a, sign, b in said)
        found += [knights] if true == knights else []
    return found


class TestPuzzles:
    @untimed
    @given(puzzles())
    def test_solutions_are_those_of_the_text(self, puzzle: Puzzle) -> None:
        assert solutions(puzzle) == read_plain(prompts.plain(puzzle))

    @pytest.mark.parametrize(("people", "number"), [(2, 26), (3, 2821)])
    def test_every_puzzle(self, people: int, number: int) -> None:
        found = every_puzzle(people)
        assert len(set(found)) == len(found) == number
        texts = {prompts.plain(puzzle): puzzle for puzzle in found}
        assert len(texts) == number
        for text, puzzle in texts.items():
            assert read_plain(text) == solutions(puzzle)
            assert len(solutions(puzzle)) == 1

    @settings(deadline=None, max_examples=20)
    @given(st.integers(3, 5), st.integers(0, 9))
    def test_sampled_puzzles(self, people: int, seed: int) -> None:
        found = sample_puzzles(people, 30, seed=seed)
        assert sample_puzzles(people, 20, seed=seed) == found[:20]
        assert len(set(found)) == 30
        assert all(len(solutions(puzzle)) == 1 for puzzle in found)

    def test_an_exhausted_family_is_said(self) -> None:
        with pytest.raises(ValueError, match="found only 26 of 27"):
            sample_puzzles(2, 27, seed=0)

    def test_nobody_speaks_of_themselves_alone(self) -> None:
        for speaker in range(3):
            assert len(statements(speaker, 3)) == 19
            assert not [s for s in statements(speaker, 3) if s.first == s.second == speaker]


class TestPrompts:
    def test_plain(self) -> None:
        assert prompts.plain(PUZZLE) == "B = N ; A ! C ; A # B :"
        assert prompts.plain_answer(SOLUTION) == "K N K"

    def test_chat(self) -> None:
        text = prompts.instruction(PUZZLE)
        for said in (
            'Ada says: "Ben is a knave."',
            'Ben says: "Ada and Cleo are both knaves."',
            'Cleo says: "Ada and Ben are of different kinds."',
            "You meet Ada, Ben, and Cleo.",
        ):
            assert said in text
        assert prompts.answer(SOLUTION) == RIGHT


class TestVerifier:
    @pytest.mark.parametrize(
        ("text", "reward", "answers"),
        [
            ("K N K", 1.0, ("K N K",)),
            (" K  N K\n", 1.0, ("K N K",)),
            ("K N N", 0.0, ("K N N",)),
            ("K N", 0.0, ()),
            ("K N K K", 0.0, ()),
            ("K N A", 0.0, ()),
            ("KNK", 0.0, ()),
            ("", 0.0, ()),
        ],
    )
    def test_plain(self, text: str, reward: float, answers: tuple[str, ...]) -> None:
        assert score_plain(text, PUZZLE) == Score(reward, reward == 1.0, answers)

    def test_any_order(self) -> None:
        claims = ["Ada is a knight", "Ben is a knave", "Cleo is a knight"]
        for order in permutations(claims):
            text = f"<answer>{order[0]}, {order[1]}, and {order[2]}.</answer>"
            assert score_tagged(text, PUZZLE) == Score(1.0, True, ("K N K",))

    @pytest.mark.parametrize(
        ("text", "reward"),
        [
            (
                "<answer>ADA IS A KNIGHT, ben is a knave; Cleo is a Knight</answer>",
                1.0,
            ),
            ("<answer>Ada is a knight, Ben is a knave, and Cleo is a knave</answer>", 0.1),
            ("<answer>Ada is a knight, and Ben is a knave</answer>", 0.1),
            ("<answer>Ada is a knight, Ben is not a knave, Cleo is a knight</answer>", 0.1),
            ("<answer>Ada is a knight, Ben is a knave, Ben is a knight</answer>", 0.1),
            ("<answer>Ada is a knight, Ben is a knave, Dan is a knight</answer>", 0.1),
            (f"<answer>{RIGHT}, Ben is a knight</answer>", 0.1),
            (f"<answer>{RIGHT}, Dan is a knight</answer>", 0.1),
            (f"<answer>{RIGHT}, Ben is a knave</answer> done", 1.0),
            ("<answer>Ada is a knight/knave, Ben is a knight/knave</answer>", 0.1),
            (RIGHT, 0.0),
        ],
    )
    def test_tagged(self, text: str, reward: float) -> None:
        score = score_tagged(text, PUZZLE)
        assert (score.reward, score.correct) == (reward, reward == 1.0)

    @untimed
    @given(st.text() | st.lists(st.sampled_from(["K", "N", "A", " ", "Ada", " is a ", "knight"])))
    def test_any_text_is_judged(self, text: str | list[str]) -> None:
        said = "".join(text)
        for score in (score_plain(said, PUZZLE), score_tagged(f"<answer>{said}</answer>", PUZZLE)):
            assert score.correct == (score.answers == ("K N K",))
            assert score.correct == (score.reward == 1.0)

    @pytest.mark.parametrize("style", ["plain", "chat"])
    def test_one_assignment_of_all_is_correct(self, style: Any) -> None:
        task = KnightsKnavesTask(prompt_style=style)
        for row in task.rows("eval"):
            correct = 0
            for knights in product((True, False), repeat=3):
                text = prompts.plain_answer(knights)
                if style == "chat":
                    text = f"<answer>{prompts.answer(knights)}</answer>"
                correct += task.score(row, text).correct
            assert task.multiplicity(row) == {"assignment": correct} == {"assignment": 1}


class TestTask:
    def test_rows_are_the_same_in_every_process(self) -> None:
        code = (
            "from asyncds.tasks.registry import make_task; import sys;"
            "print(make_task('knights_knaves', seed=5).fingerprint(),"
            "sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
        )
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONHASHSEED": "1"},
        )
        assert result.stdout.split() == [make_task("knights_knaves", seed=5).fingerprint(), "[]"]

    def test_fingerprint_differs_with_rows_and_prompts(self) -> None:
        variants: list[dict[str, Any]] = [{}, {"seed": 1}, {"n_eval": 64}, {"n_train": 99}]
        variants += [{"n_validation": 9}, {"prompt_style": "chat"}, {"people": 4, "n_train": 99}]
        prints = {make_task("knights_knaves", **v).fingerprint() for v in variants}
        assert len(prints) == len(variants)

    @pytest.mark.parametrize("family", [{}, {"people": 4, "n_train": 500}])
    def test_splits(self, family: dict[str, int]) -> None:
        without = KnightsKnavesTask(**family)  # type: ignore[arg-type]
        task = KnightsKnavesTask(n_validation=100, **family)  # type: ignore[arg-type]
        assert list(task.rows("eval")) == list(without.rows("eval"))
        sizes = [len(task.rows(s)) for s in ("train", "validation", "eval")]  # type: ignore[arg-type]
        assert sizes == [family.get("n_train", 2821 - 228), 100, 128]
        rows = [row for s in ("train", "validation", "eval") for row in task.rows(s)]  # type: ignore[arg-type]
        assert len({str(row.fields) for row in rows}) == sum(sizes)

    @pytest.mark.parametrize("options", [{"people": 1}, {"people": 7}, {"prompt_style": "poem"}])
    def test_options_without_sense(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"people|prompt_style"):
            make_task("knights_knaves", **options)


class TestAgainstReasoningGym:
    """The generator and verifier of the package reasoning-gym, where it is installed."""

    @pytest.fixture
    def theirs(self) -> Any:
        module = pytest.importorskip(
            "reasoning_gym.logic.knights_knaves", reason="reasoning-gym is not installed"
        )
        return module.KnightsKnavesDataset

    def test_solutions(self, theirs: Any) -> None:
        def said(s: Statement) -> tuple[Any, ...]:
            first, second = ("telling-truth", s.first), ("telling-truth", s.second)
            match s.relation:
                case "same":
                    return ("<=>", first, second)
                case "different":
                    return ("not", ("<=>", first, second))
                case "both":
                    return ("and", first, second)
                case "either":
                    return ("or", first, second)
            return ("not", ("or", first, second))

        for puzzle in [*every_puzzle(2), *every_puzzle(3)[::20], *sample_puzzles(4, 50, seed=0)]:
            assert theirs.find_solution(tuple(map(said, puzzle))) == solutions(puzzle)

    @pytest.mark.parametrize("people", [2, 3])
    def test_verdicts(self, theirs: Any, people: int) -> None:
        judge = theirs.score_answer
        for puzzle in every_puzzle(people)[:: 10 ** (people - 2)]:
            (solution,) = solutions(puzzle)
            entry = {"answer": prompts.answer(solution) + "."}
            for knights in product((True, False), repeat=people):
                text = prompts.answer(knights)
                swapped = ", and ".join(reversed(text.replace(", and", ",").split(", ")))
                for answer in (text, swapped, text.upper(), text.rpartition(",")[0], ""):
                    ours = score_tagged(f"<answer>{answer}</answer>", puzzle).correct
                    assert ours == (judge(theirs, answer, entry) == 1.0)
