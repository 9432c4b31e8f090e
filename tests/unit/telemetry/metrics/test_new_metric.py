"""A new metric of the learner is a line that computes it and a declaration; the rest follows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from asyncds.algo.diagnostics import summarise
from asyncds.algo.sums import Sums
from asyncds.telemetry.metrics.catalogue import CATALOGUE
from asyncds.telemetry.metrics.docs import filled
from asyncds.telemetry.metrics.registry import build_metrics
from asyncds.telemetry.report.charts import report_charts
from asyncds.telemetry.report.page import write_report
from asyncds.telemetry.trackers.tracker import step_numbers
from services.learner.inbox import Inbox
from tests.support.html_page import Page
from tests.support.paths import ROOT
from tests.support.synthetic_run import make_run
from tests.unit.services.learner.test_loop import MockLink, MockWriter, make_learner

DECLARATION = """
from asyncds.telemetry.metrics.catalogue import CATALOGUE
from asyncds.telemetry.metrics.declaration import Chart, Metric, Section

surprise = Metric(
    role="learner",
    name="surprise",
    help="Mean surprise at a token",
    unit="nats per token",
    record="batch",
    key="surprise",
    chart=Chart(
        title="Surprise", note="How odd the samples are.", section=Section.OBJECTIVE
    ),
    curve="mean",
)
CATALOGUE["learner"] = (*CATALOGUE["learner"], surprise)
"""
TEXT = "Mean surprise at a token [nats per token]"


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[str, list[dict[str, float]]]:
    """/metrics, and the reports of a learner that computes it; engine and link are mocked."""
    declared: dict[str, Any] = {}
    monkeypatch.setitem(CATALOGUE, "learner", CATALOGUE["learner"])  # taken back afterwards
    exec(DECLARATION, declared)

    def computing(sums: Sums) -> dict[str, float]:
        return {**summarise(sums), "surprise": 0.25}

    monkeypatch.setattr("services.learner.learner.summarise", computing)
    monkeypatch.setattr("services.learner.checkpoints.CheckpointWriter", MockWriter)
    metrics, inbox = build_metrics("learner"), Inbox()
    link = MockLink(inbox)
    learner = make_learner(tmp_path, metrics)
    assert learner.run(link=cast(Any, link), inbox=inbox, publisher=None) == "done"
    return generate_latest(metrics.registry).decode(), link.reports[1:]


def test_it_is_found_everywhere(
    reports: tuple[str, list[dict[str, float]]], tmp_path: Path
) -> None:
    exported, reported = reports
    assert f"# HELP asyncds_learner_surprise {TEXT}" in exported
    assert "asyncds_learner_surprise 0.25" in exported

    run = make_run(tmp_path / "made")
    lines = [
        json.loads(line) | {f"learner/{key}": value for key, value in report.items()}
        for line, report in zip(
            (run / "metrics.jsonl").read_text().splitlines(), reported, strict=False
        )
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(write_report(run).read_text())
    assert "How odd the samples are." in page.text
    (chart,) = [c for c in report_charts(lines, [], {}) if c.title == "Surprise"]
    assert chart.legend == [(0, "mean")]
    assert step_numbers(lines[0])["learner/surprise"] == 0.25

    row = f"| `asyncds_learner_surprise` | gauge |  | {TEXT} | `learner/surprise` |"
    assert row in filled((ROOT / "docs/metrics.md").read_text("utf-8")).splitlines()


def test_it_is_on_the_dashboard(tmp_path: Path) -> None:
    for source in (ROOT / "deploy/grafana").glob("*.py"):
        shutil.copy(source, tmp_path)
    (tmp_path / "main.py").write_text(f"{DECLARATION}\nimport build\n\nbuild.write()\n")
    subprocess.run([sys.executable, "main.py"], cwd=tmp_path, check=True, timeout=60)
    panels = json.loads((tmp_path / "run.json").read_text())["panels"]
    (panel,) = [p for p in panels if p["title"] == "Surprise"]
    assert panel["description"].endswith(f"- asyncds_learner_surprise: {TEXT}")
    (target,) = panel["targets"]
    assert "asyncds_learner_surprise{namespace=~" in target["expr"]
    assert target["legendFormat"] == "{{run}} mean"
