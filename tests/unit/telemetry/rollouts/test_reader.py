"""Reading rollouts: rows of a real journal, and what a real browser makes of them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.rollout.journal import Journal
from asyncds.telemetry.rollouts.read import Rollout, read_rollout
from asyncds.telemetry.rollouts.reader import reader_page, spread, within
from asyncds.telemetry.rollouts.rows import Row, rows_of
from asyncds.telemetry.rollouts.texts import decoder
from tests.support.browser import Tab, browser
from tests.support.played import add_group, episode_group
from tests.support.synthetic_run import make_run

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("read"), steps=3)
    add_group(run, episode_group(hostile=HOSTILE), step=3)
    return run


def read(run: Path, *, singles: int = 0, **of: Any) -> list[tuple[Rollout, list[Row]]]:
    with closing(Journal(run / "journal.db", read_only=True)) as journal:
        decode = decoder(str(run.parents[1] / "models" / "tiny-countdown"))
        sets = journal.row_sets()
        found = [read_rollout(group, decode, singles=singles) for group in journal.groups(**of)]
        return [(rollout, list(rows_of(rollout, sets))) for rollout in found]


def test_an_episode_is_told_turn_by_turn(run: Path) -> None:
    [(_, [first, second])] = read(run, step=3, singles=100)
    assert [(t["text"], t["sampled"]) for t in first["turns"]] == [
        ("2 * 3 =", True),
        (f"{HOSTILE} :", False),
        ("2 * 3", True),
    ]
    assert (first["reason"], second["reason"]) == ("", "turns")
    assert (first["tokens"], second["tokens"]) == (8, 6)
    assert first["parts"] == {"calls": 1, "tool_errors": 0}
    tokens = [token for turn in first["turns"] for token in turn["tokens"]]
    assert "".join(t[0] for t in first["turns"][0]["tokens"]) == "2 * 3 ="
    assert [t[2] for t in tokens] == [0, -0.5, -1, -1.5, None, None, -2, -2.5, -3, -3.5]
    assert [t[3] for t in tokens] == [3, 3, 3, 3, None, None, 3, 4, 4, 4]


def test_a_long_turn_loses_the_middle_of_its_tokens(run: Path) -> None:
    [(_, [first, _])] = read(run, step=3, singles=2)
    assert [t[0] for t in first["turns"][0]["tokens"]] == ["2", "… 2 tokens …", "="]
    assert first["turns"][0]["text"] == "2 * 3 ="
    [(_, [first, _])] = read(run, step=3)
    assert [turn["tokens"] for turn in first["turns"]] == [[], [], []]


def test_rows_of_evaluations_are_in_their_sets(run: Path) -> None:
    found = {rows[0]["row"]: rows[0]["set"] for _, rows in read(run, evaluation=1)}
    assert found == {row: "AIME" if row < 4 else "MATH" for row in range(12)}
    assert {row["set"] for _, rows in read(run, purpose="train") for row in rows} == {""}


def test_calls_of_tools_are_named() -> None:
    from asyncds.telemetry.rollouts.rows import _calls

    assert _calls('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>') == ["add(a=1)"]
    assert _calls("<tool_call>{</tool_call>")[0].startswith("unreadable: ")
    assert _calls("2 + 3") == []


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 9))
def test_groups_are_chosen_from_the_whole_run(n: int, newest: int, others: int) -> None:
    leases = list(range(3, 3 + n))
    chosen = spread(leases, newest=newest, others=others)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(n, newest + others)
    assert chosen[-newest:] == leases[-newest:]
    assert chosen[:1] == leases[:1] or others == 1 or n == 0


def test_a_page_has_so_many_tokens_and_no_more(run: Path) -> None:
    rows = [row for _, some in read(run, singles=100, step=3) for row in some] * 9
    kept = list(within(rows, tokens=35))
    assert sum(len(t["tokens"]) for row in kept for t in row["turns"]) == 28
    assert len(kept) == 3


# --- in a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """The page as a file, read from the disk."""
    directory = tmp_path_factory.mktemp("reader")
    rows = [row for _, some in read(run, singles=100) for row in some]
    page = reader_page(rows[::-1], run="<b>n</b>", note="all of them").alone
    (directory / "page.html").write_text(page)
    with browser(directory / "profile") as tab:
        tab.open((directory / "page.html").as_uri())
        yield tab


@pytest.fixture(autouse=True)
def _no_filter(request: pytest.FixtureRequest) -> None:
    if "tab" in request.fixturenames:
        request.getfixturevalue("tab").evaluate("at('filters').reset(); choose()")


def choose(tab: Tab, **values: object) -> int:
    """Set filters; returns how many completions are left."""
    for id, value in values.items():
        tab.evaluate(f"at('{id}').value = '{value}'")
    tab.evaluate("at('filters').dispatchEvent(new Event('input'))")
    return int(tab.evaluate("wanted.length"))


def test_turns_are_shown_with_what_the_environment_said(tab: Tab) -> None:
    assert choose(tab, turns=2, verdict="right") == 1
    tab.until("document.querySelectorAll('.rollout[open] .turn').length", lambda n: n == 4)
    turns = tab.evaluate(
        "[...document.querySelectorAll('.turn')].map(t => [t.className, t.innerText])"
    )
    assert [kind for kind, _ in turns] == [
        "turn prompt",
        "turn policy",
        "turn environment",
        "turn policy",
    ]
    assert turns[1][1] == "policy, version 3\n2 * 3 ="
    assert HOSTILE in turns[2][1]
    assert turns[3][1].startswith("policy, versions 3–4\n2 * 3")
    assert tab.evaluate("document.querySelectorAll('main script, main b').length") == 0
    assert tab.evaluate("at('run').innerText") == "<b>n</b>"
    assert tab.problems == []
    assert len(tab.requests) == 1, "it asks nobody for anything"


def test_tokens_are_coloured_as_is_chosen(tab: Tab) -> None:
    choose(tab, turns=2, verdict="right")
    tab.until("document.querySelectorAll('.rollout[open] .turn').length")

    def colours() -> list[str]:
        tokens = "[...document.querySelectorAll('.policy pre span')]"
        return list(tab.evaluate(f"{tokens}.map(t => getComputedStyle(t).backgroundColor)"))

    by_probability = colours()
    assert len(set(by_probability)) > 3
    assert by_probability[0] == "rgba(0, 0, 0, 0)", "a certain token stands out least"
    tab.evaluate("document.querySelector('input[value=version]').click()")
    by_version = colours()
    assert by_version == [by_version[0]] * 5 + [by_version[-1]] * 3
    assert by_version[0] != by_version[-1]
    tab.evaluate("document.querySelector('input[value=nothing]').click()")
    assert len(set(colours())) == 1
    tab.evaluate("document.querySelector('input[value=logprob]').click()")
    title = tab.evaluate("document.querySelectorAll('.policy pre span')[1].title")
    assert title == "log p -0.500, p 60.7%, version 3, token 102"


FILTERS: dict[str, tuple[dict[str, object], Callable[[Row], bool]]] = {
    "a limit": ({"reason": "turns"}, lambda r: r["reason"] == "turns"),
    "no limit": ({"reason": "itself"}, lambda r: not r["reason"]),
    "training": ({"purpose": "training"}, lambda r: r["purpose"] == "train"),
    "evaluation": ({"purpose": "evaluation 2"}, lambda r: r["evaluation"] == 2),
    "set": ({"set": "AIME"}, lambda r: r["set"] == "AIME"),
    "verdict": ({"verdict": "wrong"}, lambda r: not r["correct"]),
    "steps": ({"first": 2, "last": 3}, lambda r: r["step"] in (2, 3)),
    "lag": ({"lag": 1}, lambda r: (r["lag"] or 0) >= 1),
    "turns": ({"turns": 2}, lambda r: len(r["turns"]) > 1),
    "text": ({"text": "</SCRIPT> :"}, lambda r: len(r["turns"]) > 1 and r["correct"]),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_choose(run: Path, tab: Tab, name: str) -> None:
    values, wanted = FILTERS[name]
    everything = [row for _, rows in read(run) for row in rows]
    expected = sum(map(wanted, everything))
    assert 0 < expected < len(everything)
    assert choose(tab, **values) == expected
    assert tab.evaluate("at('count').innerText").startswith(f"{expected} of {len(everything)}")


def test_more_are_shown_when_asked_for(tab: Tab) -> None:
    shown = "document.querySelectorAll('.rollout').length"
    assert tab.evaluate(shown) == 30
    tab.evaluate("at('more').click()")
    assert tab.evaluate(shown) == 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(tab: Tab, width: int, scheme: str) -> None:
    tab.show_as(width=width, scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
