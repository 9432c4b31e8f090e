"""What is written down of a process that hangs."""

import threading
from pathlib import Path

from asyncds.telemetry.state_dump import dump_state


def hangs_here(begun: threading.Event, end: threading.Event) -> None:
    begun.set()
    end.wait(60)


def test_it_names_the_reason_the_state_and_where_threads_are(tmp_path: Path) -> None:
    begun, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=hangs_here, args=(begun, end))
    thread.start()
    assert begun.wait(60)
    path = dump_state(
        tmp_path / "dumps",
        name="learner-0",
        reason="nobody moves",
        state={"step": 3, "at": tmp_path},
    )
    end.set()
    thread.join()
    text = path.read_text()
    assert path.name.startswith("learner-0-")
    assert text.startswith("nobody moves\n\n")
    assert '"step": 3' in text
    assert str(tmp_path) in text
    assert "in hangs_here" in text
