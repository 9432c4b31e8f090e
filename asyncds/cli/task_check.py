"""`asyncds task check`: what a task asks, as the model will see it, and what its reward says."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from asyncds.cli.task_episode import PlayedEpisode, play
from asyncds.config.schema import RunConfig
from asyncds.config.tasks import each_task, task_options
from asyncds.launch.errors import UserError
from asyncds.launch.preflight import task_problems
from asyncds.launch.prompts import not_encoded, room_for_prompts
from asyncds.scoring.frames import Reply
from asyncds.scoring.process_pool import ProcessPoolScorer
from asyncds.tasks.base import Row, Split, Task, evaluation_sets
from asyncds.tasks.encoding import encode_prompt
from asyncds.tasks.environment import Environment
from asyncds.tasks.registry import make_task
from asyncds.tasks.warned import warned

COUNTED_PROMPTS = 2_000
"""Of a larger split only so many prompts are encoded, spread evenly."""
SLOW_SECONDS = 1.0
UNRELATED = "The weather is fine today, and the train is late again."
LONG = "and so on, " * 2_000
OWN = "the row's own answer"
OTHER = "another row's answer"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A prompt. text: as the model sees it, or the task's own where there is no tokenizer."""

    split: str
    row: int
    text: str
    tokens: int | None


@dataclass(kw_only=True)
class Tried:
    """The judgement of the reward on one kind of completion."""

    kind: str
    replies: list[tuple[Row, str, Reply]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def rewards(self) -> list[float]:
        return [reply.score.reward if reply.score else 0.0 for _, _, reply in self.replies]

    @property
    def correct(self) -> int:
        return sum(reply.score is not None and reply.score.correct for _, _, reply in self.replies)

    @property
    def errors(self) -> list[Reply]:
        return [reply for _, _, reply in self.replies if reply.score is None]


@dataclass(kw_only=True)
class TaskReport:
    """lengths: tokens of prompts, ascending. episode: of an environment, one to be shown.

    problems: what would keep a run from learning; notes: what is good to know.
    """

    name: str
    sizes: dict[str, int]
    shown: list[Shown] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    episode: PlayedEpisode | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_tasks(config: RunConfig, *, rows: int, seed: int = 0) -> list[TaskReport]:
    """Look at each task that a run has; see ``check_task``. Raises UserError."""
    if problems := task_problems(config):
        raise UserError(*problems)
    parts = each_task(config.task)
    reports = []
    for where, task in parts.items():
        report = check_task(config.model_copy(update={"task": task}), rows=rows, seed=seed)
        if len(parts) > 1:
            report.name = f"{where.rpartition('.')[2]} ({report.name})"
        reports.append(report)
    return reports


def check_task(config: RunConfig, *, rows: int, seed: int = 0) -> TaskReport:
    """Look at a task.

    rows: how many are drawn, of each split. Raises UserError where it can't be made.
    """
    with warned() as notes:
        report = _check_task(config, rows=rows, seed=seed)
    report.notes[:0] = notes
    return report


def _check_task(config: RunConfig, *, rows: int, seed: int) -> TaskReport:
    if problems := task_problems(config):
        raise UserError(*problems)
    options = task_options(config.task, tokenizer=config.tokenizer or config.model)
    try:
        task = make_task(config.task.kind, **options)
        splits = {split: task.rows(split) for split in get_args(Split)}
    except (ValueError, ImportError) as error:
        raise UserError(f"task: {error}") from error
    report = TaskReport(name=task.name, sizes={name: len(found) for name, found in splits.items()})
    for split in splits:
        if sets := evaluation_sets(task, split):
            named = ", ".join(f"{name} ({n})" for name, n in sets)
            report.notes.append(f"{split} consists of {named}")
    draw = random.Random(seed)
    drawn = {name: draw.sample(range(len(s)), min(rows, len(s))) for name, s in splits.items()}
    chosen = {name: [splits[name][i] for i in sorted(places)] for name, places in drawn.items()}
    _look_at_prompts(config, task, splits, chosen, report)
    asyncio.run(_try_reward(config, task, chosen["train"] + chosen["eval"], options, report))
    report.problems += [*_what_is_wrong(config, report)]
    return report


def _look_at_prompts(
    config: RunConfig,
    task: Task,
    splits: dict[Split, Sequence[Row]],
    chosen: dict[Split, list[Row]],
    report: TaskReport,
) -> None:
    tokenizer = _tokenizer(config, report)
    try:
        for split, found in chosen.items():
            for row in found:
                if tokenizer is None:
                    report.shown.append(
                        Shown(split=split, row=row.index, text=_text(task, row), tokens=None)
                    )
                    continue
                ids = encode_prompt(task, row, tokenizer)
                text = tokenizer.decode(ids)
                report.shown.append(Shown(split=split, row=row.index, text=text, tokens=len(ids)))
        if tokenizer is not None:
            _measure(config, task, splits, tokenizer, report)
    except Exception as error:  # whatever a template or a tokenizer raises: it is the finding
        report.problems.append(not_encoded(config.tokenizer or config.model, error))


def _measure(
    config: RunConfig,
    task: Task,
    splits: dict[Split, Sequence[Row]],
    tokenizer: Any,
    report: TaskReport,
) -> None:
    """Count the tokens of all prompts, and say which are too long."""
    room = room_for_prompts(config)
    for split, found in splits.items():
        every = -(-len(found) // COUNTED_PROMPTS) or 1
        lengths = {
            i: len(encode_prompt(task, found[i], tokenizer)) for i in range(0, len(found), every)
        }
        report.lengths += lengths.values()
        if every > 1:
            report.notes.append(f"of {split}, {len(lengths)} of {len(found)} prompts are measured")
        long = [i for i, n in lengths.items() if room is not None and n > room]
        if long:
            report.problems.append(
                f"{len(long)} of {len(lengths)} prompts of {split} have more than the {room} "
                f"tokens that sampling.max_tokens {config.sampling.max_tokens} leaves for them, "
                f"first row {long[0]} with {lengths[long[0]]}: raise generator.max_model_len, or "
                "leave them out (task.max_prompt_tokens with task.bad_rows: skip, where the task "
                "has these)"
            )
    report.lengths.sort()


def _tokenizer(config: RunConfig, report: TaskReport) -> Any:
    from asyncds.engine.tokenizer import load_tokenizer

    try:
        return load_tokenizer(config.tokenizer or config.model)
    except ValueError as error:
        report.notes.append(
            f"prompts are shown without the model's template and not counted: {error}"
        )
        return None


def _text(task: Task, row: Row) -> str:
    prompt = task.prompt(row)
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"[{turn['role']}] {turn['content']}" for turn in prompt)


async def _try_reward(
    config: RunConfig, task: Task, rows: list[Row], options: dict[str, Any], report: TaskReport
) -> None:
    """Judge completions under the limits of a run, in a process of its own."""
    answers = [_own_answers(task, row) for row in rows]
    turns = [task.own_turns(row) for row in rows] if isinstance(task, Environment) else []
    settings = config.scoring.model_copy(update={"workers": 1})
    scorer = ProcessPoolScorer(kind=config.task.kind, options=options, settings=settings)
    rubbish = {
        "nothing": "",
        "an unrelated sentence": UNRELATED,
        "a very long text": LONG * (4 * config.sampling.max_tokens // len(LONG) + 1),
    }
    async with scorer:
        if rows:
            await _judged(scorer, rows[0], "")  # what a first call loads is not timed
        if turns:
            await _play(config, scorer, rows, turns, report)
        elif all(answers) and rows:
            form = await _best_form(scorer, rows, answers, report)
            others = Tried(kind=OTHER)
            for i, row in enumerate(rows):
                other = answers[i - 1][form]
                if other != answers[i][form]:
                    await _try(scorer, others, row, other)
            report.tried += [others] if others.replies else []
        elif rows:
            report.notes.append(
                "no right completion of these rows is known (a data set's task.answer, the method "
                "own_answers of a task of your own), so only others are tried"
            )
        for kind, completion in rubbish.items():
            tried = Tried(kind=kind)
            for row in rows:
                await _try(scorer, tried, row, completion)
            report.tried.append(tried)


async def _play(
    config: RunConfig,
    scorer: ProcessPoolScorer,
    rows: list[Row],
    turns: list[Sequence[str]],
    report: TaskReport,
) -> None:
    """Play an episode of each row: its own turns where they are known, and another row's."""
    if not all(turns):
        report.notes.append(
            "no episode is known that solves these rows (the method own_turns of an environment of "
            "your own), so the one that is shown has no sense"
        )
        nonsense = [UNRELATED] * config.episodes.max_turns
        report.episode = await play(scorer, rows[0], nonsense)
        return
    for kind, shift in ((OWN, 0), (OTHER, 1)):
        tried = Tried(kind=kind)
        for i, row in enumerate(rows):
            played = await play(scorer, row, turns[i - shift])
            report.episode = report.episode or played
            tried.replies.append((row, played.text, played.reply))
            tried.seconds += played.seconds
        report.tried.append(tried)


async def _best_form(
    scorer: ProcessPoolScorer, rows: list[Row], answers: list[list[str]], report: TaskReport
) -> int:
    """Try every form of the own answers, and keep the one that earns most."""
    forms = []
    for form in range(min(map(len, answers))):
        tried = Tried(kind=OWN)
        for row, candidates in zip(rows, answers, strict=True):
            await _try(scorer, tried, row, candidates[form])
        forms.append(tried)
        if tried.correct == len(rows):
            break
    best = max(range(len(forms)), key=lambda i: (forms[i].correct, sum(forms[i].rewards)))
    report.tried.append(forms[best])
    return best


def _own_answers(task: Task, row: Row) -> list[str]:
    say = getattr(task, "own_answers", None)
    return list(say(row)) if say is not None else []


async def _try(scorer: ProcessPoolScorer, tried: Tried, row: Row, completion: str) -> None:
    reply, seconds = await _judged(scorer, row, completion)
    tried.replies.append((row, completion, reply))
    tried.seconds.append(seconds)


async def _judged(scorer: ProcessPoolScorer, row: Row, completion: str) -> tuple[Reply, float]:
    started = time.monotonic()
    (reply,) = [reply async for reply in scorer.judge(row, [completion])]
    return reply, time.monotonic() - started


def _what_is_wrong(config: RunConfig, report: TaskReport) -> list[str]:
    problems = []
    for tried in report.tried:
        if errors := tried.errors:
            problems.append(
                f"{tried.kind}: {len(errors)} of {len(tried.replies)} could not be judged "
                f"({errors[0].reason}{': ' + errors[0].detail if errors[0].detail else ''})"
            )
        elif tried.kind == OWN and tried.correct < len(tried.replies):
            problems.append(_not_earned(tried))
        elif tried.kind not in (OWN, OTHER) and tried.correct:
            problems.append(
                f"{tried.kind} is correct in {tried.correct} of {len(tried.replies)} rows: the "
                "reward asks for too little"
            )
        elif tried.kind == OTHER and tried.correct == len(tried.replies):
            problems.append(f"{OTHER} is always correct: the reward does not read the answer")
    rewards = {reward for tried in report.tried for reward in tried.rewards}
    if len(rewards) == 1:
        problems.append(f"every completion earned {rewards.pop():g}: nothing can be learnt from it")
    slowest = max((s for tried in report.tried for s in tried.seconds), default=0.0)
    limit = config.scoring.timeout_seconds
    if slowest > limit / 2:
        problems.append(
            f"a judgement took {slowest:.2f} s, and scoring.timeout_seconds is {limit:g}: make the "
            "reward faster, or raise it"
        )
    elif slowest > SLOW_SECONDS:
        report.notes.append(
            f"a judgement took up to {slowest:.1f} s: {config.scoring.workers} scoring.workers "
            f"judge about {config.scoring.workers / slowest:.1f} completions a second"
        )
    return problems


def _not_earned(tried: Tried) -> str:
    row, completion, reply = next(
        one for one in tried.replies if one[2].score is None or not one[2].score.correct
    )
    reward = reply.score.reward if reply.score else 0.0
    return (
        f"the row's own answer is not correct in {len(tried.replies) - tried.correct} of "
        f"{len(tried.replies)} rows, such as row {row.index}: {completion!r:.80} earned {reward:g} "
        "(a data set's answers are also tried in <answer> tags, in a box, and after ####)"
    )
