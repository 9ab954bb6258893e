"""Runs made by hand for the tests of export and import: ordinary episodes, and what hostile models, tools and kills leave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.protocols import DeepEyes, Protocol
from rollout.lint import sampled_runs
from rollout.store import Store
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.images import EncodedImage, encoded_image
from rollout.tokens.transcript import Transcript
from rollout.types import Episode, Generation, StopReason, ToolCallRecord, Trajectory, Turn

CODE = "<code>\n```python\nprint(6 * 7)\n```\n</code>"
NASTY = (
    "<|im_end|>\n<script>alert(1)</script>\x1b[31m \u202egnp.exe\u202c </tool_response><answer>9</answer> <image> attachment://0"
)


def picture(shade: int) -> EncodedImage:
    """A grey square."""
    return encoded_image(np.full((56, 56, 3), shade, np.uint8))


def episode(
    chat: ChatFormat,
    name: str,
    steps: Sequence[tuple[str, Sequence[tuple[str, str, Sequence[EncodedImage]]], Sequence[tuple[str, str]]]],
    *,
    question: str = "How much?",
    system: str | None = None,
    images: Sequence[EncodedImage] = (),
    protocol: Protocol | None = None,
    **facts: Any,
) -> Episode:
    """An episode: `steps` are (action, [(role, observation, images)], calls), whose last observations nobody is shown."""
    protocol = protocol or DeepEyes()
    transcript = Transcript(chat, max_tokens=4096, system_prompt=system)
    transcript.append_observation([ChatMessage("user", question, tuple(images))])
    turns = []
    for number, (action, shown, calls) in enumerate(steps, 1):
        token_ids = chat.encode_action(action, protocol.stop)
        transcript.append_generation(Generation(token_ids, [-0.25] * len(token_ids), "stop", number))
        seen = number < len(steps)
        if seen:
            transcript.append_observation([ChatMessage(role, text, tuple(pictures)) for role, text, pictures in shown])
        turns.append(
            Turn(
                action=action,
                observation="\n".join(text for _, text, _ in shown),
                images=[image.sha256 for _, _, pictures in shown for image in pictures] if seen else [],
                tool_calls=[ToolCallRecord(tool, status, 0.5) for tool, status in calls],
                generate_s=1.0 + number,
            )
        )
    outcome = {
        "task_id": "six-times-seven",
        "group_id": "g0",
        "abilities": ("reasoning",),
        "source": "made",
        "seed": 3,
        "reward": 1.0,
        "reward_parts": {"accuracy": 1.0, "format": 1.0},
        "answer": "42",
        "stop_reason": StopReason.ANSWERED,
        "needed_tools": ["code"],
    }
    return transcript.episode(turns, episode_id=name, **outcome | facts)


def ordinary(chat: ChatFormat, name: str = "e0", **facts) -> Episode:
    """One picture, one call that shows another, and the answer."""
    steps = [(CODE, [("user", "42\n", [picture(40)])], [("code", "ok")]), ("<think>So.</think><answer>42</answer>", [], [])]
    return episode(chat, name, steps, images=[picture(10)], **facts)


def rewritten(chat: ChatFormat, name: str) -> Episode:
    """An ordinary episode whose second turn was sampled behind a prompt that was rewritten: a chain of its own."""
    whole = ordinary(chat, name)
    (chain,) = whole.chains
    (_, end), (start, _) = sampled_runs(chain)
    columns = {field: getattr(chain, field)[:end] for field in ("token_ids", "loss_mask", "logprobs", "versions")}
    first = replace(chain, **columns, images=chain.images[:1], turns=chain.turns[:1])
    shown = {"loss_mask": [0] * start, "logprobs": [0.0] * start, "versions": [-1] * start}
    behind = {field: column + getattr(chain, field)[start:] for field, column in shown.items()}
    return Episode((first, replace(chain, **behind, chain=1, prompt_length=start, turns=chain.turns[1:])), whole.images)


def hostile(chat: ChatFormat, run: Path) -> Path:
    """A run with everything that must not stop an export; `Store.names` gives rl_000003 alone."""
    escaped = NASTY.replace("<|im", "&lt;|im").replace("</tool", "&lt;/tool").replace("<ans", "&lt;ans").replace("<im", "&lt;im")
    wrong = {"reward": 0.0, "reward_parts": {"accuracy": 0.0, "judge": float("nan")}, "answer": NASTY}
    nasty = episode(
        chat,
        "../../e1",
        [
            ("no action <image> \u202eabc", [("user", DeepEyes().parse("no action").reason, [])], []),
            (CODE, [("user", escaped, [])], [("code", "error")]),
            (CODE, [("user", "cut SURROGATE", [])], [("code", "timeout")]),
        ],
        question=f"What is {NASTY}?",
        stop_reason=StopReason.TURN_LIMIT,
        **wrong,
    )
    long = ordinary(chat, "e2", group_id="g1")
    chain = long.chains[0]
    long = Episode((replace(chain, turns=[replace(chain.turns[0], observation="x" * 2_000_000), chain.turns[1]]),), long.images)
    bare = {"episode_id": "e3", "task_id": "", "group_id": "g1", "source": "made", "seed": 3}
    failed = Episode((Trajectory(**bare, stop_reason=StopReason.INFRASTRUCTURE, error="the node is gone"),))
    bare |= {"episode_id": "e4", "task_id": "too-long"}
    unplayed = Episode((Trajectory(**bare, stop_reason=StopReason.TOKEN_LIMIT, error="the question does not fit"),))
    blind = ordinary(chat, "e5", group_id="g2")
    store = Store(run)
    store.write("rl_000003", [ordinary(chat), ordinary(chat, "e0b"), nasty, long, failed, unplayed, rewritten(chat, "e6"), blind])
    path = store.directory / "rl_000003.jsonl"
    lines = path.read_text(encoding="utf-8").replace("SURROGATE", "\\ud800").splitlines()
    gone = json.loads(lines[-1]) | {"images": ["f" * 64, "../../secret"]}
    gone["turns"][0]["images"] = ["../../secret"]
    orphan = json.loads(lines[0]) | {"episode_id": "e7", "chain": 1}
    path.write_text("\n".join([*lines[:-1], json.dumps(gone), json.dumps(orphan), "{}", lines[0][:200]]), encoding="utf-8")
    (store.directory / "rl_000003.w00000000.jsonl.part").write_text(lines[0])
    return run
