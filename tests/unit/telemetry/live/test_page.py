"""The live page: what the server gives away, and what a real browser makes of it."""

import base64
import hashlib
import http.client
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncds.config.load import load_config
from asyncds.protocol.codec import GroupArrays
from asyncds.protocol.records import RunStatus
from asyncds.rollout.journal import Journal
from asyncds.telemetry.live import view as live_view
from asyncds.telemetry.live.page import live_pages, no_live_page
from asyncds.telemetry.live.view import SAMPLES, LiveView
from asyncds.telemetry.metrics.registry import build_metrics
from asyncds.telemetry.rollouts.texts import MOST_CHARACTERS
from asyncds.telemetry.server import MetricsServer
from tests.support.browser import Tab, browser
from tests.support.html_page import Page
from tests.support.played import add_group, episode_group
from tests.support.records import run_status, step_record
from tests.support.synthetic_run import WORDS, make_run

HOSTILE = "<script>alert(1)</script>"
STATUS: dict[str, Any] = {
    "name": "quickstart",
    "state": "running",
    "message": "",
    "step": 3,
    "steps": 200,
    "version": 2,
    "max_lag": 4,
    "outstanding": 41,
    "buffered": 12,
    "waiting_for": "nobody waits",
    "sync_seconds": 0.21,
    "pause_seconds": None,
    "learner": {"phase": "optimizer", "version": 3, "last_seen": 0.2, "idle_fraction": 0.31},
    "evaluation": None,
    "fleet": [
        {
            "name": "generator-0",
            "health": "suspect",
            "version": 2,
            "lag": 0,
            "leases": 12,
            "tokens_per_second": 1712.0,
            "kv_use": 0.12,
            "mismatch": 0.0042,
            "last_seen": 13.0,
        }
    ],
    "revision": "0.3.0.6",
    "dropped": {"stale": 3, "zero_signal": 120},
    "elapsed": 151.0,
    "reward": 0.4123,
    "correct": 0.401,
    "distinct_correct": 2.31,
    "lag_mean": 1.1,
    "lag_max": 2,
    "pass": {"1": 0.312, "4": 0.5, "64": 0.85},
    "base_pass": {"1": 0.157, "64": 0.95},
    "generated_tokens_per_second": 1712.3,
    "trained_tokens_per_second": None,
}


class Live:
    """A run directory, its view, and the real server on loopback."""

    def __init__(self, root: Path) -> None:
        self.run = make_run(root, steps=3, finished=False)
        config = load_config(self.run / "config.yaml")
        self.view = LiveView(config=config, run_dir=self.run, share=1.0)
        self.status = dict(STATUS)
        self.publish()
        self.server: MetricsServer | None = None
        self.port = 0
        self.start()

    def publish(self, **changes: Any) -> None:
        self.status |= changes
        self.view.publish(run_status(self.status))

    def start(self) -> None:
        self.server = MetricsServer(
            registry=build_metrics("coordinator").registry,
            host="127.0.0.1",
            port=self.port,
            healthy=lambda: "",
            ready=lambda: "",
            pages=live_pages(self.view, host="127.0.0.1"),
        )
        self.port = self.server.port

    def stop(self) -> None:
        assert self.server is not None
        self.server.close()

    def get(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response, response.read()

    def details(self) -> Any:
        return json.loads(self.get("/details.json")[1])

    def add_step(self, step: int, **values: Any) -> None:
        with closing(Journal(self.run / "journal.db")) as journal, journal.transaction():
            last = journal.steps()[-1].line()
            journal.add_step(step_record(last | {"step": step} | values))

    def add_group(self, words: list[str], *, correct: bool) -> None:
        """A group of two equal completions."""
        ids = [WORDS.index(word) for word in words]
        arrays = GroupArrays(
            prompt_ids=np.array(ids[:1], np.int32),
            lengths=np.array([len(ids)] * 2, np.int32),
            completion_ids=np.array(ids * 2, np.int32),
            logprobs=np.zeros(len(ids) * 2, np.float32),
            versions=np.zeros(len(ids) * 2, np.int32),
            rewards=np.zeros(2, np.float32),
            correct=np.array([correct] * 2),
            finished=np.ones(2, np.bool_),
            answers={"written": ["a", "a"]},
        )
        add_group(self.run, arrays)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path)
    yield live
    live.stop()


@pytest.fixture
def tab(live: Live, tmp_path: Path) -> Iterator[Tab]:
    with browser(tmp_path / "profile") as tab:
        tab.open(f"http://127.0.0.1:{live.port}/")
        tab.until("document.querySelectorAll('#charts svg').length")
        yield tab


# --- the server ---------------------------------------------------------------------------------


def test_the_page_needs_nothing_else_and_its_policy_allows_nothing_else(live: Live) -> None:
    response, body = live.get("/")
    text = body.decode()
    assert Page(text).links == ["data:,", "rollouts"], "the icon, and another page of its own"
    assert "url(" not in text
    assert "@import" not in text
    policy = dict(
        part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    for tag, rule in (("script", "script-src"), ("style", "style-src-elem")):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[rule] == f"'sha256-{digest}'"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_it_is_read_only(live: Live) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)) as connection:
        connection.request("POST", "/status.json", body=b"{}")
        assert connection.getresponse().status == 501


@pytest.mark.parametrize("path", ["/", "/rollouts", "/status.json", "/details.json"])
def test_a_name_made_to_resolve_to_this_machine_reads_nothing(live: Live, path: str) -> None:
    for host in (f"127.0.0.1:{live.port}", "localhost", "[::1]:80", f"localhost:{live.port}"):
        assert live.get(path, Host=host)[0].status == 200, host
    for host in ("evil.example", f"evil.example:{live.port}", "", "127.0.0.1.evil.example"):
        response, body = live.get(path, Host=host)
        assert response.status == 403, host
        assert b"localhost" in body
    assert live.get("/metrics", Host="prometheus-target:9400")[0].status == 200


def test_where_it_is_not_served_it_says_why() -> None:
    reply = no_live_page("set telemetry.page to true")["/"]({})
    assert (reply.status, reply.body) == (403, b"set telemetry.page to true\n")


def test_what_cannot_be_read_is_said_and_the_server_goes_on(live: Live) -> None:
    (live.run / "journal.db").rename(live.run / "elsewhere.db")
    response, body = live.get("/details.json")
    assert response.status == 500
    assert b"journal.db" in body
    assert live.get("/status.json")[0].status == 200


def test_the_status_is_the_one_published_last(live: Live) -> None:
    live.publish(step=4, reward=float("nan"))
    status = json.loads(live.get("/status.json")[1])
    assert (status["step"], status["reward"]) == (4, None)


def test_details_are_made_once_for_all_who_ask(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    charts = live_view.report_charts

    def counted(lines: Any, *rest: Any, **options: Any) -> Any:
        drawn.append(len(lines))
        return charts(lines, *rest, **options)

    monkeypatch.setattr(live_view, "report_charts", counted)
    threads = [threading.Thread(target=live.details) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [3]
    live.add_step(4)
    assert live.details()["revision"] == "0.3.0.6"
    assert drawn == [3], "the status says nothing new"
    live.publish(revision="0.4.0.6")
    assert live.details()["revision"] == "0.4.0.6"
    assert drawn == [3, 4]


def test_drawing_takes_a_small_share_of_the_time(live: Live) -> None:
    times = iter([0.0, 2.0, 39.9, 40.0, 40.5])
    config = load_config(live.run / "config.yaml")
    view = LiveView(config=config, run_dir=live.run, share=0.05, now=lambda: next(times))
    for revision, drawn in (("0.1", "0.1"), ("0.2", "0.1"), ("0.3", "0.3")):
        view.publish(RunStatus(revision=revision))
        assert json.loads(view.details())["revision"] == drawn


def test_steps_that_were_undone_are_forgotten(live: Live) -> None:
    assert len(live.view._lines) == 0
    live.details()
    assert [line["step"] for line in live.view._lines] == [1, 2, 3]
    with closing(Journal(live.run / "journal.db")) as journal, journal.transaction():
        journal.rewind(1)
    live.add_step(2, reward=0.75)
    live.publish(revision="1.2.0.6")
    live.details()
    assert [line["step"] for line in live.view._lines] == [1, 2]
    assert live.view._lines[-1]["reward"] == 0.75


def test_the_newest_groups_are_shown_and_long_texts_are_cut(live: Live) -> None:
    live.add_group(["7"] * (MOST_CHARACTERS + 1), correct=True)
    rollouts = live.details()["rollouts"]
    assert len(rollouts) == SAMPLES
    assert rollouts[0]["right"] == 2
    ((count, correct, text),) = rollouts[0]["texts"]
    assert (count, correct) == (2, True)
    assert text.startswith("7 7")
    assert text.endswith("7 7")
    assert "characters …" in text
    assert len(text) < MOST_CHARACTERS + 100


def test_without_a_tokenizer_the_texts_that_generators_sent_are_shown(live: Live) -> None:
    shutil.rmtree(live.run.parents[1] / "models")
    with closing(Journal(live.run / "journal.db", read_only=True)) as journal:
        groups = list(journal.groups())
    trained = {g.lease for g in groups if g.purpose == "train"}
    assert "⟨" in live.details()["rollouts"][0]["prompt"], "better than nothing"
    for group in [*groups[: SAMPLES // 2], *groups[-SAMPLES // 2 :]]:
        live.view.texts_came(group.lease, [HOSTILE, *(f"text {i}" for i in range(group.n))])
    live.publish(revision="0.3.1.6")
    shown = live.details()["rollouts"]
    assert {r["lease"] for r in shown} == {g.lease for g in groups[-SAMPLES // 2 :]} & trained
    for rollout in shown:
        assert rollout["prompt"] == HOSTILE
        texts = sorted(text for _, _, text in rollout["texts"])
        assert texts == [f"text {i}" for i in range(rollout["n"])]


def test_evaluations_are_no_rollouts_of_training(live: Live) -> None:
    with closing(Journal(live.run / "journal.db", read_only=True)) as journal:
        trained = [g.lease for g in journal.groups(purpose="train")]
    assert [r["lease"] for r in live.details()["rollouts"]] == sorted(trained)[::-1][:SAMPLES]


def test_samples_that_were_deleted_are_named(live: Live) -> None:
    with closing(Journal(live.run / "journal.db")) as journal, journal.transaction():
        newest = max(g.lease for g in journal.groups(purpose="train"))
        journal.delete_samples([newest])
    rollout, *others = live.details()["rollouts"]
    assert rollout["lease"] == newest
    assert rollout["prompt"].startswith("The samples were deleted")
    assert (rollout["n"], rollout["distinct"], rollout["texts"]) == (8, None, [])
    assert all(other["texts"] for other in others)


def test_a_page_to_read_rollouts_has_new_and_old_ones(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "READ_NEWEST", 2)
    monkeypatch.setattr(live_view, "READ_OTHERS", 3)
    lease = add_group(live.run, episode_group(hostile=HOSTILE), step=3)
    response, body = live.get("/rollouts")
    assert "script-src 'sha256-" in response.headers["Content-Security-Policy"]
    assert HOSTILE not in body.decode()
    (held,) = re.findall('<script id="data" type="application/json">(.*?)</script>', body.decode())
    rows = json.loads(held)["rows"]
    leases = list(dict.fromkeys(row["lease"] for row in rows))
    assert leases[:2] == [lease, lease - 1]
    assert len(leases) == 5
    assert leases[-1] == 1, "from the first on"
    assert [token[3] for token in rows[0]["turns"][2]["tokens"]] == [3, 4, 4, 4]
    assert HOSTILE in rows[0]["turns"][1]["text"]


# --- in a browser -------------------------------------------------------------------------------


def text_of(tab: Tab, id: str) -> str:
    return str(tab.evaluate(f"document.getElementById('{id}').innerText"))


def test_everything_is_there(live: Live, tab: Tab) -> None:
    for id, parts in {
        "name": ("quickstart",),
        "progress": ("step 3 of 200", "version 2", "2:31"),
        "waits": ("nobody waits",),
        "tiles": (
            "0.412",
            "40.1%",
            "31.2%",
            "base 15.7%",
            "2.31",
            "1712",
            "31%",
            "most 2 of 4",
            "–",
        ),
        "fleet": ("optimizer", "generator-0", "suspect", "12%", "0.0042", "silent for 13 s"),
        "work": ("41", "12", "0.21 s"),
        "dropped": ("zero signal", "120", "stale"),
        "charts": ("Right completions", "Entropy", "Lag at consumption", "Throughput"),
        "rollouts": ("right", "✓", "✗"),
        "machine": ("asyncds", "python", "cores"),
    }.items():
        for part in parts:
            assert part in text_of(tab, id), (id, part)
    config = tab.evaluate("document.getElementById('config').textContent")
    assert "groups_per_step: 2" in config
    # Three steps, 1.1 seconds each: known as soon as the charts are there.
    tab.until("document.getElementById('progress').innerText", lambda t: "3:37 to go" in t)
    assert tab.problems == []
    own = f"http://127.0.0.1:{live.port}/"
    assert {r.removeprefix(own) for r in tab.requests} == {"", "status.json", "details.json"}


def test_it_follows_the_run_and_changes_only_what_changed(live: Live, tab: Tab) -> None:
    def seen(title: str) -> str:
        """The drawing of a chart, marked once: a new drawing has no mark."""
        cards = "[...document.querySelectorAll('#charts .card')]"
        return f"{cards}.find(c => c.innerText.includes('{title}')).querySelector('svg').seen"

    tab.evaluate("document.querySelectorAll('#charts svg').forEach(svg => svg.seen = true)")
    live.publish(waiting_for="the learner waits for rollouts", reward=0.5)
    tab.until("document.getElementById('waits').innerText", lambda t: t.endswith("for rollouts"))
    assert "0.500" in text_of(tab, "tiles")
    assert tab.evaluate(seen("Right completions")), "no new step, no new drawing"
    live.add_step(4, reward=0.9)
    live.publish(step=4, revision="0.4.0.6")
    tab.until("document.getElementById('progress').innerText", lambda t: "step 4" in t)
    tab.until(seen("Right completions"), lambda mark: mark is None)
    assert tab.evaluate(seen("Pass@k, base and newest")), "no new evaluation, no new drawing"
    assert tab.problems == []


def test_what_a_model_wrote_is_text(live: Live, tab: Tab) -> None:
    live.add_group([HOSTILE, "&amp;"], correct=False)
    live.publish(revision="0.3.0.7", waiting_for="<img src=x onerror=alert(1)>", name="<b>n</b>")
    tab.until("document.getElementById('rollouts').innerText", lambda t: HOSTILE in t)
    assert "&amp;" in text_of(tab, "rollouts")
    assert text_of(tab, "waits") == "<img src=x onerror=alert(1)>"
    assert text_of(tab, "name") == "<b>n</b>"
    assert tab.evaluate("document.querySelectorAll('main script, main img, main b').length") == 0
    assert tab.problems == []


def test_rollouts_are_read_on_a_page_of_their_own(live: Live, tab: Tab) -> None:
    add_group(live.run, episode_group(hostile=HOSTILE), step=3)
    tab.evaluate("document.querySelector('a[href=rollouts]').click()")
    tab.until("document.querySelectorAll('.turn.environment').length")
    assert HOSTILE in tab.evaluate("document.querySelector('.turn.environment').innerText")
    assert tab.evaluate("document.querySelectorAll('main script').length") == 0
    assert tab.problems == []


def test_its_policy_stops_a_script_that_got_in_all_the_same(live: Live, tab: Tab) -> None:
    """What would happen if a text were ever put in as markup."""
    tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"hit=1\">')")
    tab.evaluate(
        "{const s = document.createElement('script'); s.textContent = 'hit=1';"
        " document.body.append(s)}"
    )
    tab.evaluate("fetch('http://127.0.0.2:9/').catch(() => window.refused = true)")
    tab.until("window.refused")
    assert tab.evaluate("window.hit") is None
    assert any("Content Security Policy" in problem for problem in tab.problems)


def test_a_coordinator_that_is_gone_and_one_that_is_back(live: Live, tab: Tab) -> None:
    live.stop()
    tab.until("document.getElementById('news').innerText", lambda t: "does not answer" in t)
    assert text_of(tab, "state") == "no answer"
    assert "generator-0" in text_of(tab, "fleet"), "what was last known stays"
    live.start()
    tab.until("document.getElementById('state').innerText", lambda t: t == "running")
    assert not text_of(tab, "news")


def test_the_end_of_a_run(live: Live, tab: Tab) -> None:
    live.publish(state="finished", step=200)
    tab.until("document.getElementById('state').innerText", lambda t: t == "finished")
    live.stop()
    tab.until("document.getElementById('news').innerText", lambda t: "report" in t)
    assert text_of(tab, "state") == "finished"
    live.start()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(live: Live, tab: Tab, width: int, scheme: str) -> None:
    tab.show_as(width=width, scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(18, 22, 28)") == (scheme == "dark")


def test_before_anything_happened(tmp_path: Path) -> None:
    live = Live(tmp_path)
    with closing(Journal(live.run / "journal.db")) as journal, journal.transaction():
        journal._db.execute("DELETE FROM groups")
        journal._db.execute("DELETE FROM steps")
        journal._db.execute("DELETE FROM evaluations")
    live.view.publish(RunStatus(name="quickstart", steps=200))
    with browser(tmp_path / "profile") as tab:
        tab.open(f"http://127.0.0.1:{live.port}/")
        tab.until("document.getElementById('state').innerText", lambda t: t == "starting")
        assert "No step" in text_of(tab, "nocharts")
        assert "No group" in text_of(tab, "norollouts")
        assert tab.problems == []
    live.stop()
