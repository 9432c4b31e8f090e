"""Traces: ids that all processes agree on, and the way to a real collector over HTTP."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncds.config.load import ConfigError, parse_config
from asyncds.config.operation import TracesConfig
from asyncds.telemetry.metrics.declaration import Role
from asyncds.telemetry.traces import otlp
from asyncds.telemetry.traces.spans import Trace, attempt_key
from asyncds.telemetry.traces.traces import Traces, missing_package
from tests.support.otlp_collector import Collector, collecting

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def traces_of(endpoint: str, *, role: Role = "coordinator", sample: float = 1.0) -> Traces:
    config = TracesConfig(endpoint=endpoint, sample=sample)
    traces = Traces(config, run="r", role=role, name=f"{role}-0")
    traces.run_id = "0f"
    return traces


def the(trace: Trace | None) -> Trace:
    assert trace is not None
    return trace


def test_spans_of_two_processes_are_one_trace(collector: Collector) -> None:
    """What the parent is called is all that the child's process knows of it."""
    for role in ("generator", "coordinator"):
        with closing(traces_of(collector.endpoint, role=role)) as traces:
            trace = the(traces.lease(7))
            if role == "generator":
                trace.span("queue", start=20, end=30, parent=attempt_key(2), tokens=3)
            else:
                trace.span(
                    "attempt", key=attempt_key(2), start=15, end=50, error="no", generator="g"
                )
                trace.root("lease", start=10, end=90, row=3, lag=1.5, versions=["a", "b"])
    [(root, attempt, queue)] = collector.traces().values()
    assert (root.name, root.parent, root.start, root.end) == ("lease", "", 10, 90)
    assert root.attributes == {"lease": 7, "row": 3, "lag": 1.5, "versions": ["a", "b"]}
    assert (root.service, root.instance, root.run) == (
        *("asyncds-coordinator", "coordinator-0", "r"),
    )
    assert (attempt.parent, attempt.error, root.error) == (root.id, "no", "")
    assert (queue.parent, queue.start, queue.end) == (attempt.id, 20, 30)
    assert queue.service == "asyncds-generator"
    assert queue.attributes == {"lease": 7, "tokens": 3}


def test_leases_broadcasts_and_runs_have_traces_of_their_own() -> None:
    with closing(traces_of(NOWHERE)) as traces:
        found = {the(traces.lease(1)).id, the(traces.lease(2)).id, the(traces.broadcast(1)).id}
        traces.run_id = "10"
        found.add(the(traces.lease(1)).id)
        assert len(found) == 4


@settings(max_examples=30)
@given(st.floats(0.001, 1), st.floats(0.001, 1))
def test_all_processes_choose_the_same_leases(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    chosen = []
    for share in (low, low, high):
        traces = Traces(None, run="r", role="learner", name="l")
        traces._share, traces._sink, traces.run_id = share, Nothing(), "0f"
        chosen.append({lease for lease in range(100) if traces.lease(lease)})
    assert chosen[0] == chosen[1]
    assert chosen[0] <= chosen[2]
    # By chance: 8 standard deviations, at most.
    assert abs(len(chosen[0]) / 100 - low) <= 8 * (low * (1 - low) / 100) ** 0.5 + 1 / 100


class Nothing:
    """A sink that forgets."""

    def report(self, span: object) -> None: ...

    def close(self) -> None: ...


def test_nothing_is_traced_before_the_run_is_known() -> None:
    with closing(traces_of(NOWHERE)) as traces:
        traces.run_id = ""
        assert traces.lease(1) is None


def test_off_costs_no_import() -> None:
    code = (
        "import sys, services.coordinator.main\n"
        "from asyncds.telemetry.traces.traces import Traces\n"
        "traces = Traces(None, run='r', role='coordinator', name='c')\n"
        "traces.run_id = '0f'\n"
        "assert not traces.on and traces.lease(1) is None\n"
        "traces.close()\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('opentelemetry', 'torch')])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_collector_that_is_not_there_is_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the number of spans that were lost; the library's own lines are kept out."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    monkeypatch.setattr(otlp, "QUEUE", 1024)
    with caplog.at_level(logging.INFO), closing(traces_of(NOWHERE)) as traces:
        for lease in range(2000):
            the(traces.lease(lease)).root("lease", start=1, end=2)
    first, last = (record.getMessage() for record in caplog.records)
    assert f"{NOWHERE} takes no spans (Failed to export" in first
    assert "telemetry.traces.endpoint" in first
    assert last == "2000 of 2000 spans were lost"
    assert logging.getLogger("opentelemetry.exporter").propagate


def test_a_wrong_address_is_named_with_the_answer(
    caplog: pytest.LogCaptureFixture, collector: Collector
) -> None:
    with closing(traces_of(collector.endpoint + "/wrong")) as traces:
        the(traces.lease(1)).root("lease", start=1, end=2)
    assert "(Failed to export spans batch code: 404" in caplog.records[0].getMessage()


def test_a_collector_that_comes_back_is_said(
    caplog: pytest.LogCaptureFixture, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = otlp._Exporter(collector.endpoint)
    answers = iter([otlp.SpanExportResult.FAILURE] * 2 + [otlp.SpanExportResult.SUCCESS] * 2)
    monkeypatch.setattr(exporter._exporter, "export", lambda spans: next(answers))
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            exporter.export([])
    exporter.close()
    first, second = (record.getMessage() for record in caplog.records)
    assert "takes no spans" in first
    assert "takes spans again" in second


def test_a_collector_that_hangs_holds_up_nobody(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers nothing until after `close` has returned."""
    monkeypatch.setattr(otlp, "END_SECONDS", 0.1)
    collector.hang.clear()
    traces = traces_of(collector.endpoint)
    for lease in range(2000):
        the(traces.lease(lease)).root("lease", start=1, end=2)
    traces.close()
    assert collector.spans == []
    assert "2000 of 2000 spans were lost" in caplog.text


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_package() == ""
    monkeypatch.setattr("asyncds.telemetry.traces.traces._DISTRIBUTIONS", ("no-such-package",))
    with pytest.raises(ValueError, match=r"needs the package no-such-package: install `asyncds\["):
        traces_of(NOWHERE)


@pytest.mark.parametrize(
    ("traces", "message"),
    [
        ({"endpoint": "collector:4317"}, r"telemetry\.traces\.endpoint"),
        ({"endpoint": NOWHERE, "sample": 0}, r"telemetry\.traces\.sample"),
        ({}, r"telemetry\.traces: traces go nowhere: give endpoint, or set timeline"),
    ],
)
def test_settings_are_checked(traces: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"model": "m", "telemetry": {"traces": traces}})
