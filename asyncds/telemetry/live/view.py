"""The contents of the live page: a run's status, and what is read from its directory.

The coordinator only hands over plain values (`publish`). Everything that takes time (reading the
journal, drawing charts, decoding tokens) is done in the threads of whoever asks, and once for all
of them.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from asyncds.config.schema import RunConfig
from asyncds.protocol.records import RunStatus
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_reader import GroupRow
from asyncds.telemetry.files import to_json
from asyncds.telemetry.machine import hardware, versions
from asyncds.telemetry.report.charts import report_charts
from asyncds.telemetry.rollouts.read import (
    SAMPLES_DELETED,
    read_rollout,
    rollout_with,
    tokenizer_of,
)
from asyncds.telemetry.rollouts.samples import sampled
from asyncds.telemetry.rollouts.texts import Decode, cut, ids_as_text, light_decoder
from asyncds.telemetry.trackers.public_config import public_config

SAMPLES = 6
"""Groups that are shown."""
PACE_STEPS = 21
"""Steps whose pace tells when the run will be over."""


class LiveView:
    """The run in `run_dir`.

    The JSON of `status` and of `details` is safe to ask for in any thread.

    share: of the time that may be spent on `details` at most. They may be older than the status
    then: threads of one process take turns, and the coordinator is not to wait for drawings.
    """

    def __init__(
        self,
        *,
        config: RunConfig,
        run_dir: Path,
        share: float = 0.05,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config.model_dump(mode="json")
        shown = yaml.safe_dump(public_config(config), sort_keys=False, allow_unicode=True)
        self._fixed = {"config": shown, "versions": versions(), "hardware": hardware()}
        self._journal = run_dir / "journal.db"
        self._status = RunStatus()
        self._drawing = Lock()
        self._drawn = ("", b"")  # of which revision, and what
        self._share, self._now = share, now
        self._rest_until = -float("inf")
        self._rewinds = ""
        self._lines: list[dict[str, Any]] = []
        self._texts: dict[int, list[str]] = {}

    def texts_came(self, lease: int, texts: list[str]) -> None:
        """Have the texts of a group, to be shown where there is no tokenizer.

        texts: the prompt's, then the completions'.
        """
        self._texts = dict(list(self._texts.items())[1 - SAMPLES :])
        self._texts[lease] = [cut(text) for text in texts]

    def publish(self, status: RunStatus) -> None:
        """status: its `revision`, `REWINDS.REST`, differs from the one before if `details` may."""
        self._status = status

    def status(self) -> bytes:
        """The status that was published last."""
        return to_json(self._status.plain()).encode()

    def details(self) -> bytes:
        """Charts, and some of the groups that came last, newest first."""
        with self._drawing:
            revision, start = self._status.revision, self._now()
            known, drawn = self._drawn
            if not drawn or (revision != known and start >= self._rest_until):
                drawn = to_json({"revision": revision, **self._read(revision)}).encode()
                self._drawn, end = (revision, drawn), self._now()
                self._rest_until = end + (end - start) * (1 / self._share - 1)
            return drawn

    def _read(self, revision: str) -> dict[str, Any]:
        rewinds, _, _ = revision.partition(".")
        if rewinds != self._rewinds:
            self._lines, self._rewinds = [], rewinds
        with closing(Journal(self._journal, read_only=True)) as journal:
            start = self._lines[-1]["step"] if self._lines else 0
            self._lines += [s.line() for s in journal.steps(start=start)]
            evaluations = [e.result() for e in journal.evaluations()]
            groups = self._groups(journal)
        charts = report_charts(self._lines, evaluations, self._config, last="newest")
        return {
            "charts": [asdict(chart) for chart in charts if chart.svg],
            "rollouts": [self._shown(group) for group in reversed(groups)],
            "seconds_per_step": _pace(self._lines[-PACE_STEPS:]),
            **self._fixed,
        }

    def _groups(self, journal: Journal) -> list[GroupRow]:
        """The newest; without a tokenizer the newest that came with texts."""
        texts = {} if self._decode else self._texts
        told = journal.training_groups(list(texts)) if texts else []
        return told or journal.newest_groups(SAMPLES)

    def _shown(self, group: GroupRow) -> dict[str, Any]:
        texts = self._texts.get(group.lease, [])
        if self._decode is None and len(texts) == group.n + 1:
            rollout = rollout_with(group, prompt=texts[0], texts=texts[1:])
        else:
            rollout = read_rollout(group, self._decode or ids_as_text)
        prompt = SAMPLES_DELETED if rollout.deleted else rollout.prompt
        shown = asdict(sampled(rollout))
        shown["texts"] = [(n, correct, cut(text)) for n, correct, text in shown["texts"]]
        return {"lease": group.lease, "prompt": cut(prompt), **shown}

    @cached_property
    def _decode(self) -> Decode | None:
        return light_decoder(tokenizer_of(self._config))


def _pace(lines: list[dict[str, Any]]) -> float | None:
    """Mean seconds from one step to the next."""
    times = [line["wall_seconds"] for line in lines if line.get("wall_seconds") is not None]
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
