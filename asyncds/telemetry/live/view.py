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
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from asyncds.config.schema import RunConfig
from asyncds.protocol.records import RunStatus
from asyncds.rollout.journal import Journal
from asyncds.rollout.journal_reader import GroupRow
from asyncds.telemetry.files import to_json
from asyncds.telemetry.live.rationed import Rationed
from asyncds.telemetry.machine import hardware, versions
from asyncds.telemetry.report.charts import report_charts
from asyncds.telemetry.rollouts.read import (
    SAMPLES_DELETED,
    Rollout,
    read_rollout,
    rollout_with,
    tokenizer_of,
)
from asyncds.telemetry.rollouts.reader import reader_page, spread, within
from asyncds.telemetry.rollouts.rows import rows_of
from asyncds.telemetry.rollouts.samples import SAMPLE_COMPLETIONS, sampled
from asyncds.telemetry.rollouts.texts import Decode, cut, ids_as_text, light_decoder
from asyncds.telemetry.trackers.public_config import public_config

SAMPLES = 6
"""Groups that are shown."""
PACE_STEPS = 21
"""Steps whose pace tells when the run will be over."""
READ_NEWEST, READ_OTHERS = 16, 32
"""Groups on the page to read them on: the newest, and others from the whole run."""
READ_TOKENS, READ_OF_TURN = 40_000, 400
"""Tokens on that page with their log-probabilities: of all, and of a turn."""


class LiveView:
    """The run in `run_dir`.

    Everything that is asked of it is safe to ask for in any thread.

    share: of the time that may be spent on `details` and on `rollouts` at most (`Rationed`).
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
        self._details = Rationed(self._draw, share=share, now=now)
        self._reader = Rationed(self._read, share=share, now=now)
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
        return self._details.at(self._status.revision)

    def rollouts(self) -> tuple[bytes, str]:
        """The page to read rollouts on, and its Content-Security-Policy.

        It has the newest groups, and others from the whole run.
        """
        return self._reader.at(self._status.revision)

    def _draw(self, revision: str) -> bytes:
        rewinds, _, _ = revision.partition(".")
        if rewinds != self._rewinds:
            self._lines, self._rewinds = [], rewinds
        with closing(Journal(self._journal, read_only=True)) as journal:
            start = self._lines[-1]["step"] if self._lines else 0
            self._lines += [s.line() for s in journal.steps(start=start)]
            evaluations = [e.result() for e in journal.evaluations()]
            groups = self._groups(journal)
        charts = report_charts(self._lines, evaluations, self._config, last="newest")
        return to_json(
            {
                "revision": revision,
                "charts": [asdict(chart) for chart in charts if chart.svg],
                "rollouts": [self._shown(group) for group in reversed(groups)],
                "seconds_per_step": _pace(self._lines[-PACE_STEPS:]),
                **self._fixed,
            }
        ).encode()

    def _read(self, revision: str) -> tuple[bytes, str]:
        with closing(Journal(self._journal, read_only=True)) as journal:
            leases = spread(journal.sampled_leases(), newest=READ_NEWEST, others=READ_OTHERS)
            groups = list(journal.groups_of(leases))
            sets = journal.row_sets()
        rows = (
            row
            for group in reversed(groups)
            for row in islice(
                rows_of(self._rollout(group, singles=READ_OF_TURN), sets),
                SAMPLE_COMPLETIONS,
            )
        )
        note = (
            f"The newest {READ_NEWEST} groups and {READ_OTHERS} from the whole run, at most "
            f"{SAMPLE_COMPLETIONS} completions of each, long texts without their middle. "
            "Reload for newer ones; asyncds inspect chooses among all."
        )
        shown = list(within(rows, tokens=READ_TOKENS))
        return reader_page(shown, run=self._config["name"], note=note).served

    def _groups(self, journal: Journal) -> list[GroupRow]:
        """The newest; without a tokenizer the newest that came with texts."""
        texts = {} if self._decode else self._texts
        told = list(journal.groups_of(list(texts), purpose="train")) if texts else []
        return told or journal.newest_groups(SAMPLES)

    def _shown(self, group: GroupRow) -> dict[str, Any]:
        rollout = self._rollout(group)
        prompt = SAMPLES_DELETED if rollout.deleted else rollout.prompt
        shown = asdict(sampled(rollout))
        shown["texts"] = [(n, correct, cut(text)) for n, correct, text in shown["texts"]]
        return {"lease": group.lease, "prompt": cut(prompt), **shown}

    def _rollout(self, group: GroupRow, *, singles: int = 0) -> Rollout:
        """A group; of one that is to be read, some completions."""
        texts = self._texts.get(group.lease, [])
        if self._decode is None and len(texts) == group.n + 1:
            return rollout_with(group, prompt=texts[0], texts=texts[1:])
        most = SAMPLE_COMPLETIONS if singles else None
        return read_rollout(group, self._decode or ids_as_text, most=most, singles=singles)

    @cached_property
    def _decode(self) -> Decode | None:
        return light_decoder(tokenizer_of(self._config))


def _pace(lines: list[dict[str, Any]]) -> float | None:
    """Mean seconds from one step to the next."""
    times = [line["wall_seconds"] for line in lines if line.get("wall_seconds") is not None]
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
