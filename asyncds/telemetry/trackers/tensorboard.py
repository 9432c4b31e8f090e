"""TensorBoard: event files in the run directory, without TensorFlow or torch."""

import json
import os
import socket
import time
from pathlib import Path

import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from asyncds.telemetry.trackers.tracker import (
    Record,
    evaluation_numbers,
    step_numbers,
    summary_numbers,
)


class TensorBoard:
    """Writes `<run>/tensorboard`; every `begin` adds a file. `tensorboard --logdir RUNS` shows it.

    Steps that were undone are disowned by a session that starts after the last one that holds, as
    TensorFlow's own writers do.
    """

    def __init__(self, *, run_dir: Path) -> None:
        self._directory = run_dir / "tensorboard"

    def begin(self, *, name: str, run: str, step: int, config: Record) -> str:
        """See `Tracker`."""
        self._directory.mkdir(exist_ok=True)
        # Files are read in the order of their names.
        made = f"{time.time_ns():020}.{socket.gethostname()}.{os.getpid()}"
        self._file = (self._directory / f"events.out.tfevents.{made}").open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.rewind(step)
        if not run:
            text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
            self._text("config", text)
        self.flush()
        return name

    def step(self, line: Record) -> None:
        """See `Tracker`."""
        self._scalars(line["step"], step_numbers(line), at=line.get("time"))

    def evaluation(self, result: Record) -> None:
        """See `Tracker`."""
        self._scalars(result["step"], evaluation_numbers(result))

    def rewind(self, step: int) -> None:
        """See `Tracker`."""
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def flush(self) -> None:
        """See `Tracker`."""
        self._file.flush()

    def finish(self, summary: Record) -> None:
        """See `Tracker`."""
        self._text("summary", json.dumps(summary, indent=2))
        self._scalars(summary["steps"], summary_numbers(summary))
        self._file.close()

    def _scalars(self, step: int, numbers: dict[str, float], at: float | None = None) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        summary = Summary(value=values)
        self._write(Event(wall_time=at or time.time(), step=step, summary=summary))

    def _text(self, tag: str, text: str) -> None:
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # preformatted Markdown
        value = Summary.Value(
            tag=tag,
            metadata=SummaryMetadata(
                plugin_data=SummaryMetadata.PluginData(plugin_name="text"),
                data_class="DATA_CLASS_TENSOR",
            ),
            tensor=TensorProto(
                dtype=DT_STRING,
                tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
                string_val=[indented.encode()],
            ),
        )
        self._write(Event(wall_time=time.time(), summary=Summary(value=[value])))

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
