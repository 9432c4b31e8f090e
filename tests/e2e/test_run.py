"""One asynchronous run, looked at from all sides, and continued."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from asyncds.protocol.codec import decode_group, unpack_group
from asyncds.rollout.journal import Journal
from asyncds.telemetry.metrics.catalogue import CATALOGUE
from tests.e2e.harness import Result, Runner, free_ports
from tests.support.html_page import Page
from tests.support.otlp_collector import Collector, collecting

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scraped() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def run(runner: Runner, wait_until: Any, scraped: dict[str, str], collector: Collector) -> Result:
    first = free_ports(3)
    process = runner.start(
        *runner.command(
            "async",
            f"telemetry.port={first}",
            f"telemetry.traces.endpoint={collector.endpoint}",
            "--trace",
            "steps=10",
            "rollout.max_lag=2",
        )
    )
    lines = runner.root / "async" / "metrics.jsonl"
    wait_until(lambda: lines.exists() and lines.read_text().count("\n") >= 4, process)
    for port, role in enumerate(("coordinator", "learner", "generator"), start=first):
        for page in ("metrics", "healthz", "readyz"):
            url = f"http://127.0.0.1:{port}/{page}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                scraped[f"{role}/{page}"] = answer.read().decode()
    result = runner.finish(process, "async")
    assert result.code == 0, result.output
    return result


def test_summary_has_what_others_rely_on(run: Result) -> None:
    summary = run.summary
    assert summary["status"] == "finished"
    assert (summary["steps"], summary["policy_version"]) == (10, 10)
    assert summary["groups_trained"] == 80
    assert summary["tokens_trained"] == sum(line["tokens"] for line in run.lines)
    assert summary["lag"]["max"] <= 2
    assert 0 <= summary["learner_idle_fraction"] <= 1
    assert 0 < summary["generator_pause_fraction"] < 1
    assert summary["weight_sync_seconds"]["p50"] > 0
    assert 0 < summary["diagnostics"]["ess"]["min"] <= 1
    base, result = summary["eval"]
    assert (base["version"], result["version"]) == (0, 10)
    assert set(base["pass@k"]) == {"1", "4"}
    assert base["n_problems"] == 16


def test_generation_ran_ahead_of_the_learner(run: Result) -> None:
    """Otherwise it is a synchronous run that is called asynchronous."""
    assert run.summary["lag"]["mean"] > 0


def test_versions_of_a_group_are_those_of_its_tokens(run: Result) -> None:
    """Those that lived through an update carry several (tests/integration makes that happen)."""
    for group in Journal(run.directory / "journal.db", read_only=True).groups():
        versions = unpack_group(decode_group(group.payload)).versions
        assert (group.oldest, group.newest) == (versions.min(), versions.max())
        assert group.newest - group.oldest <= 2


def test_evaluations_are_pinned_to_one_version(run: Result) -> None:
    journal = Journal(run.directory / "journal.db", read_only=True)
    for group in journal.groups(purpose="eval"):
        assert group.oldest == group.newest


def test_every_lease_is_accounted_for(run: Result) -> None:
    journal = Journal(run.directory / "journal.db", read_only=True)
    counts = journal.counts()
    assert counts.pop("committed") == 80
    # On a machine that is slow at other times than it was at first, some may come too late.
    assert counts == ({"evicted": n} if (n := journal.ended().get("stale", 0)) else {})


def test_behaviour_policy_is_what_the_learner_thinks_it_is(run: Result) -> None:
    """Log-probs of generator and learner agree where the weights are the same; a few versions
    later they differ by what was learnt since."""
    for line in run.lines:
        on_policy = line["lag_max"] == 0
        assert line["learner/mismatch_kl"] < (1e-8 if on_policy else 0.5)
    assert run.lines[0]["lag_max"] == 0


def test_metrics_of_every_role_are_live(run: Result, scraped: dict[str, str]) -> None:
    for role, table in CATALOGUE.items():
        page = scraped[f"{role}/metrics"]
        for series in table:
            assert f"asyncds_{role}_{series.name}" in page
        assert scraped[f"{role}/healthz"] == "ok\n"
        assert scraped[f"{role}/readyz"] == "ok\n"

    def value(role: str, name: str) -> float:
        lines = scraped[f"{role}/metrics"].splitlines()
        return float(next(x for x in lines if x.startswith(f"asyncds_{role}_{name} ")).split()[1])

    assert value("coordinator", "steps_total") >= 3
    assert value("generator", "policy_version") >= 1
    assert value("learner", "entropy") > 0


def test_the_life_of_every_lease_is_one_trace_of_all_roles(
    run: Result, collector: Collector
) -> None:
    """One machine, so one clock: what lies within what is known to the nanosecond."""
    told = collector.of("lease")
    journal = Journal(run.directory / "journal.db", read_only=True)
    for group in journal.groups(states=["committed"]):
        assert {(s.name, s.service.removeprefix("asyncds-")) for s in told[group.lease]} == {
            *((name, "coordinator") for name in ("lease", "attempt", "journal")),
            *((name, "coordinator") for name in ("buffered", "batched")),
            *((name, "generator") for name in ("queue", "generate", "score", "deliver")),
            ("train", "learner"),
        }
        span = {s.name: s for s in told[group.lease]}
        assert {s.parent for s in span.values()} == {"", span["lease"].id, span["attempt"].id}
        lease, attempt, trained = span["lease"], span["attempt"], span["batched"]
        assert attempt.start <= span["queue"].start <= span["generate"].start
        assert span["generate"].end <= span["score"].start <= span["score"].end <= attempt.end
        assert span["journal"].end <= span["deliver"].end <= lease.end
        assert trained.start <= span["train"].start <= span["train"].end <= trained.end
        assert span["train"].attributes["step"] == group.step == lease.attributes["step"]
        assert (lease.attributes["tokens"], lease.attributes["state"]) == (
            *(group.tokens, "committed"),
        )


def test_every_broadcast_is_a_trace_of_all_who_take_part(run: Result, collector: Collector) -> None:
    told = collector.of("broadcast")
    assert len(told) >= 11
    for spans in told.values():
        assert sorted(s.name for s in spans) == [
            *("broadcast", "prepare", "receive", "send", "transfer"),
        ]
        assert {s.service for s in spans} == {
            *("asyncds-coordinator", "asyncds-generator", "asyncds-learner"),
        }
        assert not any(s.error for s in spans)


def test_a_timeline_shows_what_every_process_did(run: Result) -> None:
    events = json.loads((run.directory / "timeline.json").read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    shown = {(names[e["pid"]], e["name"]) for e in events if e["ph"] in "XbC"}
    assert shown >= {
        *(("coordinator", name) for name in ("turn", "commit", "lease", "prepare", "transfer")),
        *(("learner-0", name) for name in ("wait", "train", "forward", "publish", "send")),
        *(("generator-0", name) for name in ("generate", "score", "receive", "requests")),
        ("generator-0", "pause for a version"),
    }
    assert sum(e["ph"] == "X" and e["name"] == "publish" for e in events) == 10
    assert "timeline.json" in run.output


def test_report_and_logs_are_written(run: Result) -> None:
    page = Page((run.directory / "report.html").read_text())
    assert "svg" in page.tags
    assert page.links == [], "it needs no network"
    for log in ("coordinator-0", "learner-0", "generator-0"):
        assert run.log(log)


def test_final_checkpoint_is_a_model_directory(run: Result) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exported = run.directory / "checkpoints" / "step-10" / "hf"
    AutoModelForCausalLM.from_pretrained(exported)
    assert AutoTokenizer.from_pretrained(exported).decode([1, 2])


def test_inspect_reads_rollouts(run: Result) -> None:
    command = [sys.executable, "-m", "asyncds.cli.main", "inspect", str(run.directory)]
    command += ["--step", "3", "--incorrect", "--json", "--limit", "5"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in printed.splitlines()]
    assert rows
    assert not any(row["correct"] for row in rows)
