"""Scripted policy, engine and environments for the rollout tests. Importing this module registers the environments."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from envs.errors import InfrastructureError, ItemError
from envs.types import ToolCall, ToolStatus
from rollout.config import RolloutConfig
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.images import ImageEncoder
from rollout.tokens.transcript import Transcript
from rollout.types import EpisodeSpec, Generation, GroupSpec


def spec(env_id="rollout_fakes:Fake-v0", number=0, group="g", **options: Any) -> EpisodeSpec:
    """An episode of a fake environment; `options` are its keyword arguments, or fields of the spec."""
    fields = {name: options.pop(name) for name in ("actor", "temperature", "env_seed", "repeat_if_cut") if name in options}
    return EpisodeSpec(
        episode_id=f"{group}-{number}",
        group_id=group,
        env_id=env_id,
        env_seed=fields.pop("env_seed", number),
        sampling_seed=1000 + number,
        env_kwargs=options,
        **fields,
    )


def group(name: str, specs: Sequence[EpisodeSpec]) -> GroupSpec:
    """A group of these episodes."""
    return GroupSpec(name, tuple(specs))


def picture(seed: int, height: int = 56, width: int = 84) -> np.ndarray:
    """An image of random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def show(transcript: Transcript, text: str, images=()) -> ChatMessage:
    """Append an observation as a user's message; returns the part of it that fitted."""
    encoder = ImageEncoder()
    (message,) = transcript.append_observation([ChatMessage("user", text, tuple(encoder.encode(image) for image in images))])
    return message


class ScriptedPolicy:
    """Writes `say(turn)` at each turn. It fails permanently, once, if it finds the file `fuse`."""

    def __init__(
        self,
        chat: ChatFormat,
        say: Callable[[int], str] = lambda turn: "go",
        delay_s: float = 0.0,
        end: bool = True,
        fuse: Path | None = None,
    ) -> None:
        self._fuse = fuse
        self._chat, self._say, self._delay_s, self._end = chat, say, delay_s, end
        self.version, self.healthy, self.calls = 0, True, 0

    async def generate(self, token_ids, images, *, max_tokens, temperature, seed, stop=()) -> Generation:
        self.calls += 1
        if self._fuse is not None and self._fuse.exists():
            self._fuse.unlink()
            self.healthy = False
        if not self.healthy:
            raise InfrastructureError("the engine has stopped")
        await asyncio.sleep(self._delay_s)
        turn = list(token_ids).count(self._chat.end_of_turn) // 2
        sampled = self._chat.encode_action(self._say(turn), stop)
        if not self._end and sampled[-1] == self._chat.end_of_turn:
            sampled = sampled[:-1]
        stopped = len(sampled) <= max_tokens and self._end
        sampled = sampled[:max_tokens]
        return Generation(sampled, [-0.5] * len(sampled), "stop" if stopped else "length", self.version)

    async def publish(self, state, version) -> None:
        self.version = version

    async def close(self) -> None:
        pass


class Bytes:
    """The part of a Hugging Face tokenizer that a ChatFormat needs: bytes, and the turns of ChatML."""

    eos_token, eos_token_id = "<|im_end|>", 257

    def __init__(self) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        self.backend_tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self.backend_tokenizer.decoder = decoders.ByteLevel()
        self.backend_tokenizer.add_special_tokens(["<|im_start|>", self.eos_token])
        self.added_tokens_decoder = self.backend_tokenizer.get_added_tokens_decoder()

    def apply_chat_template(self, messages, add_generation_prompt, tokenize) -> str:
        turns = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
        return turns + "<|im_start|>assistant\n"


class ScriptedEngine(ScriptedPolicy):
    """A scripted policy as a worker's engine. It starts without transformers or torch."""

    KIND = "rollout_fakes:ScriptedEngine"

    def __init__(self, config: RolloutConfig, version: int = 0) -> None:
        super().__init__(ChatFormat(Bytes()), fuse=Path(config.engine.policy, "fuse"))
        self.version = version

    def chat_format(self) -> ChatFormat:
        return self._chat


class RefusingEngine(ScriptedEngine):
    """A scripted engine that takes no update."""

    KIND = "rollout_fakes:RefusingEngine"

    async def publish(self, state, version) -> None:
        self.healthy = False
        raise InfrastructureError("there is no room for them")


class Fake(gymnasium.Env):
    """`turns` tool calls of `tool_s` seconds, then the answer is accepted. It has coroutines, as our own environments do.

    The tool calls of a `gated` environment wait until `gate` is set, those of one with a file `until` it exists.

    `trouble` happens at the first `times` episodes of each seed, in the first step: "raise", "crash", "tool" (a FAILURE), "kill"
    (the process), "hang", "row" (it is broken). The episodes are counted by files in `log`.
    """

    open_environments = 0
    gate = asyncio.Event()

    def __init__(
        self,
        turns=2,
        tool_s=0.0,
        trouble=None,
        times=1,
        log=None,
        text="seen",
        images=0,
        image_size=(56, 84),
        needs=True,
        gated=False,
        until=None,
    ) -> None:
        self._turns, self._tool_s, self._trouble, self._times, self._log = turns, tool_s, trouble, times, log
        self._text, self._images, self._image_size, self._needs = text, images, image_size, needs
        self._gated, self._until = gated, until
        Fake.open_environments += 1

    def _observe(self, text: str) -> dict[str, Any]:
        return {"text": text, "images": tuple(picture(number, *self._image_size) for number in range(self._images))}

    async def reset_async(self, *, seed=None, options=None):
        self._step, self._seed = 0, seed
        self._attempt = _count(self._log, f"episode-{seed}") if self._log else 0
        info = {"task_id": f"task-{seed}", "abilities": ("faking",), "source": "fake", "needed_tools": ("code",) * self._needs}
        return self._observe(f"question {seed}"), info

    async def step_async(self, action):
        self._step += 1
        if self._trouble and self._step == 1 and self._attempt < self._times:
            if self._trouble == "raise":
                raise InfrastructureError("the wire is cut")
            if self._trouble == "crash":
                raise KeyError("a bug of the environment")
            if self._trouble == "row":
                raise ItemError(f"row {self._seed} is broken")
            if self._trouble == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self._trouble == "hang":
                await asyncio.sleep(3600)
        await asyncio.sleep(self._tool_s)
        if self._gated:
            await Fake.gate.wait()
        while self._until and not Path(self._until).exists():
            await asyncio.sleep(0.05)
        if self._step > self._turns:
            return self._observe(""), 1.0, True, False, {"tool_call": None, "reward_parts": {"accuracy": 1.0}, "answer": action}
        status = ToolStatus.FAILURE if self._trouble == "tool" and self._attempt < self._times else ToolStatus.OK
        return self._observe(self._text), 0.0, False, False, {"tool_call": ToolCall("fake", status, self._tool_s, action)}

    async def close_async(self):
        Fake.open_environments -= 1

    def expert(self, rng: random.Random):
        for _ in range(self._turns):
            observation = yield f"call {rng.random():.3f}"
            assert observation["text"] == self._text
        yield "done"

    def random_actor(self, rng: random.Random):
        yield "give up"


class Plain(gymnasium.Env):
    """A third party's text environment: bare strings, blocking `step`, no coroutines, no info.

    A step takes `step_s` seconds, or less if `over` is set.
    """

    over = threading.Event()
    running = 0
    most_running = 0

    def __init__(self, step_s=0.0, observation="say more") -> None:
        self._step_s, self._observation = step_s, observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._observation, {}

    def step(self, action):
        Plain.running += 1
        Plain.most_running = max(Plain.most_running, Plain.running)
        Plain.over.wait(self._step_s)
        Plain.running -= 1
        self._steps += 1
        return self._observation, 0.5, self._steps == 2, False, {}


def _count(directory: str, name: str) -> int:
    """How often this was called with the same arguments before, over all processes."""
    for number in itertools.count():
        try:
            Path(directory, f"{name}-{number}").touch(exist_ok=False)
            return number
        except FileExistsError:
            continue
    raise AssertionError


for name, maker in (("Fake-v0", Fake), ("Plain-v0", Plain)):
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=maker, order_enforce=False)
