"""`asyncds inspect`: rollouts from a run's journal, one row per completion."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from asyncds.launch.errors import UserError
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_reader import GroupRow
from asyncds.telemetry.rollouts.read import Completion, read_rollout, tokenizer_of
from asyncds.telemetry.rollouts.texts import Decode, decoder


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Choice of completions; None: all.

    step: as in metrics.jsonl, 1 is the first batch. evaluation: its id. version: some token was
    sampled by these weights. purpose: train or eval.
    """

    step: int | None = None
    evaluation: int | None = None
    version: int | None = None
    correct: bool | None = None
    purpose: str | None = None


def read_completions(run: Path, only: Filter) -> Iterator[dict[str, Any]]:
    """The completions of a run in lease order, as plain values.

    Of groups whose samples were deleted there are none.

    Raises UserError if there is no such evaluation, or no journal; JournalError if it can't be
    read.
    """
    with _journal(run) as journal:
        _check(journal, run, only)
        decode = decoder(tokenizer_of(yaml.safe_load((run / "config.yaml").read_text())))
        for group in _groups(journal, only):
            yield from _completions(group, decode, only)


def count_deleted(run: Path, only: Filter) -> int:
    """The groups whose samples were deleted, of those that match. Raises as `read_completions`."""
    with _journal(run) as journal:
        return sum(not group.payload for group in _groups(journal, only))


def printable(text: str) -> str:
    """A model's text, made harmless for a terminal: control characters are shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def table(rows: list[dict[str, Any]]) -> Table:
    """Completions, for a terminal."""
    view = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("step", "row", "version", "lag"):
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("", no_wrap=True)
    view.add_column("reward", justify="right", no_wrap=True)
    view.add_column("log p", justify="right", no_wrap=True)
    view.add_column("prompt", overflow="fold")
    view.add_column("completion", overflow="fold")
    for row in rows:
        oldest, newest = row["oldest"], row["newest"]
        where = f"eval {row['evaluation']}" if row["purpose"] == "eval" else _or_dash(row["step"])
        view.add_row(
            where,
            str(row["row"]),
            str(oldest) if oldest == newest else f"{oldest}–{newest}",
            _or_dash(row["lag"]),
            Text("✓", style="green") if row["correct"] else Text("✗", style="red"),
            _reward(row),
            f"{row['mean_logprob']:.2f}",
            Text(printable(row["prompt"])),
            _completion(row),
        )
    return view


@contextmanager
def _journal(run: Path) -> Iterator[Journal]:
    file = run / "journal.db"
    if not file.exists():
        raise UserError(f"{run} has no journal.db: nothing was sampled yet")
    with closing(Journal(file, read_only=True)) as journal:
        yield journal


def _check(journal: Journal, run: Path, only: Filter) -> None:
    evaluations = journal.evaluations()
    if only.evaluation is not None and only.evaluation not in [e.id for e in evaluations]:
        known = ", ".join(
            f"{e.id} (version {e.version}, temperature {e.temperature:g})" for e in evaluations
        )
        raise UserError(
            f"{run} has no finished evaluation {only.evaluation}: there is {known or 'none'}"
        )


def _groups(journal: Journal, only: Filter) -> Iterator[GroupRow]:
    return journal.groups(
        step=None if only.step is None else only.step - 1,
        evaluation=only.evaluation,
        version=only.version,
        correct=only.correct,
        purpose=only.purpose,
    )


def _completions(group: GroupRow, decode: Decode, only: Filter) -> Iterator[dict[str, Any]]:
    rollout = read_rollout(group, decode)
    for completion in rollout.completions:
        if _wanted(completion, only):
            yield {
                "lease": group.lease,
                "purpose": group.purpose,
                "step": None if group.step is None else group.step + 1,
                "evaluation": group.evaluation,
                "row": group.row,
                "generator": group.generator,
                "oldest": completion.oldest,
                "newest": completion.newest,
                "lag": group.lag,
                "prompt": rollout.prompt,
                "completion": completion.text,
                "turns": [asdict(turn) for turn in completion.turns],
                "answer": completion.answer,
                "answers": completion.answers,
                "reward": completion.reward,
                "parts": completion.parts,
                "correct": completion.correct,
                "finished": completion.finished,
                "tokens": completion.tokens,
                "mean_logprob": completion.mean_logprob,
            }


def _wanted(completion: Completion, only: Filter) -> bool:
    in_version = only.version is None or completion.oldest <= only.version <= completion.newest
    return in_version and only.correct in (None, completion.correct)


def _completion(row: dict[str, Any]) -> Text:
    """The text; of an episode, what its environment said stands out."""
    turns = row["turns"] or [{"text": row["completion"], "sampled": True}]
    parts = [(printable(turn["text"]), "" if turn["sampled"] else "cyan") for turn in turns]
    return Text.assemble(*parts, "" if row["finished"] else " […]")


def _reward(row: dict[str, Any]) -> str:
    """The reward, and below it what it is made of, where that is several things."""
    parts = row["parts"] if len(row["parts"]) > 1 else {}
    return "\n".join([f"{row['reward']:.3g}", *(f"{n} {v:.3g}" for n, v in parts.items())])


def _or_dash(value: int | None) -> str:
    return "–" if value is None else str(value)
