"""ToolEnv: a tool-use task as a `gymnasium.Env`, with a coroutine face for rollouts and the plain one for everybody else."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Dict
from PIL import Image

from envs.errors import UsageError
from envs.protocol import Action, Answer, Call, Code, Malformed, encodable, escape, parse
from envs.rewards import Reward
from envs.search.backends import open_image_search, open_text_search
from envs.search.types import ImageSearch, TextSearch
from envs.spaces import RGBImage, Unicode
from envs.tools.outputs import REAL
from envs.tools.toolbox import TOOLS, Toolbox
from envs.types import Observation, Script, Task, ToolCall, ToolResult, ToolStatus
from sandbox import Limits, Pool

if TYPE_CHECKING:
    from envs.scoring.judge import Judge

T = TypeVar("T")
TaskSource = Callable[[np.random.Generator], Task]
MAX_CHARACTERS = 1 << 20
MAX_SIDE = 1 << 14


class ToolEnv(gymnasium.Env[Observation, str]):
    """One question per episode; the action is the model's text, the observation what the tool it called gave back.

    `step_async` is the work: a rollout awaits thousands of them in one thread. `step` runs it to completion. An answer terminates;
    a spent budget of `max_turns` actions truncates. A malformed action or a failed tool is an observation. Tool text is escaped.

    `tools` are those that the model may call; by default code, and the searches that there are. `text_search` and `image_search`
    are searches, or settings as `envs.search.backends` has them; they give at most `top_k` results, within `search_s` seconds.

    `tool_outputs` other than "real" hides what tools return: see `envs.tools.outputs`. `judge` is a `Judge` or its settings, for
    tasks that want one.

    `info` at reset: `task_id`, `abilities`, `source`, `needed_tools`. At each step: `tool_call` (a `ToolCall` or None); on the last
    one also `answer` and `reward_parts`. A `tool_call` with status FAILURE means that the machine failed: the episode should be run
    again.

    `sandbox` is a running pool, shared with other environments; without it the environment starts one of its own when code first
    runs.
    """

    metadata = {  # noqa: RUF012  Gymnasium declares it as it stands
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 1,
    }

    def __init__(
        self,
        tasks: TaskSource,
        *,
        tools: Sequence[str] | None = None,
        text_search: TextSearch | str | Mapping[str, Any] | None = None,
        image_search: ImageSearch | str | Mapping[str, Any] | None = None,
        top_k: int = 5,
        search_s: float = 30.0,
        tool_outputs: str = REAL,
        sandbox: Pool | None = None,
        limits: Limits | None = None,
        reward: Reward | None = None,
        judge: Judge | Mapping[str, Any] | None = None,
        max_turns: int = 8,
        render_mode: str | None = None,
    ) -> None:
        if max_turns < 1:
            raise ValueError(f"max_turns is {max_turns}: it must be at least 1")
        self.observation_space: Any = Dict({"text": Unicode(MAX_CHARACTERS), "images": spaces.Sequence(RGBImage(MAX_SIDE))})
        self.action_space = Unicode(MAX_CHARACTERS)
        self.render_mode = render_mode
        self._tasks = tasks
        self._sandbox = sandbox
        self._owned_sandbox: Pool | None = None
        self._limits = limits or Limits()
        self._reward = reward or Reward()
        if judge is not None:
            from envs.scoring.judge import open_judge  # takes a second to import, and few tasks want it

            self._reward = replace(self._reward, judge=open_judge(judge))
        self._max_turns = max_turns
        self._loop: _LoopThread | None = None
        self._toolbox: Toolbox | None = None
        self._searches: dict[str, Any] = {
            "text_search": open_text_search(text_search),
            "image_search": open_image_search(image_search),
        }
        self._tool_settings: dict[str, Any] = {"top_k": top_k, "search_s": search_s, "outputs": tool_outputs}
        self.tools = _enabled(tools, self._searches)
        self._task: Task | None = None
        self._actions: list[str] = []
        self._transcript: list[str] = []
        self._last_image = np.zeros((1, 1, 3), np.uint8)
        self._tool_calls = 0
        self._over = True

    async def reset_async(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode. `options={"task": Task(…)}` chooses the task; otherwise the seed does."""
        super().reset(seed=seed)
        await self._close_tools()
        task = (options or {}).get("task") or self._tasks(self.np_random)
        self._task, self._actions, self._tool_calls, self._over = task, [], 0, False
        enabled = [tool for tool in self.tools if task.tools is None or tool in task.tools]
        self._toolbox = Toolbox(enabled, task, pool=self._pool, **self._searches, **self._tool_settings)
        observation = _observe(task.question, task.views or task.images)
        self._transcript = [task.question]
        self._remember_image(observation)
        return observation, {
            "task_id": task.task_id,
            "abilities": task.abilities,
            "source": task.source,
            "needed_tools": task.needed_tools,
        }

    async def step_async(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one action; see the class for what comes back."""
        if self._task is None or self._over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset first")
        self._actions.append(action)
        parsed = parse(action)
        answer = parsed.text if isinstance(parsed, Answer) else None
        call: ToolCall | None = None
        observation = _observe("", ())
        if answer is None:
            call, result = await self._act(parsed)
            # The remedy for a malformed action is our own text: its tags are meant.
            text = escape(result.text) if call else result.text
            if isinstance(parsed, Call):
                text = f"<tool_response>\n{text}\n</tool_response>"
            observation = _observe(text, result.images)
            self._tool_calls += call is not None
        failed = call is not None and call.status is ToolStatus.FAILURE
        truncated = answer is None and (failed or len(self._actions) >= self._max_turns)
        self._transcript += [action, observation["text"]]
        self._remember_image(observation)
        info: dict[str, Any] = {"tool_call": call}
        reward = 0.0
        if answer is not None or truncated:
            self._over = True
            reward, parts = await self._reward(self._actions, answer, self._task, self._tool_calls)
            info |= {"answer": answer, "reward_parts": parts}
            await self._close_tools()
        return observation, reward, answer is not None, truncated, info

    async def close_async(self) -> None:
        """Close the sandbox session, and the pool if it is this environment's own."""
        await self._close_tools()
        self._over = True
        if self._owned_sandbox is not None:
            pool, self._owned_sandbox = self._owned_sandbox, None
            await pool.__aexit__(None, None, None)

    def expert(self, rng: random.Random) -> Script:
        """The scripted expert of the current task. Raises ValueError where the task has none."""
        if self._task is None or self._task.expert is None:
            raise ValueError("this task has no scripted expert: choose another policy")
        return self._task.expert(rng)

    def random_actor(self, rng: random.Random) -> Script:
        """Answers a guess at once, and nothing else: the floor that any policy must beat."""
        yield f"<answer>{rng.randint(0, 9)}</answer>"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        return self._run(self.reset_async(seed=seed, options=options))

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        return self._run(self.step_async(action))

    def render(self) -> str | np.ndarray | None:
        """`ansi`: the transcript so far; `rgb_array`: the last image seen."""
        if self.render_mode == "ansi":
            return "\n".join(self._transcript)
        return self._last_image if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        if self._loop is not None:
            self._run(self.close_async())
            self._loop.stop()
            self._loop = None

    async def _act(self, action: Action) -> tuple[ToolCall | None, ToolResult]:
        if isinstance(action, Malformed):
            return None, ToolResult(action.reason, status=ToolStatus.ERROR)
        assert isinstance(action, Code | Call) and self._toolbox is not None
        return await self._toolbox.act(action)

    async def _pool(self) -> Pool:
        if self._sandbox is not None:
            return self._sandbox
        if self._owned_sandbox is None:
            self._owned_sandbox = await Pool(limits=self._limits, size=1).__aenter__()
        return self._owned_sandbox

    async def _close_tools(self) -> None:
        if self._toolbox is not None:
            toolbox, self._toolbox = self._toolbox, None
            await toolbox.close()

    def _remember_image(self, observation: Observation) -> None:
        if observation["images"]:
            self._last_image = observation["images"][-1]

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = _LoopThread()
        return self._loop.run(coroutine)


def _enabled(tools: Sequence[str] | None, searches: dict[str, Any]) -> tuple[str, ...]:
    """Raises UsageError for a tool that does not exist, or whose backend is missing."""
    there = tuple(tool for tool in TOOLS if searches.get(tool, True) is not None)
    for tool in tools or ():
        if tool not in TOOLS:
            raise UsageError(f"there is no tool {tool!r}: write some of {', '.join(TOOLS)}")
        if tool not in there:
            raise UsageError(f"the tool {tool} has nothing to search in: give {tool}=… as well")
    return there if tools is None else tuple(tools)


class _LoopThread:
    """An event loop in a thread of its own, so that `step` also works where a loop is running already, as in a notebook."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="toolwise-env", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _observe(text: str, images: tuple[Image.Image, ...]) -> Observation:
    return {"text": encodable(text[:MAX_CHARACTERS]), "images": tuple(np.asarray(image.convert("RGB")) for image in images)}
