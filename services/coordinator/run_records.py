"""The records of a run so far, as files and views show them: read once, then told what happens."""

from pathlib import Path

from asyncds.protocol.records import EvaluationRecord, History, StepRecord
from asyncds.rollout.journal import Journal
from asyncds.telemetry.run_log import RunLog

HISTORY = 200
"""Steps of the reward curve that `status` carries."""


class RunRecords:
    """Steps and evaluations, in the order of the journal; steps are written to metrics.jsonl.

    last: the newest step, None before the first. evaluations: those that are finished.
    """

    def __init__(self, *, journal: Journal, run_dir: Path) -> None:
        self._journal = journal
        self._path = run_dir / "metrics.jsonl"
        self._rewinds = 0
        self.last: StepRecord | None = None
        self._log, self._rewards = self._read()
        self.evaluations = journal.evaluations()

    def rewound(self) -> None:
        """The journal may have gone back to an earlier step: so do the records."""
        self._log.close()
        self._log, self._rewards = self._read()
        self.evaluations = self._journal.evaluations()
        self._rewinds += 1

    def step(self, record: StepRecord) -> None:
        """A batch was trained. One that was read back from the journal a moment ago is known."""
        if self.last is None or self.last.step < record.step:
            self._log.write(record.line())
            self._rewards.append(record.batch.reward if record.batch else None)
            self.last = record

    def evaluation(self, record: EvaluationRecord) -> None:
        """An evaluation is finished; it may have been read back, like a step."""
        if record.id not in [e.id for e in self.evaluations]:
            self.evaluations.append(record)

    @property
    def history(self) -> History:
        """The end of the reward curve."""
        return History(reward=self._rewards[-HISTORY:])

    @property
    def revision(self) -> str:
        """A text that changes whenever the records do."""
        return f"{self._rewinds}.{len(self._rewards)}.{len(self.evaluations)}"

    def close(self) -> None:
        """Close the file."""
        self._log.close()

    def _read(self) -> tuple[RunLog, list[float | None]]:
        """The file and the reward curve so far, from the journal."""
        records = self._journal.steps()
        self.last = records[-1] if records else None
        log = RunLog(self._path, lines=(r.line() for r in records))
        return log, [r.batch.reward if r.batch else None for r in records]
