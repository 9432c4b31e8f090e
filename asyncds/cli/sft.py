"""`asyncds sft`: supervised training on answers, a warm start for a run."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncds.config.load import ConfigError, dump_config, parse_as, read_values
from asyncds.config.sft import SftConfig
from asyncds.launch.errors import UserError
from asyncds.launch.interrupts import interrupts
from asyncds.launch.model_directory import chat_template_problems, check_model
from asyncds.telemetry.summary import read_summary

if TYPE_CHECKING:
    from asyncds.sft.rows import Rows


def sft_command(*, file: Path, overrides: Sequence[str], replace: bool) -> int:
    """Train, or go on with what was interrupted; returns the exit code.

    replace: delete what is there of that name first. With several ranks this process becomes
    torchrun, unless it was started by it.

    Raises ConfigError and UserError before anything is trained.
    """
    config = _absolute(parse_as(SftConfig, read_values(file, overrides)))
    run_dir = Path(config.runs_dir) / config.name
    is_rank = "RANK" in os.environ
    if not is_rank and _is_finished(run_dir, config, replace=replace):
        print(f"{run_dir} is finished: nothing is left to train")
        return 0
    problems, facts = check_model(config.model, config.tokenizer)
    if config.data.prompt_style == "chat" and config.data.chat.template is None:
        problems += chat_template_problems(config.tokenizer or config.model)
    if problems:
        raise UserError(*problems)
    # Take seconds to import.
    from asyncds.engine.tokenizer import load_tokenizer
    from asyncds.sft.rows import read_rows, total_tokens

    try:
        rows = read_rows(
            config,
            load_tokenizer(config.tokenizer or config.model),
            longest=None if facts is None else facts.positions,
        )
    except (ValueError, ImportError) as error:
        raise UserError(f"data: {error}") from error
    if not is_rank:
        if replace and (run_dir / "config.yaml").exists():
            shutil.rmtree(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.yaml").write_text(dump_config(config), "utf-8")
        print(
            f"run directory {run_dir}; {len(rows.train)} answers to train on, with their prompts "
            f"{total_tokens(rows.train):,} tokens; {len(rows.eval)} held out",
            flush=True,
        )
        if config.learner.ranks > 1:
            _become_torchrun(config.learner.ranks, [str(file), *overrides])
    return _train(config, rows, run_dir)


def _train(config: SftConfig, rows: "Rows", run_dir: Path) -> int:
    import torch
    import torch.distributed as dist

    from asyncds.engine.checkpoint import CheckpointError
    from asyncds.engine.export import ExportError
    from asyncds.engine.policy_model import UnsupportedModelError
    from asyncds.engine.training import NonFiniteError
    from asyncds.protocol.state import State
    from asyncds.sft.train import Supervised
    from asyncds.telemetry.report.page import write_report

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if not torch.cuda.is_available():
        torch.set_num_threads(config.learner.cpu_threads)
    try:
        training = Supervised(config, rows, run_dir)
    except (CheckpointError, ExportError, UnsupportedModelError, ValueError) as error:
        raise UserError(str(error)) from error
    try:
        with interrupts() as signals:
            state = training.run(stopped=lambda: bool(signals), show=_show(training.steps))
    except (NonFiniteError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        training.close()
        rank = dist.get_rank()
        dist.destroy_process_group()
    if rank == 0:
        print(f"report: {write_report(run_dir)}")
        if state is not State.FINISHED:
            print("the same command goes on with it")
        else:
            what = "model" if config.learner.lora is None else "adapter"
            print(f"{what}: {run_dir / 'checkpoints' / f'step-{training.step}' / 'hf'}")
    return 0 if state is State.FINISHED else 1


def _absolute(config: SftConfig) -> SftConfig:
    """The configuration with its model's directories as absolute paths."""
    places = {"model": config.model, "tokenizer": config.tokenizer}
    here = {key: str(Path(p).resolve()) for key, p in places.items() if p and Path(p).is_dir()}
    return config.model_copy(update=here)


def _is_finished(run_dir: Path, config: SftConfig, *, replace: bool) -> bool:
    """Whether nothing is left to do. Raises UserError if something else is there."""
    file = run_dir / "config.yaml"
    if replace or not file.exists():
        return False
    try:
        there = parse_as(SftConfig, read_values(file, ()))
    except ConfigError as error:
        raise UserError(
            f"{run_dir} is a run of another kind: choose another name, or --replace deletes it"
        ) from error
    wanted = config.model_dump()
    if differing := [key for key, value in there.model_dump().items() if wanted[key] != value]:
        raise UserError(
            f"{run_dir} was made with another {', '.join(differing)}: choose another name, or "
            "--replace deletes it"
        )
    summary = read_summary(run_dir / "summary.json")
    return summary is not None and summary["status"] == "finished"


def _show(steps: int) -> Callable[[dict[str, Any]], None]:
    """A function that prints a line of metrics now and then, and each held-out loss."""
    every = max(1, steps // 20)

    def show(line: dict[str, Any]) -> None:
        held_out = line.get("learner/eval_loss")
        if held_out is None and line["step"] % every:
            return
        parts = [f"step {line['step']}/{steps}"]
        parts += [f"loss {line['learner/loss']:.4f}"] if line["step"] else []
        parts += [f"held out {held_out:.4f}"] if held_out is not None else []
        parts += [f"{line['tokens_per_second']:,.0f} tokens/s"] if line["step"] else []
        print(" · ".join(parts), flush=True)

    return show


def _become_torchrun(ranks: int, arguments: Sequence[str]) -> None:
    module = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    os.execv(sys.executable, [sys.executable, *module, "-m", "asyncds.cli.main", "sft", *arguments])
