"""How `asyncds task check` looks in a terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from asyncds.cli.inspect import printable
from asyncds.cli.task_check import Shown, TaskReport, Tried
from asyncds.cli.task_episode import PlayedEpisode

LONGEST_PROMPT = 1_200
LONGEST_COMPLETION = 50


def view(report: TaskReport) -> Group:
    """The whole report."""
    return Group(*_parts(report))


def _parts(report: TaskReport) -> Iterator[RenderableType]:
    sizes = ", ".join(f"{n:,} {name}" for name, n in report.sizes.items() if n)
    yield Text.assemble(("task ", "dim"), (report.name, "bold"), f"   {sizes}")
    if report.lengths:
        least, middle, most = (report.lengths[i] for i in (0, len(report.lengths) // 2, -1))
        spread = f"{least} to {most} tokens, half of them up to {middle}"
        yield Text(f"prompts of {f'{most} tokens' if least == most else spread}")
    yield Text("\nPrompts, as the model sees them", style="bold")
    for shown in report.shown:
        yield from _prompt(shown)
    if report.episode is not None:
        yield Text("\nAn episode, turn by turn", style="bold")
        yield from _episode(report.episode)
    yield Text("\nThe reward", style="bold")
    yield _rewards(report.tried)
    for note in report.notes:
        yield Text(f"\nnote: {printable(note)}", style="yellow")
    for problem in report.problems:
        yield Text(f"\nproblem: {printable(problem)}", style="bold red")
    if not report.problems:
        yield Text("\nnothing is wrong with it", style="green")


def _prompt(shown: Shown) -> Iterator[RenderableType]:
    tokens = "" if shown.tokens is None else f", {shown.tokens} tokens"
    yield Text(f"{shown.split}, row {shown.row}{tokens}", style="dim")
    yield Padding(Text(_middle_out(printable(shown.text), LONGEST_PROMPT)), (0, 0, 0, 2))


def _episode(played: PlayedEpisode) -> Iterator[RenderableType]:
    yield Text(f"row {played.row.index}", style="dim")
    for words, own in played.said:
        mark, style = ("▸ ", "") if own else ("◂ ", "cyan")
        text = _middle_out(printable(words), LONGEST_PROMPT)
        yield Padding(Text(f"{mark}{text}", style=style), (0, 0, 0, 2))
    score, reason = played.reply.score, played.reply.reason
    if not played.ended:
        yield Text("  … and it goes on: a limit of `episodes` ends it", style="dim")
    if score is None:
        yield Text(f"  no score: {reason} {printable(played.reply.detail)}".rstrip(), style="red")
        return
    parts = "".join(f", {name} {value:.3g}" for name, value in score.parts.items())
    verdict = "correct" if score.correct else "not correct"
    yield Text(f"  reward {score.reward:.3g}, {verdict}{parts}", style="dim")


def _rewards(found: list[Tried]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("completion")
    table.add_column("such as", overflow="fold")
    for name in ("reward", "correct", "longest"):
        table.add_column(name, justify="right", no_wrap=True)
    for tried in found:
        low, high = min(tried.rewards), max(tried.rewards)
        example = " ".join(tried.replies[0][1].split())
        table.add_row(
            tried.kind,
            Text(_middle_out(printable(example), LONGEST_COMPLETION), style="dim"),
            f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}",
            f"{tried.correct} of {len(tried.replies)}",
            f"{1000 * max(tried.seconds):.0f} ms",
        )
        parts = tried.replies[0][2].score.parts if tried.replies[0][2].score else {}
        if len(parts) > 1:
            said = ", ".join(f"{name} {value:.3g}" for name, value in parts.items())
            table.add_row("", Text(said, style="dim"), "", "", "")
    return table


def _middle_out(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} […] {text[-half:]}"
