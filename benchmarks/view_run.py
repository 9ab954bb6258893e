"""A run of synthetic trajectories in the sizes of a real one: about 13 kB a record, two images each, groups of eight, 100 steps."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from rollout.types import StopReason, ToolCallRecord, Trajectory, Turn

STEPS = 100
GROUP_SIZE = 8
_IMAGES = 200
_SIDE = 112
_KINDS = 64
_ABILITIES = (("perception",), ("reasoning",), ("search",), ("search", "reasoning"))
_TOOLS = ("code", "text_search", "image_search")
_METRICS = 150


def write_run(run: Path, episodes: int) -> None:
    """Write `config.yaml`, `metrics.jsonl`, the images and `episodes` records into the directory `run`."""
    drawn = random.Random(0)
    images = _write_images(run / "trajectories" / "images")
    steps = [f'{{"stage": "rl", "step": {step}, "global_step": {step}, {_metrics(drawn)}}}\n' for step in range(STEPS)]
    (run / "metrics.jsonl").write_text("".join(steps))
    (run / "config.yaml").write_text("policy: starter\ntasks: toolwise/Microworld-v0\nstages: [rl]\nrl: {steps: 100}\n")
    kinds = [_kind(drawn, images) for _ in range(_KINDS)]
    words = ["".join(drawn.choices("abcdefghijklmnoprstuvwxy", k=drawn.randint(2, 10))) for _ in range(20_000)]
    weights = [1 / (place + 1) for place in range(len(words))]
    # Drawn once, cut anew for each record: sentences repeat across records as they do in real ones.
    text = " ".join(drawn.choices(words, weights, k=200_000))
    for step in range(STEPS):
        first, last = episodes * step // STEPS, episodes * (step + 1) // STEPS
        with (run / "trajectories" / f"rl_{step:06d}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(_line(drawn, kinds, text, step, number) for number in range(first, last))


def _line(drawn: random.Random, kinds: list[tuple[str, str, str]], text: str, step: int, number: int) -> str:
    """A record: one of a few kinds, with ids and texts of its own."""
    before, between, behind = kinds[drawn.randrange(len(kinds))]
    group = f"rl-{step}-{number // GROUP_SIZE}"
    ids = f'{{"episode_id":"{group}-{number % GROUP_SIZE}","task_id":"task-{number // GROUP_SIZE % 20_000}","group_id":"{group}"'
    rare = ("needle " if not number % 1000 else "") + ("rare7word " if not number % 20_000 else "")
    said = f"{_cut(drawn, text)} {rare}图中的数字"
    return f"{ids}{before}{said}{between}{_cut(drawn, text)}{behind}\n"


def _cut(drawn: random.Random, text: str) -> str:
    begin = drawn.randrange(len(text) - 1200)
    return text[begin : begin + drawn.randint(300, 1200)]


def _kind(drawn: random.Random, images: list[str]) -> tuple[str, str, str]:
    """A whole record as `Trajectory` writes it, without its ids, in three parts: texts go between them."""
    prompt, tokens = drawn.randint(60, 200), drawn.randint(250, 550)
    mask = [0] * prompt + [int(place % 100 < 60) for place in range(tokens)]
    tools = [ToolCallRecord(drawn.choice(_TOOLS), "ok" if drawn.random() < 0.9 else "error", drawn.random())] * drawn.randint(0, 2)
    shown = drawn.sample(images, 2)
    turns = [Turn(action="<<one>>", observation="<<two>>", images=shown[1:], tool_calls=tools, generate_s=0.5)]
    turns.append(Turn(action="<code>\nimage_1.crop((0, 0, 1, 1))\n</code><answer>the plate</answer>", generate_s=0.1))
    correct = drawn.random() < 0.6
    line = Trajectory(
        episode_id="e",
        task_id="t",
        group_id="g",
        abilities=drawn.choice(_ABILITIES),
        source="synthetic",
        seed=drawn.randrange(2**31),
        token_ids=[drawn.randrange(256) for _ in mask],
        loss_mask=mask,
        logprobs=[-drawn.random() if one else 0.0 for one in mask],
        versions=[100 if one else -1 for one in mask],
        prompt_length=prompt,
        images=shown,
        turns=turns,
        reward=round(drawn.random(), 3),
        reward_parts={"accuracy": float(correct), "format": 1.0},
        answer=str(drawn.randrange(100)),
        stop_reason=StopReason.ANSWERED if drawn.random() < 0.95 else StopReason.TURN_LIMIT,
        needed_tools=drawn.choice([[], ["code"], None]),
    ).to_json()
    rest = line.removeprefix('{"episode_id":"e","task_id":"t","group_id":"g"')
    before, rest = rest.split("<<one>>")
    between, behind = rest.split("<<two>>")
    return before, between, behind


def _write_images(directory: Path) -> list[str]:
    """Names of images of noise, which compress no better than photographs."""
    directory.mkdir(parents=True)
    noise = np.random.default_rng(0)
    names = []
    for _ in range(_IMAGES):
        made = BytesIO()
        Image.fromarray(noise.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)).save(made, "PNG")
        names.append(hashlib.sha256(made.getvalue()).hexdigest())
        (directory / f"{names[-1]}.png").write_bytes(made.getvalue())
    return names


def _metrics(drawn: random.Random) -> str:
    named: Iterator[str] = iter(["reward/accuracy", "tools/calls_per_episode/mean", *(f"metric/{one}" for one in range(_METRICS))])
    return ", ".join(f"{json.dumps(name)}: {drawn.random():.4f}" for name in named)
