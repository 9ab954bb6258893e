"""Small runs for the tests of the page: records as training writes them, of tasks that are played at each step."""

from __future__ import annotations

import json
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from rollout.learned import Learned, LearnedFiles
from rollout.store import Store
from rollout.types import Episode, StopReason, ToolCallRecord, Trajectory, Turn

HOSTILE = (
    "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">\x1b[31mred\x1b[0m a\u202eb\u200bc"
)
LONG_TOKENS = 30_000
LONG_OUTPUT = 10_000_000
TASKS: list[dict[str, Any]] = [
    {"task": "digits", "ability": "perception", "needs": True, "question": "What digit is on the plate?", "image": "navy"},
    {"task": "sum", "ability": "reasoning", "needs": True, "question": "What is 39 times 51?"},
    {"task": "colour", "ability": "perception", "needs": False, "question": "What colour is the sky?", "image": "teal"},
]
EPISODES = 4


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(Path(__file__).parents[3] / "starter/microworld/tokenizer.json"))


def _png(colour: str) -> tuple[str, bytes]:
    from hashlib import sha256

    buffer = BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    return sha256(buffer.getvalue()).hexdigest(), buffer.getvalue()


def tokens(parts: list[tuple[int, str]], version: int) -> dict[str, list[Any]]:
    """The four lists of a transcript whose parts are (sampled or not, text)."""
    ids, mask = [], []
    for sampled, text in parts:
        found = _tokenizer().encode(text, add_special_tokens=False).ids
        ids += found
        mask += [sampled] * len(found)
    logprobs = [-0.25 * (place % 9) * sampled for place, sampled in enumerate(mask)]
    return {"token_ids": ids, "loss_mask": mask, "logprobs": logprobs, "versions": [version if one else -1 for one in mask]}


def episode(
    name: str, task: dict[str, Any], number: int, *, calls: int = 1, correct: bool = True, version: int = 0, **fields: Any
) -> Episode:
    """An episode of `task`, with `calls` calls of the code tool before its answer."""
    answer = fields.pop("answer", "1989" if correct else "17")
    status, output = fields.pop("status", "ok"), fields.pop("output", "1989")
    code = "```python\n# the product\nprint(39 * 51)\n```"
    turns = [
        Turn(
            action=f"<code>\n{code}\n</code>", observation=output, tool_calls=[ToolCallRecord("code", status, 0.25)], generate_s=0.4
        )
        for _ in range(calls)
    ]
    turns.append(Turn(action=f"<answer>{answer}</answer>", generate_s=0.1))
    prompt = f"<|im_start|>user\n{task['question']}<|im_end|>\n<|im_start|>assistant\n"
    parts = [(0, prompt)]
    for turn in turns:
        parts += [
            (1, f"{turn.action[:400]}<|im_end|>"),
            (0, f"\n<|im_start|>user\n{turn.observation[:400]}<|im_end|>\n<|im_start|>assistant\n"),
        ]
    lists = tokens(parts[:-1], version)
    images = dict([_png(task["image"])]) if "image" in task else {}
    facts = {
        "episode_id": f"{name}-{task['task']}-{number}",
        "task_id": task["task"],
        "group_id": f"{name}-{task['task']}",
        "abilities": (task["ability"],),
        "source": "page",
        "seed": 0,
        "prompt_length": len(tokens(parts[:1], 0)["token_ids"]),
        "images": list(images),
        "turns": turns,
        "reward": 0.8 * correct + 0.2 - 0.08 * calls,
        "reward_parts": {"accuracy": float(correct), "format": 1.0},
        "answer": answer,
        "stop_reason": StopReason.ANSWERED,
        "needed_tools": ["code"] if task["needs"] else [],
    }
    return Episode((Trajectory(**lists | facts | fields),), images)


def step_of(step: int) -> list[Episode]:
    """The episodes of a step: all that differ in right or wrong, calls, status and end."""
    name = f"rl_{step:06}"
    played = []
    for place, task in enumerate(TASKS):
        for number in range(EPISODES):
            ends = {"stop_reason": StopReason.TURN_LIMIT, "answer": None} if (place, number) == (1, 3) else {}
            status = {"status": "exception", "output": "NameError: name 'imge' is not defined"} if (place, number) == (0, 2) else {}
            calls = 0 if place == 2 else 1 + number % 2
            played.append(
                episode(name, task, number, calls=calls, correct=number <= step and not ends, version=step, **ends, **status)
            )
    return played


def metrics_of(step: int) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    right = min(1.0, (step + 1) / 4)
    line = {"stage": "rl", "step": step, "global_step": 3 + step, "critic/score/mean": 0.2 + 0.7 * right, "reward/accuracy": right}
    line |= {f"ability/{name}/reward/accuracy": right for name in ("perception", "reasoning")}
    line |= {
        "tools/calls_per_episode/mean": 0.7,
        "tools/calls_per_episode/std": 0.4,
        "tools/code/frequency": 0.6,
        "tools/code/error_rate": 0.1,
    }
    line |= {
        "by_need/needed/tool_use": 1.0,
        "by_need/not_needed/tool_use": 0.1,
        "rollout/logprob_gap": 1e-6,
        "rollout/logprob_gap_max": 1e-4,
    }
    line |= {
        "timing_s/rollout": 2.0,
        "timing_s/learn": 1.0,
        "timing_s/step": 3.1,
        "response_length/mean": 9.0,
        "tools/collapse_alarm": float(step == 2),
    }
    return line | {"actor/entropy": float("nan") if step == 1 else 0.5}


def _record(label: str, accuracy: float) -> dict[str, Any]:
    part = {
        "episodes": 200,
        "accuracy": accuracy,
        "ci95": [accuracy - 0.06, accuracy + 0.06],
        "calls_per_episode": {"mean": 0.5, "var": 0.25},
    }
    need = {
        "needed": {"episodes": 100, "accuracy": accuracy - 0.2, "tool_use": 0.9},
        "not_needed": {"episodes": 100, "accuracy": accuracy + 0.2, "tool_use": 0.1},
    }
    return {
        "label": label,
        "policy": "starter",
        "tasks": "page",
        "seed": 1,
        "temperature": 1.0,
        **part,
        "by_ability": {"perception": part},
        "by_need": need,
    }


def append_step(run: Path, step: int, *, by_need: bool = True) -> None:
    """One more step of a training that goes on; with the metrics by need or, as older runs, without."""
    Store(run).write(f"rl_{step:06}", step_of(step))
    line = {name: value for name, value in metrics_of(step).items() if by_need or not name.startswith("by_need")}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def make_run(run: Path, steps: int, *, finished: bool = True, by_need: bool = True) -> Path:
    """A run directory of so many steps."""
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("policy: starter\ntasks: page\nstages: [cold_start, rl]\nrl: {steps: 8}\n")
    (run / "progress.json").write_text(json.dumps({"cold_start": True, "rl": finished}))
    lines = [{"stage": "cold_start", "step": step, "global_step": step, "train/loss": 1.0 / (1 + step)} for step in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "evaluation.json").write_text(json.dumps([_record("base", 0.25), _record("rl", 0.75)]))
    for step in range(steps):
        append_step(run, step, by_need=by_need)
    return run


def add_ablation(run: Path) -> None:
    """Episodes of the evaluation, and the same with the tool's outputs taken away, which one task can do without; the files that
    tell what became of them."""
    store = Store(run)
    store.write("episodes", [episode("episodes", task, 0) for task in TASKS])
    store.write("blank", [episode("blank", task, 0, correct=not task["needs"], output="") for task in TASKS])

    def share(value: float) -> dict[str, Any]:
        return {"share": value, "ci95": [value / 2, value]}

    use = {"episodes": 3, "answer_changes": share(2 / 3), "accuracy_real": share(1.0), "accuracy_then": share(1 / 3)}
    necessity = {"episodes": 3, "only_with": share(0.5), "anyway": share(0.25), "broken_by": share(0.0), "never": share(0.125)}
    (run / "ablation.json").write_text(json.dumps({"left_out": 0, "blank": {"all": use}, "without code": {"needed": necessity}}))
    change = {"value": 0.25, "ci95": [0.125, 0.5], "p": 0.01}
    checkpoint = {"name": "step_3", "items": 3, "accuracy": change, "change": change, "intrinsic": change, "by_tools": change}
    (run / "med.json").write_text(json.dumps({"left_out": 0, "checkpoints": [checkpoint], "tool_share": 0.4, "items": []}))


def add_learned(run: Path, step: int) -> None:
    """What two ranks learned of a step: the first rank's sequences have an advantage each, the second's one for each token."""
    name = f"rl_{step:06}"
    played = [one.trajectory for one in step_of(step)]
    files = LearnedFiles.of(run, name, {one.group_id: name for one in played})
    for rank in range(2):
        sequences = []
        for one in played[rank::2]:
            log_probs = np.array([value for value, mask in zip(one.logprobs, one.loss_mask, strict=True) if mask], np.float32) - 0.5
            advantages = np.linspace(-1, 1, len(log_probs), dtype=np.float32) if rank else None
            sequences.append((one.group_id, Learned(one.episode_id, 0, 0.125, advantages, log_probs)))
        files.write(sequences, rank, 2)


def add_hostile(run: Path) -> None:
    """Texts and files that try to break the page: scripts, control characters, a huge output, a missing image, very many tokens."""
    task = {
        "task": f"hostile{HOSTILE}".replace("/", ""),
        "ability": f"ability {HOSTILE}",
        "needs": True,
        "question": "What is this?",
    }
    huge = "<b>line</b>\n" * (LONG_OUTPUT // 12)
    missing = Turn(
        action=f"<code>{HOSTILE}</code>",
        observation=HOSTILE,
        images=["0" * 64],
        tool_calls=[ToolCallRecord("code<b>", "ok<i>", 0.1)],
    )
    many = tokens([(0, "What is this?" * 2)], 0)
    length = len(many["token_ids"])
    many = {key: (values * (LONG_TOKENS // length + 1))[:LONG_TOKENS] for key, values in many.items()}
    fields = {"prompt_length": 10, "group_id": "hostile"}
    played = [
        episode(
            "hostile",
            task,
            0,
            answer=HOSTILE,
            turns=[missing, Turn(action=f"<answer>{HOSTILE}</answer>")],
            images=["0" * 64],
            **fields,
        ),
        episode("hostile", task, 1, output=huge, **fields),
        episode("hostile", task, 2, **fields, **many),
    ]
    path = Store(run).write("hostile", played)
    with path.open("a") as file:
        file.write('{"episode_id": "broken", "task_id"\n')
    (run / "trajectories" / "._hostile.jsonl").write_text("")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "rl"}\n{"stage": "rl", "st')
