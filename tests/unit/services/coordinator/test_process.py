"""The coordinator as a process: its start, its end, and what it never imports."""

import json
import queue
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from asyncds.config.load import load_config
from asyncds.config.operation import CoordinatorConfig
from asyncds.launch.errors import UserError
from asyncds.launch.local import lost, make_run_directory
from asyncds.protocol import wire
from asyncds.rollout.journal import Journal
from asyncds.transport.link import Link
from asyncds.transport.observer import Observer
from asyncds.transport.router import Router
from tests.support.records import evaluation_record

DEADLINE = 60.0
HEAVY = ("torch", "transformers", "vllm", "deepspeed", "datasets", "ray")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(f"name: r\nruns_dir: {tmp_path / 'runs'}\nmodel: none\n")
    return file


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def coordinator(config: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "asyncds.cli.main", "coordinator"),
            *(str(config), f"coordinator.port={port}"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "module",
    [
        "services.coordinator.main",
        "asyncds.cli.main",
        "asyncds.algo.passk",
        "asyncds.algo.diversity",
        "asyncds.transport.link",
        "asyncds.config.load",
    ],
)
def test_no_heavy_library_is_imported(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_it_answers_before_anybody_came(config: Path) -> None:
    port = free_port()
    with coordinator(config, port), closing(Observer(f"tcp://127.0.0.1:{port}")) as observer:
        status = observer.status(DEADLINE)
    assert status is not None
    assert (status.state, status.step) == ("starting", 0)
    assert status.waiting_for == "everybody waits for the learner to join"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_before_anybody_came(config: Path, number: int) -> None:
    port = free_port()
    with (
        coordinator(config, port) as process,
        closing(Observer(f"tcp://127.0.0.1:{port}")) as observer,
    ):
        assert observer.status(DEADLINE) is not None
        process.send_signal(number)
        assert process.wait(DEADLINE) == 0
    summary = json.loads((config.parent / "runs" / "r" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("interrupted", 0)
    with closing(Journal(config.parent / "runs" / "r" / "journal.db", read_only=True)) as journal:
        assert journal.stop_reason() is None, "it has stopped"


def test_an_observer_may_end_the_run(config: Path) -> None:
    port = free_port()
    with (
        coordinator(config, port) as process,
        closing(Observer(f"tcp://127.0.0.1:{port}")) as observer,
    ):
        assert observer.status(DEADLINE) is not None
        observer.stop("enough")
        assert process.wait(DEADLINE) == 0


def test_a_run_that_was_aborted_while_it_stopped_can_be_resumed(config: Path) -> None:
    run = load_config(config)
    file = make_run_directory(run) / "journal.db"
    with closing(Journal(file)) as journal:
        journal.remember_stop("Ctrl-C")
    make_run_directory(run)
    with closing(Journal(file, read_only=True)) as journal:
        assert journal.stop_reason() is None
    file.write_bytes(b"not a database at all" * 100)
    with pytest.raises(UserError, match="cannot open the journal"):
        make_run_directory(run)


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_live_page_is_where_the_status_says(config: Path) -> None:
    port = free_port()
    with (
        coordinator(config, port),
        closing(Observer(f"tcp://127.0.0.1:{port}")) as observer,
    ):
        status = observer.status(DEADLINE)
        assert status is not None
        page = status.page
        assert page.startswith("http://127.0.0.1:")
        assert get(page)[1].startswith(b"<!doctype html>")
        live = json.loads(get(f"{page}status.json")[1])
        assert (live["state"], live["name"], live["step"]) == ("starting", "r", 0)
        assert live["waiting_for"] == "everybody waits for the learner to join"
        assert json.loads(get(f"{page}details.json")[1])["charts"] == []
        assert get(f"{page}readyz")[0] == 503


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ("host: 0.0.0.0", 403),
        ("host: 0.0.0.0, page: true", 200),
        ("page: false", 403),
    ],
)
def test_rollouts_are_shown_to_a_network_only_if_asked_for(
    config: Path, settings: str, status: int
) -> None:
    port, web = free_port(), free_port()
    config.write_text(f"{config.read_text()}telemetry: {{port: {web}, {settings}}}\n")
    with (
        coordinator(config, port),
        closing(Observer(f"tcp://127.0.0.1:{port}")) as observer,
    ):
        seen = observer.status(DEADLINE)
        assert seen is not None
        assert bool(seen.page) == (status == 200)
        code, text = get(f"http://127.0.0.1:{web}/")
        assert code == status
        assert status == 200 or b"set telemetry.page to true" in text
        code, _ = get(f"http://127.0.0.1:{web}/details.json")
        assert code == (200 if status == 200 else 404)
        assert get(f"http://127.0.0.1:{web}/metrics")[0] == 200


@pytest.mark.parametrize("left", [None, b""])
def test_a_journal_that_is_gone_is_named(config: Path, left: bytes | None) -> None:
    run = load_config(config)
    file = make_run_directory(run) / "journal.db"
    if left is not None:
        file.write_bytes(left)
    (sentence,) = lost(run)
    assert f"the journal {file} is missing or empty" in sentence
    file.unlink(missing_ok=True)
    Journal(file).close()
    assert lost(run) == []


def test_a_journal_that_was_cut_off_is_named(config: Path) -> None:
    run = load_config(config)
    file = make_run_directory(run) / "journal.db"
    Journal(file).close()
    whole = file.read_bytes()
    for size in (100, 4096, len(whole) - 4096):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"journal\.db"):
            make_run_directory(run)


def test_a_port_in_use_is_bad_input(config: Path) -> None:
    with (
        closing(Router(host="127.0.0.1", port=0)) as other,
        coordinator(config, other.port) as process,
    ):
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 2
        assert f"coordinator.port {other.port}" in errors
        assert "in use" in errors
        assert "Traceback" not in errors


def test_a_second_coordinator_of_a_run_is_bad_input(config: Path) -> None:
    port = free_port()
    with (
        coordinator(config, port) as first,
        closing(Observer(f"tcp://127.0.0.1:{port}")) as observer,
    ):
        assert observer.status(DEADLINE) is not None
        with coordinator(config, free_port()) as second:
            _, errors = second.communicate(timeout=DEADLINE)
            assert second.returncode == 2
            assert f"written by process {first.pid} on" in errors
            assert "Traceback" not in errors
        assert observer.status(DEADLINE) is not None, "the first goes on"


def test_a_journal_of_another_version_is_bad_input(config: Path) -> None:
    run = config.parent / "runs" / "r"
    run.mkdir(parents=True)
    with closing(Journal(run / "journal.db")) as journal:
        journal.set_meta("schema", "99")
    with coordinator(config, free_port()) as process:
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 2
        assert "journal schema 99" in errors
        assert "Traceback" not in errors


def test_a_wrong_key_is_bad_input(config: Path) -> None:
    config.write_text(config.read_text() + "stepps: 3\n")
    with coordinator(config, free_port()) as process:
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 2
        assert "stepps" in errors


def test_garbage_is_counted_and_does_no_harm(config: Path) -> None:
    import zmq

    port = free_port()
    with (
        coordinator(config, port),
        closing(Observer(f"tcp://127.0.0.1:{port}")) as observer,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as stranger,
    ):
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.connect(f"tcp://127.0.0.1:{port}")
        for frame in (b"", b"\xc1" * 100, b"\x91\xa7Nothing", b"\x92\xa4Stop\x01"):
            stranger.send(frame)
        stranger.send_multipart([b"a", b"b", b"c"])
        stranger.send(b"\x91\xa7Observe")
        assert stranger.poll(int(DEADLINE * 1000)), "it came after the garbage, and was answered"
        status = observer.status(DEADLINE)
        assert status is not None
        assert status.state == "starting"


def test_a_killed_coordinator_starts_again(config: Path) -> None:
    for _ in range(2):
        port = free_port()
        with (
            coordinator(config, port),
            closing(Observer(f"tcp://127.0.0.1:{port}")) as observer,
        ):
            assert observer.status(DEADLINE) is not None
    assert (config.parent / "runs" / "r" / "config.yaml").exists()


def late_generator() -> wire.GeneratorHello:
    return wire.GeneratorHello(
        name="late",
        incarnation="1",
        protocol=wire.PROTOCOL,
        workers=1,
        capacity=8,
        tokenizer="t",
        data="d",
        rows={"train": 50, "eval": 5},
        multiplicity={},
        sets=[],
        leases=[],
    )


def test_one_that_stays_tells_latecomers_to_leave_until_it_is_told_itself(config: Path) -> None:
    config.write_text(config.read_text() + "coordinator: {stay: true}\n")
    port = free_port()
    heard: queue.Queue[wire.Message] = queue.Queue()
    with (
        coordinator(config, port) as process,
        closing(Observer(f"tcp://127.0.0.1:{port}")) as observer,
    ):
        assert observer.status(DEADLINE) is not None
        observer.stop("enough")
        link = Link(
            CoordinatorConfig(port=port, lost_seconds=DEADLINE),
            identity="late:1",
            hello=late_generator,
            heartbeat=lambda: wire.GeneratorHeartbeat(leases=[], stats={}),
            on_message=heard.put,
            keys=None,
        )
        with closing(link):
            link.wait_welcome(DEADLINE)
            while not isinstance(message := heard.get(timeout=DEADLINE), wire.Drain):
                pass
        assert message.reason == "enough"
        assert observer.status(DEADLINE) is not None, "it is still there"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    summary = json.loads((config.parent / "runs" / "r" / "summary.json").read_text())
    assert summary["status"] == "interrupted"


def test_a_finished_run_that_is_started_again_is_over_and_keeps_its_summary(config: Path) -> None:
    config.write_text(config.read_text() + "steps: 1\n")
    run = config.parent / "runs" / "r"
    run.mkdir(parents=True)
    with closing(Journal(run / "journal.db")) as journal, journal.transaction():
        journal.add_lease(id=1, purpose="train", row=0, attempt=1, evaluation=None)
        journal.batch(0, 0, [1])
        journal.consume(0)
        journal.checkpointed(1)
        for step in (0, 1):
            evaluation = journal.add_evaluation(version=step, step=step, n_samples=1)
            journal.finish_evaluation(evaluation_record(evaluation, {"step": step}))
    (run / "summary.json").write_text('{"status": "finished", "steps": 1}')
    with coordinator(config, free_port()) as process:
        assert process.wait(DEADLINE) == 0
    assert (run / "summary.json").read_text() == '{"status": "finished", "steps": 1}'
    (run / "summary.json").write_text('{"status": "interrupted"}')
    with coordinator(config, free_port()) as process:
        assert process.wait(DEADLINE) == 0
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
