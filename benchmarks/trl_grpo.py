"""Trains with TRL's GRPO trainer, for comparison; prints the time, and the CPU time
of the process, at the end of every step.

python -m benchmarks.trl_grpo MODEL MAX_TOKENS STEPS DIRECTORY
"""

import json
import random
import sys
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def main(model: str, max_tokens: str, steps: str, directory: str) -> None:
    """Train, with random rewards and prompts like the quickstart's."""
    rng = random.Random(0)
    prompts = []
    for _ in range(4000):
        numbers = " ".join(str(rng.randint(1, 10)) for _ in range(3))
        prompts.append({"prompt": f"{numbers} = {rng.randint(1, 99)} :"})
    times: dict[str, list[float]] = {"wall": [], "cpu": []}

    class Clock(TrainerCallback):
        """Notes when steps end."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times["wall"].append(time.monotonic())
            times["cpu"].append(time.process_time())

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(rng.random() < 0.3) for _ in completions]

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=GRPOConfig(
            output_dir=directory,
            per_device_train_batch_size=256,
            num_generations=8,
            max_completion_length=int(max_tokens),
            max_steps=int(steps),
            learning_rate=1e-4,
            beta=0.0,
            temperature=1.0,
            loss_type="dapo",
            report_to=[],
            save_strategy="no",
            logging_steps=1000,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(prompts),
        reward_funcs=reward,
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[Clock()],
    )
    trainer.train()
    print(json.dumps(times))


if __name__ == "__main__":
    main(*sys.argv[1:])
