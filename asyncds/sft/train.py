"""The loop of supervised training: batches, held-out loss, checkpoints, metrics.jsonl."""

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from asyncds.config.sft import SftConfig
from asyncds.engine import checkpoint
from asyncds.engine.checkpoint_owner import take_over
from asyncds.engine.checkpoint_writer import CheckpointWriter, NoRoomError
from asyncds.engine.export import try_export
from asyncds.engine.process_group import agree_on
from asyncds.engine.training import TrainingEngine, UpdateMetrics
from asyncds.protocol.state import State
from asyncds.sft.batches import answer_loss, rows_of, shard, steps_of
from asyncds.sft.rows import Example, Rows
from asyncds.telemetry.run_log import RunLog, read_run_log
from asyncds.telemetry.summary import Summary, diagnose, percentiles, write_summary

Line = dict[str, Any]


class Supervised:
    """A supervised training, from its newest checkpoint on. Every rank runs it alike."""

    def __init__(self, config: SftConfig, rows: Rows, run_dir: Path) -> None:
        """Load the model, and the newest checkpoint if there is one.

        Raises CheckpointError, ExportError, UnsupportedModelError, ValueError and OSError.
        """
        self._config = config
        self._rows = rows
        self._run_dir = run_dir
        self._root = run_dir / "checkpoints"
        self.steps = steps_of(
            len(rows.train), size=config.batches.size, epochs=config.batches.epochs
        )
        self._engine = TrainingEngine(
            config.learner,
            model=config.model,
            dtype=config.dtype,
            temperature=1.0,
            total_steps=self.steps,
            seed=config.seed,
            tokenizer=config.tokenizer,
        )
        owner = agree_on(uuid.uuid4().hex)
        longest_s = config.checkpoint.longest_seconds(self._engine.size)
        self._writer = CheckpointWriter(
            self._engine,
            self._root,
            owner=owner,
            longest_s=longest_s + config.learner.collective_seconds,
            ended=self._saved,
        )
        if self._engine.rank == 0:
            try_export(self._engine)
            take_over(self._root, owner)
        with self._engine.patience.longer(longest_s):
            newest = checkpoint.newest(self._root)
            self.step = 0 if newest is None else int(checkpoint.load(self._engine, newest)["step"])
        self._lines: list[Line] = [
            line
            for line in read_run_log(run_dir / "metrics.jsonl")
            if line["step"] <= self.step or not line["step"]
        ]

    def run(self, *, stopped: Callable[[], bool], show: Callable[[Line], None]) -> State:
        """Train until all steps are made, or somebody stops it; then there is a checkpoint.

        show: told each line of metrics.jsonl, on rank 0. Raises NonFiniteError and CheckpointError.
        """
        began = time.monotonic() - (self._lines[-1]["wall_seconds"] if self._lines else 0.0)
        begun = self.step
        with self._log() as log:

            def record(line: Line) -> None:
                line = {**line, "time": time.time(), "wall_seconds": time.monotonic() - began}
                self._lines.append(line)
                if log is not None:
                    log.write(line)
                    show(line)

            if not self._lines and self._rows.eval:
                record({"step": 0, "learner/eval_loss": self._held_out_loss()})
            while self.step < self.steps and not self._of_any_rank(stopped()):
                record(self._train())
                if self.step % self._config.checkpoint.every == 0:
                    begun = self._save()
        if begun != self.step:
            self._save()
        self._wait_for_writer()
        state = State.FINISHED if self.step == self.steps else State.INTERRUPTED
        if self._engine.rank == 0:
            self._summarise(state)
        return state

    def close(self) -> None:
        """Release the engine, once what is being written is on the disk."""
        self._writer.close()
        self._engine.close()

    def _log(self) -> AbstractContextManager[RunLog | None]:
        """The file of metrics, which is rank 0's to write."""
        if self._engine.rank:
            return nullcontext()
        return RunLog(self._run_dir / "metrics.jsonl", lines=self._lines)

    def _train(self) -> Line:
        batches, started = self._config.batches, time.monotonic()
        rows = self._rows.train
        chosen = rows_of(self.step, len(rows), size=batches.size, seed=self._config.seed)
        mine = self._shard([rows[i] for i in chosen])
        update = self._engine.update(mine, answer_loss)
        self.step += 1
        tokens = int(mine.table.prompt_length.sum() + mine.table.length.sum())
        line = {
            "step": self.step,
            "sequences": len(chosen),
            "tokens": tokens,
            "length": float(mine.table.length.mean()),
            "tokens_per_second": tokens / (time.monotonic() - started),
            **_learner(update),
        }
        if self._rows.eval and (self.step % batches.eval_every == 0 or self.step == self.steps):
            line["learner/eval_loss"] = self._held_out_loss()
        return line

    def _held_out_loss(self) -> float:
        """Mean cross-entropy over the tokens of the held-out answers, in nats."""
        mine = self._shard(self._rows.eval)
        log_probs = self._engine.log_probs(mine)
        total = torch.tensor(-float(log_probs.sum(dtype=np.float64)), dtype=torch.float64)
        total = total.to(self._engine.device)
        dist.all_reduce(total)
        return total.item() / int(mine.table.length.sum())

    def _shard(self, examples: Sequence[Example]) -> Any:
        engine = self._engine
        return shard(examples, step=self.step, rank=engine.rank, ranks=engine.ranks)

    def _of_any_rank(self, flag: bool) -> bool:
        flags = torch.tensor(int(flag), device=self._engine.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags)

    def _save(self) -> int:
        """Copy a checkpoint of this step, which is written meanwhile; returns the step."""
        self._wait_for_writer()
        if problem := self._writer.begin(self.step, state={"step": self.step}):
            raise problem
        return self.step

    def _wait_for_writer(self) -> None:
        if problem := self._writer.wait():
            raise problem

    def _saved(self, step: int, seconds: float, problem: NoRoomError | None) -> None:
        if problem is None and self._engine.rank == 0:
            checkpoint.prune(self._root, keep_last=self._config.checkpoint.keep_last)

    def _summarise(self, state: State) -> None:
        """Write summary.json as a run has it; what only a run with generators has is nothing."""
        seconds = self._lines[-1]["wall_seconds"] if self._lines else 0.0
        trained = sum(line.get("tokens", 0) for line in self._lines)
        write_summary(
            self._run_dir / "summary.json",
            Summary(
                status=state,
                steps=self.step,
                policy_version=0,
                wall_seconds=seconds,
                groups_trained=0,
                groups_delivered=0,
                groups_dropped={},
                tokens_generated=0,
                tokens_trained=trained,
                tokens_per_second=trained / seconds if seconds else 0.0,
                learner_idle_fraction=0.0,
                generator_pause_fraction=0.0,
                weight_sync_seconds=percentiles([]),
                lag={},
                diagnostics=diagnose(self._lines),
                eval=[],
            ),
        )


def _learner(update: UpdateMetrics) -> Line:
    return {
        "learner/loss": update.loss,
        "learner/grad_norm": update.grad_norm,
        "learner/updates_clipped": update.clipped,
        "learner/lr": update.lr,
        "learner/micro_batches": update.micro_batches,
        "learner/padding": update.padding,
        "learner/seconds_update": sum(update.seconds.values()),
    }
