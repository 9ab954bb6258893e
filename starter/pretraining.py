"""Pre-training of the starter policies on the basics of a world (`envs.worlds.microworld.basics`), without any tool call.

toolwise model starter [world=mixture] [out=DIR] [seed=0] [steps=1200]
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Read when torch is loaded. If others want the cores too, threads that wait by spinning make a step several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from torch.nn.functional import cross_entropy
from transformers import BatchFeature, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from envs.errors import UsageError
from envs.protocols import Answer, DeepEyes
from envs.runtime.atomic import new_directory
from envs.runtime.progress import Advance, silent
from envs.types import Task
from envs.worlds.microworld.basics import MIXES, Basics
from starter.policy import build, build_model, build_processor

ANSWER_STARTS = "<|im_start|>assistant\n"


@dataclass
class PretrainingConfig:
    """Settings of the pre-training; the defaults made the weights that the project ships, in `starter/microworld`."""

    out: str = "runs/base"
    """Directory to write to: a new one, or an empty one."""

    world: str = "microworld"
    """What the policy is for: "microworld" (perception and reasoning) or "mixture" (search and integration as well)."""

    seed: int = 0
    """Seeds the initial weights and the tasks."""

    steps: int = 1200
    """Optimizer steps."""

    batch_size: int = 48
    """Tasks in one step."""

    learning_rate: float = 1.5e-3
    """The peak learning rate of AdamW; it falls to 0 as a cosine."""

    weight_decay: float = 0.01
    """The weight decay of AdamW."""

    warmup_steps: int = 50
    """Steps over which the learning rate rises from 0."""

    def check(self) -> None:
        """Raise UsageError for a setting out of range."""
        if self.world not in MIXES:
            raise UsageError(f"world={self.world}: write {' or '.join(MIXES)}")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: write 1 or more")


def encode(processor: Qwen2_5_VLProcessor, tasks: Sequence[Task]) -> tuple[BatchFeature, torch.Tensor]:
    """Model inputs for N tasks, padded to T tokens, and labels of shape (N, T): -100 except on the answer and its end of turn."""
    texts = []
    for task in tasks:
        content = [{"type": "image"} for _ in task.views]
        messages: Any = [
            {"role": "user", "content": [*content, {"type": "text", "text": task.question}]},
            {"role": "assistant", "content": DeepEyes().write(Answer(task.answer))},
        ]
        texts.append(processor.apply_chat_template(messages).removesuffix("\n"))
    images = [image for task in tasks for image in task.views]
    inputs = processor(text=texts, images=images or None, padding=True, padding_side="right", return_tensors="pt")
    labels = inputs["input_ids"].clone()
    marker = torch.tensor(processor.tokenizer(ANSWER_STARTS).input_ids)
    windows = inputs["input_ids"].unfold(1, len(marker), 1)
    starts = (windows == marker).all(-1).int().argmax(1) + len(marker)
    positions = torch.arange(labels.shape[1])
    labels[(positions < starts[:, None]) | (inputs["attention_mask"] == 0)] = -100
    return inputs, labels


def pretrain(config: PretrainingConfig, advance: Advance = silent) -> dict[str, float]:
    """Build, pre-train and save a starter policy to `config.out`; return its accuracy by kind on the validation split.

    `pretraining.json` beside the weights holds the settings, the accuracies (shares) and the seconds that it took. Raises
    UsageError for settings out of range, and if `config.out` is not empty.
    """
    config.check()
    started = time.monotonic()
    with new_directory(Path(config.out)) as directory:
        model, processor = _trained(config, advance)
        accuracies = measure(model, processor, config.world)
        build(directory, config.seed, config.world)
        model.save_pretrained(directory)
        record = {"config": asdict(config), "accuracy": accuracies, "seconds": round(time.monotonic() - started, 1)}
        (directory / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")
    return accuracies


def _trained(config: PretrainingConfig, advance: Advance) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    draw, rng = Basics("train", world=config.world), np.random.default_rng(config.seed)
    processor = build_processor(config.world)
    model = build_model(processor.tokenizer, config.seed)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, config))
    for step in range(config.steps):
        optimizer.zero_grad(set_to_none=True)
        loss = _backward(model, processor, [draw(rng) for _ in range(config.batch_size)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        advance(step + 1, f"loss {loss:.3f}")
    return model, processor


@torch.inference_mode()
def measure(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, world: str = "microworld", per_kind: int = 200
) -> dict[str, float]:
    """Share of validation tasks of each kind whose whole answer is the model's greedy choice."""
    model.eval()
    rng = np.random.default_rng(1 << 20)
    accuracies = {}
    for kind in MIXES[world]:
        draw = Basics("validation", kind, world)
        inputs, labels = encode(processor, [draw(rng) for _ in range(per_kind)])
        choices = model(**inputs).logits[:, :-1].argmax(-1)
        targets = labels[:, 1:]
        accuracies[kind] = float(((choices == targets) | (targets == -100)).all(1).float().mean())
    return accuracies


def _backward(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, tasks: Sequence[Task]) -> float:
    """Computes gradients of the mean loss per answer token, which is returned. Each half of the batch is padded separately."""
    tasks = sorted(tasks, key=lambda task: len(task.question))
    halves = [encode(processor, half) for half in (tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :]) if half]
    tokens = sum(int((labels >= 0).sum()) for _, labels in halves)
    total = 0.0
    for inputs, labels in halves:
        logits = model(**inputs).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum") / tokens
        loss.backward()
        total += loss.item()
    return total


def _cosine(step: int, config: PretrainingConfig) -> float:
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)))
