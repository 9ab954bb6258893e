"""ToolEnv: a tool-use task as a `gymnasium.Env`, with an async interface for rollouts and Gymnasium's own for other users."""

from __future__ import annotations

import asyncio
import random
import reprlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Dict
from PIL import Image

from envs.errors import UsageError
from envs.pictures import fitted, rgb
from envs.protocols.actions import Answer, Call, Calls, Malformed
from envs.protocols.opening import open_protocol
from envs.protocols.protocol import Message, Protocol, ToolGuide
from envs.protocols.text import encodable, escape
from envs.rewards import Reward, open_reward
from envs.runtime.loops import LoopThread
from envs.runtime.offloading import converted, on_thread
from envs.runtime.spaces import RGBImage, Unicode
from envs.scoring import Kind, grade, verdict_on
from envs.search.types import ImageSearch, TextSearch
from envs.tools.opening import SearchOptions, ToolSetting, open_tools, require_different
from envs.tools.outputs import REAL, given
from envs.tools.tool import Tool
from envs.tools.toolbox import Toolbox
from envs.types import Observation, Outcome, Script, Task, ToolCall, ToolResult, ToolStatus
from sandbox import Limits, Pool

if TYPE_CHECKING:
    from envs.scoring.judge import Judge

T = TypeVar("T")
TaskSource = Callable[[np.random.Generator], Task]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]
MAX_CHARACTERS = 1 << 20
MAX_SIDE = 1 << 14
MAX_PIXELS = 1 << 24
"""What an observation shows of an image, in pixels a side and in all: a larger one is scaled down. Tools have the whole image."""


class ToolEnv(gymnasium.Env[Observation, str]):
    """One question per episode. An answer terminates it, a spent budget of `max_turns` turns truncates it.

    It is driven by text or by call. By text, the action is a whole turn of the model, which `protocol` reads: `step_async` does the
    work (a rollout awaits thousands of them in one thread), and `step` runs it to completion. By call, `tool_schemas` lists the
    tools, `await call(name, arguments)` is a turn, and `await finish(answer)` ends the episode. Records, escapes, deadlines and
    counts are the same either way. A malformed action or a failed tool is an observation; the output of tools is escaped.

    `tasks` draws a task with a NumPy generator, or is a sequence of tasks to draw from; one with the attribute `reads_files = True`
    is called on threads, so that no episode waits for another's pictures. `tools` lists what the model may call: see
    `envs.tools.opening`; by default code, and the searches that have something to search in. `without` takes some away by name.
    `reward` is scored at the end: see `envs.rewards.reward`; `judge` is a `Judge` or its settings, for tasks that need one.
    `text_search`, `image_search`, `top_k` and `search_s` (seconds) configure the built-in searches; `tool_outputs` other than
    "real" replaces what tools return, and `given_results` names a file of results that stand behind the question: see
    `envs.tools.outputs`.

    `info` at reset: `task_id`, `abilities`, `source`, `needed_tools`. At each step: `tool_calls` (a `ToolCall` each), `tool_call`
    (the first of them, or None), and `messages`, which hold the observation with its roles; at the last step also `answer` and
    `reward_parts`. A call with status FAILURE means that our infrastructure failed: the episode should be run again.

    `sandbox` is a running pool, shared with other environments, and may be set until the first reset; without it the environment
    starts a pool when code first runs.
    """

    metadata = {  # noqa: RUF012  Gymnasium declares it as it stands
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 1,
    }

    def __init__(
        self,
        tasks: TaskSource | Sequence[Task],
        *,
        tools: Sequence[ToolSetting] | None = None,
        without: Sequence[str] = (),
        protocol: str | Mapping[str, Any] | Protocol | type[Protocol] = "deepeyes",
        reward: Any = None,
        judge: Judge | Mapping[str, Any] | None = None,
        max_turns: int = 8,
        text_search: TextSearch | str | Mapping[str, Any] | None = None,
        image_search: ImageSearch | str | Mapping[str, Any] | None = None,
        top_k: int = 5,
        search_s: float = 30.0,
        tool_outputs: str = REAL,
        given_results: str | None = None,
        sandbox: Pool | None = None,
        limits: Limits | None = None,
        render_mode: str | None = None,
    ) -> None:
        if not isinstance(max_turns, int) or max_turns < 1:
            raise UsageError(f"max_turns is {max_turns}: write a whole number, 1 or more")
        if isinstance(without, str):
            raise UsageError(f"without={without}: write a list, as in without=[{without}]")
        self.observation_space: Any = Dict({"text": Unicode(MAX_CHARACTERS), "images": spaces.Sequence(RGBImage(MAX_SIDE))})
        self.action_space = Unicode(MAX_CHARACTERS)
        self.render_mode = render_mode
        self.sandbox = sandbox
        self.protocol = open_protocol(protocol)
        self._tasks: TaskSource = _one_of(tasks) if isinstance(tasks, Sequence) or not callable(tasks) else tasks
        self._sources = open_tools(tools, SearchOptions(text_search, image_search, top_k, search_s))
        self._without = frozenset(without)
        known = [source for source in self._sources if isinstance(source, Tool)]
        self._tools = self._offered(known, complete=len(known) == len(self._sources))
        self._reward: Reward = open_reward(reward)
        self._judge: Judge | None = None
        if judge is not None:
            from envs.scoring.judge import open_judge  # takes a second to import, and few tasks need it

            self._judge = open_judge(judge)
        self._max_turns, self._outputs, self._limits = max_turns, tool_outputs, limits or Limits()
        self._given = given(given_results) if given_results else None
        self._owned_sandbox: Pool | None = None
        self._starting, self._one_at_a_time = asyncio.Lock(), asyncio.Lock()
        self._loop: LoopThread | None = None
        self._task: Task | None = None
        self._toolbox: Toolbox | None = None
        self._actions: list[str] = []
        self._calls: list[ToolCall] = []
        self._turns = 0
        self._final: Step | None = None
        self._transcript: list[str] = []
        self._last_image = np.zeros((1, 1, 3), np.uint8)

    @property
    def tools(self) -> tuple[str, ...]:
        """Names of the tools; those of an MCP server from the first reset on."""
        return tuple(tool.name for tool in self._tools)

    @property
    def task(self) -> Task | None:
        """The task of the current episode; None before the first reset."""
        return self._task

    @property
    def tool_schemas(self) -> list[dict[str, Any]]:
        """The tools of the current episode in OpenAI's form; before the first reset, all tools."""
        return [dict(tool.guide.schema) for tool in self._allowed()]

    @property
    def tool_guides(self) -> list[ToolGuide]:
        """What a protocol explains those tools by."""
        return [tool.guide for tool in self._allowed()]

    def instructions(self, with_tools: bool = True) -> str:
        """The system prompt that explains the protocol and, unless they are shown elsewhere, the tools of the current episode."""
        return self.protocol.instructions(self.tool_guides if with_tools else [])

    async def reset_async(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode. `options={"task": Task(…)}` chooses the task; otherwise the seed does."""
        super().reset(seed=seed)
        await self._close_tools()
        if not all(isinstance(source, Tool) for source in self._sources):
            listed = [[source] if isinstance(source, Tool) else await source.tools() for source in self._sources]
            self._tools = self._offered([tool for tools in listed for tool in tools], complete=True)
        task: Task = (options or {}).get("task") or await self._draw()
        if any(image.mode != "RGB" or "exif" in image.info for image in task.images):
            task = replace(task, images=await converted(rgb, task.images))
        self._task, self._actions, self._calls, self._turns, self._final = task, [], [], 0, None
        self._toolbox = Toolbox(self._allowed(), task, sandbox=self._pool, outputs=self._outputs)
        self._transcript = []
        asked = f"{task.system}\n\n{task.question}" if task.system else task.question
        shown = task.views or task.images
        if self._given is not None:
            asked, shown = f"{asked}\n\n{self._given[0]}", (*shown, *self._given[1])
        observation = await self._observe([Message("user", asked, shown)])
        return observation, {
            "task_id": task.task_id,
            "abilities": task.abilities,
            "source": task.source,
            "needed_tools": task.needed_tools,
        }

    async def step_async(self, action: str) -> Step:
        """Take one turn; the class says what is returned."""
        async with self._one_at_a_time:
            return await self._step(action)

    async def _step(self, action: str) -> Step:
        self._require_running()
        self._actions.append(action)
        self._transcript.append(action)
        parsed = self.protocol.parse(action)
        if isinstance(parsed, Answer):
            return await self._answered(parsed.text, parsed.note)
        if isinstance(parsed, Malformed):
            # The remedy is our own text: its tags are intended and not escaped.
            return await self._next([], [self.protocol.remedy(parsed)])
        if not isinstance(parsed, Calls):
            raise UsageError(f"the protocol {self.protocol.name} read {parsed!r}: its parse gives Answer, Calls or Malformed")
        ended = await self._run_calls(parsed.calls)
        safe = [(result.text, result.images) for _, result in ended]
        messages = self.protocol.results(parsed.calls, safe)
        if parsed.note:
            *others, last = messages
            messages = [*others, replace(last, text=f"{last.text}\n{parsed.note}")]
        return await self._next([call for call, _ in ended], messages)

    async def call(self, name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """Call a tool, as one turn. The result's text is escaped. If it spends the budget, `finish` returns the truncated end.

        Concurrent calls are consecutive turns.
        """
        async with self._one_at_a_time:
            self._require_running()
            # Arguments that are not a JSON object are kept under one name, so that the tool can say what is wrong with them.
            given = {} if arguments is None else dict(arguments) if isinstance(arguments, Mapping) else {"arguments": arguments}
            call = Call(name, given)
            self._transcript.append(f"{name} {call.arguments}")
            ((record, result),) = await self._run_calls((call,))
            await self._next([record], [Message("tool", result.text, result.images)])
            return result

    async def finish(self, answer: str | None = None) -> Step:
        """End the episode with an answer, or without one (truncated). If the budget is spent already, the answer is ignored."""
        async with self._one_at_a_time:
            if self._task is not None and self._final is not None and self._final[3]:
                return self._final
            self._require_running()
            self._transcript.append(str(answer))
            return await (self._next([], [], give_up=True) if answer is None else self._answered(answer))

    async def close_async(self) -> None:
        """Close the sandbox session, and the pool if this environment started it."""
        await self._close_tools()
        self._task = None
        if self._owned_sandbox is not None:
            pool, self._owned_sandbox = self._owned_sandbox, None
            await pool.__aexit__(None, None, None)

    def expert(self, rng: random.Random) -> Script:
        """The scripted expert of the current task, written in the protocol. Raises UsageError if the task has none."""
        if self._task is None or self._task.expert is None:
            raise UsageError("this task has no scripted expert: choose another policy, or another teacher")
        return self._worded(self._task.expert(rng))

    def random_actor(self, rng: random.Random) -> Script:
        """A script that answers with a guess at once: the baseline that any policy must beat."""
        yield self.protocol.write(Answer(str(rng.randint(0, 9))))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        return self._run(self.reset_async(seed=seed, options=options))

    def step(self, action: str) -> Step:
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

    def _require_running(self) -> None:
        if self._task is None or self._final is not None:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset first")

    def _offered(self, tools: Sequence[Tool], complete: bool) -> list[Tool]:
        """All but those taken away; `complete` says that no server has yet to name others."""
        names = [tool.name for tool in tools]
        if complete and (unknown := self._without.difference(names)):
            raise UsageError(f"without={min(unknown)}: there is no such tool; write some of {', '.join(names) or 'none'}")
        offered = [tool for tool in tools if tool.name not in self._without]
        require_different(offered)
        return offered

    def _allowed(self) -> list[Tool]:
        allowed = None if self._task is None else self._task.tools
        return [tool for tool in self._tools if allowed is None or tool.name in allowed]

    async def _run_calls(self, calls: Sequence[Call]) -> list[tuple[ToolCall, ToolResult]]:
        assert self._toolbox is not None
        ended = await self._toolbox.run(calls)
        self._calls += [record for record, _ in ended]
        return [
            (record, ToolResult(encodable(escape(result.text[:MAX_CHARACTERS])), result.images, result.status))
            for record, result in ended
        ]

    async def _next(self, calls: list[ToolCall], messages: list[Message], give_up: bool = False) -> Step:
        """The step after a turn without an answer: it shows the results, and ends the episode if its budget is spent."""
        self._turns += not give_up
        failed = any(call.status is ToolStatus.FAILURE for call in calls)
        truncated = give_up or failed or self._turns >= self._max_turns
        observation = await self._observe(messages)
        info: dict[str, Any] = {"tool_call": calls[0] if calls else None, "tool_calls": calls, "messages": messages}
        reward = 0.0
        if truncated:
            reward, parts = await self._score(None)
            info |= {"answer": None, "reward_parts": parts}
        step = observation, reward, False, truncated, info
        if truncated:
            self._final = step
        return step

    async def _answered(self, answer: str, note: str = "") -> Step:
        self._turns += 1
        reward, parts = await self._score(answer)
        info = {"tool_call": None, "tool_calls": [], "messages": [], "answer": answer, "reward_parts": parts}
        self._final = await self._observe([Message("user", note)] if note else []), reward, True, False, info
        return self._final

    @property
    def reward_part_names(self) -> frozenset[str] | None:
        """The names that `reward_parts` may have, those of a group's parts included; None if the reward does not tell them."""
        names = getattr(self._reward, "part_names", None)
        return None if names is None else names | {"accuracy", "rubric_score", "judge_no_verdict"}

    async def _score(self, answer: str | None) -> tuple[float, dict[str, float]]:
        """The reward and its parts; they include the accuracy if the task has an answer."""
        task = self._task
        assert task is not None
        correct = False if task.answer else None
        facts: dict[str, float] = {}
        if task.answer and answer is not None:
            asked = task.question, answer, task.answer, task.scoring, self._judge
            if task.scoring.kind is Kind.RUBRIC:
                graded = await grade(*asked)
                verdict, facts["rubric_score"] = graded.passed, graded.score
            else:
                verdict = await verdict_on(*asked)
            correct = bool(verdict)
            if task.scoring.kind in (Kind.JUDGE, Kind.RUBRIC):
                facts["judge_no_verdict"] = float(verdict is None)
        well_formed = answer is not None and all(map(self.protocol.is_well_formed, self._actions))
        outcome = Outcome(task, answer, tuple(self._actions), tuple(self._calls), self._turns, correct, well_formed)
        reward, parts = await self._reward(outcome)
        await self._close_tools()
        return reward, ({} if correct is None else {"accuracy": float(correct)}) | facts | parts

    async def _pool(self) -> Pool:
        if self.sandbox is not None:
            return self.sandbox
        async with self._starting:
            if self._owned_sandbox is None:
                self._owned_sandbox = await Pool(limits=self._limits, size=1).__aenter__()
            return self._owned_sandbox

    async def _close_tools(self) -> None:
        if self._toolbox is not None:
            toolbox, self._toolbox = self._toolbox, None
            await toolbox.close()

    async def _draw(self) -> Task:
        if getattr(self._tasks, "reads_files", False):
            return await on_thread(self._tasks, self.np_random)
        return self._tasks(self.np_random)

    async def _observe(self, messages: Sequence[Message]) -> Observation:
        text = "\n".join(message.text for message in messages)
        images = await converted(_shown, [image for message in messages for image in message.images])
        self._transcript.append(text)
        if images:
            self._last_image = images[-1]
        return {"text": encodable(text[:MAX_CHARACTERS]), "images": images}

    def _worded(self, script: Script) -> Script:
        observation: Any = None
        while True:
            try:
                turn = next(script) if observation is None else script.send(observation)
            except StopIteration:
                return
            if not isinstance(turn, str | Calls | Answer):
                remedy = "yield Calls((Call(…),)), Answer(…) or the text of a turn"
                task = self._task.task_id if self._task else "?"
                raise UsageError(f"task {task}: its expert yields {turn!r:.100}: {remedy}")
            observation = yield turn if isinstance(turn, str) else self.protocol.write(turn)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = LoopThread()
        return self._loop.run(coroutine)


def _shown(image: Image.Image) -> np.ndarray:
    return np.asarray(fitted(rgb(image), MAX_PIXELS, MAX_SIDE))


def _one_of(tasks: Sequence[Task]) -> TaskSource:
    if isinstance(tasks, str) or not isinstance(tasks, Sequence) or not all(isinstance(task, Task) for task in tasks):
        raise UsageError(f"tasks are {reprlib.repr(tasks)}: give a list of Task, or a function that draws one")
    if not tasks:
        raise UsageError("there is no task: give at least one, or a function that draws one")
    return lambda rng: tasks[int(rng.integers(len(tasks)))]
