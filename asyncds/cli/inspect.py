"""`asyncds inspect`: rollouts from a run's journal, one row per completion."""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from rich.table import Table
from rich.text import Text

from asyncds.launch.errors import UserError
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_reader import GroupRow
from asyncds.telemetry.files import replace_file
from asyncds.telemetry.rollouts.read import read_rollout, tokenizer_of
from asyncds.telemetry.rollouts.reader import reader_page
from asyncds.telemetry.rollouts.rows import Row, rows_of
from asyncds.telemetry.rollouts.texts import decoder

TokensBy = Literal["logprob", "version"]
_LIKELY = (0.9, 0.5, 0.2, 0.05, 0.01)
"""Probabilities below which a token is redder, as on the page."""
_LEVELS = ("#fff3d6", "#ffe0a8", "#ffc27a", "#ff9d5c", "#f26b5e")
_VERSIONS = ("#a9c4f5", "#f5c9a0", "#a5ddd4", "#d5bdea", "#e6d39a", "#f0b5cc")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Choice of completions; None: all.

    steps: first and last, as in metrics.jsonl, 1 is the first batch. evaluation: its id. set: the
    task, or the evaluation set, that the problem is of. version: some token was sampled by these
    weights. purpose: train or eval. reason: the limit that ended them, or why they have no score.
    lag, turns: at least so many weight versions, and times that the policy spoke. text: in the
    prompt or what followed, in any case.
    """

    steps: tuple[int, int] | None = None
    evaluation: int | None = None
    set: str | None = None
    version: int | None = None
    correct: bool | None = None
    purpose: str | None = None
    reason: str | None = None
    lag: int | None = None
    turns: int | None = None
    text: str | None = None

    def wants(self, row: Row) -> bool:
        """Whether this completion, of a group that matches, does."""
        turns = sum(turn["sampled"] for turn in row["turns"])
        return (
            self.set in (None, row["set"])
            and (self.version is None or row["oldest"] <= self.version <= row["newest"])
            and self.correct in (None, row["correct"])
            and self.reason in (None, row["reason"])
            and (self.lag is None or (row["lag"] is not None and row["lag"] >= self.lag))
            and (self.turns is None or turns >= self.turns)
            and (self.text or "").lower() in f"{row['prompt']}\n{row['completion']}".lower()
        )


def steps_of(text: str) -> tuple[int, int]:
    """The first and last step of `3` or `3-8`. Raises ValueError."""
    first, _, last = text.partition("-")
    steps = int(first), int(last or first)
    if not 1 <= steps[0] <= steps[1]:
        raise ValueError
    return steps


def read_completions(run: Path, only: Filter, *, singles: int = 0) -> Iterator[Row]:
    """The completions of a run in lease order, as rows (`rows_of`).

    Of groups whose samples were deleted there are none. singles: as in `read_rollout`.

    Raises UserError if there is no such evaluation, or no journal; JournalError if it can't be
    read.
    """
    with _journal(run) as journal:
        _check(journal, run, only)
        sets = journal.row_sets()
        decode = decoder(tokenizer_of(yaml.safe_load((run / "config.yaml").read_text())))
        for group in _groups(journal, only):
            rollout = read_rollout(group, decode, singles=singles)
            yield from filter(only.wants, rows_of(rollout, sets))


def count_deleted(run: Path, only: Filter) -> int:
    """The groups whose samples were deleted, of those that match. Raises as `read_completions`."""
    with _journal(run) as journal:
        return sum(not group.payload for group in _groups(journal, only))


def write_page(run: Path, rows: Sequence[Row], file: Path) -> None:
    """Write a page to read completions on, which is one file. Raises UserError."""
    name = yaml.safe_load((run / "config.yaml").read_text()).get("name", run.name)
    note = f"{len(rows)} completions, chosen by asyncds inspect."
    try:
        replace_file(file, reader_page(rows, run=name, note=note).alone)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def printable(text: str) -> str:
    """A model's text, made harmless for a terminal: control characters are shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def table(rows: Sequence[Row], *, by: TokensBy | None = None) -> Table:
    """Completions, for a terminal. by: what tokens are coloured by."""
    view = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    if named := any(row["set"] for row in rows):
        view.add_column("set", no_wrap=True)
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
            *([row["set"]] if named else []),
            where,
            str(row["row"]),
            str(oldest) if oldest == newest else f"{oldest}–{newest}",
            _or_dash(row["lag"]),
            Text("✓", style="green") if row["correct"] else Text("✗", style="red"),
            _reward(row),
            f"{row['mean_logprob']:.2f}",
            Text(printable(row["prompt"])),
            _completion(row, by),
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
    first, last = only.steps or (None, None)
    return journal.groups(
        from_step=None if first is None else first - 1,
        to_step=None if last is None else last - 1,
        evaluation=only.evaluation,
        version=only.version,
        correct=only.correct,
        purpose=only.purpose,
    )


def _completion(row: Row, by: TokensBy | None) -> Text:
    """The turns of a completion, of an episode each on lines of its own; what ended it."""
    parts: list[str | Text] = []
    for turn in row["turns"]:
        mark, style = ("▸ ", "") if turn["sampled"] else ("◂ ", "cyan")
        tokens = turn["tokens"] if by else [[turn["text"]]]
        words = [Text(printable(text), style=_style(by, *values)) for text, *values in tokens]
        parts.append(Text.assemble(mark if len(row["turns"]) > 1 else "", *words, style=style))
    if not row["finished"]:
        parts.append(f"[…] ended by {row['reason']}" if row["reason"] else "[…]")
    elif row["reason"]:
        parts.append(f"no score: {row['reason']}")
    return Text("\n").join(map(Text.assemble, parts))


def _style(
    by: TokensBy | None, id: int = 0, logprob: float | None = None, version: int | None = None
) -> str:
    """The colour of a token: the less likely, the redder; or one of six for its version."""
    if by is None or logprob is None or version is None:
        return ""
    if by == "version":
        return f"black on {_VERSIONS[version % len(_VERSIONS)]}"
    level = sum(math.exp(logprob) < least for least in _LIKELY)
    return f"black on {_LEVELS[level - 1]}" if level else ""


def _reward(row: Row) -> str:
    """The reward, and below it what it is made of, where that is several things."""
    parts = row["parts"] if len(row["parts"]) > 1 else {}
    return "\n".join([f"{row['reward']:.3g}", *(f"{n} {v:.3g}" for n, v in parts.items())])


def _or_dash(value: int | None) -> str:
    return "–" if value is None else str(value)
