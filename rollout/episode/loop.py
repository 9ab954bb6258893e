"""One episode from reset to outcome: a pure loop that knows neither Ray nor vLLM.

Whatever happens, `run_episode` returns exactly one Episode. What the model did is an outcome; what the machine did is
INFRASTRUCTURE.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable
from typing import Any, TypeVar, cast

import gymnasium

from envs.errors import InfrastructureError, TokenBudgetExceeded, UsageError
from envs.protocol import instructions
from envs.types import Observation, ToolCall, ToolStatus
from rollout.config import PROTOCOL_PROMPT, EpisodeConfig
from rollout.episode.actors import Actor, EndpointActor, PolicyActor, ScriptActor, sampling
from rollout.episode.environments import Threads, adapt
from rollout.policy import ChatPolicy, Policy
from rollout.tokens.chat_format import ChatFormat
from rollout.tokens.images import EncodedImage
from rollout.tokens.transcript import Transcript
from rollout.types import Episode, EpisodeSpec, StopReason, ToolCallRecord, Trajectory, Turn

T = TypeVar("T")
log = logging.getLogger(__name__)

_CLOSE_S = 30.0
# Encoding more pixels than this takes longer than the event loop may be held up.
_INLINE_PIXELS = 1 << 17


async def run_episode(
    spec: EpisodeSpec,
    env: gymnasium.Env,
    policy: Policy | ChatPolicy | None,
    chat: ChatFormat,
    config: EpisodeConfig | None = None,
    *,
    threads: Threads | None = None,
) -> Episode:
    """Run `spec` on `env`, which is closed at the end; `policy` is needed for the actor "policy" only.

    Past a deadline the episode ends as TIME_LIMIT; cancelled, as ABORTED. Without a single sampled token there is nothing to judge
    the model by, so both are INFRASTRUCTURE then, like every error that is not the model's. Raises UsageError for what no second
    attempt would mend: an actor that the environment does not have, an observation that is not text, a prompt that cannot fit.
    """
    config = config or EpisodeConfig()
    run = _Run(spec, env, policy, chat, config, threads or Threads(1))
    error: str | None = None
    try:
        stop = await _within(config.episode_s, run.play())
    except _DeadlinePassed:
        stop = StopReason.TIME_LIMIT
    except asyncio.CancelledError:
        stop = StopReason.ABORTED
    except UsageError:
        raise
    except Exception as failure:
        stop, error = StopReason.INFRASTRUCTURE, f"{type(failure).__name__}: {failure}"
        log.warning("episode %s: %s", spec.episode_id, error, exc_info=not isinstance(failure, InfrastructureError))
    finally:
        await run.close()
    if error is None and not any(run.transcript.loss_mask):
        stop, error = StopReason.INFRASTRUCTURE, f"{stop}: not one token was sampled"
    return run.episode(stop, error)


def failed_episode(spec: EpisodeSpec, error: str) -> Episode:
    """The outcome of an episode that never ran."""
    trajectory = Trajectory(
        episode_id=spec.episode_id,
        task_id="",
        group_id=spec.group_id,
        source=spec.env_id,
        seed=spec.env_seed,
        stop_reason=StopReason.INFRASTRUCTURE,
        error=error,
        temperature=spec.temperature,
    )
    return Episode((trajectory,))


class _DeadlinePassed(Exception):
    """One of our deadlines, as opposed to a TimeoutError that an environment raised."""


async def _within[T](seconds: float, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await work
    except TimeoutError:
        if deadline.expired():
            raise _DeadlinePassed from None
        raise


class _Run:
    """The state of one episode while it runs."""

    def __init__(
        self,
        spec: EpisodeSpec,
        env: gymnasium.Env,
        policy: Policy | ChatPolicy | None,
        chat: ChatFormat,
        config: EpisodeConfig,
        threads: Threads,
    ) -> None:
        self._spec, self._raw_env, self._policy, self._chat, self._config = spec, env, policy, chat, config
        self._env = adapt(env, threads)
        tools = getattr(env.unwrapped, "tools", ())
        self._system_prompt = instructions(tools) if config.system_prompt == PROTOCOL_PROMPT else config.system_prompt
        self.transcript = Transcript(
            chat,
            max_tokens=config.max_tokens,
            reserve_tokens=min(config.max_action_tokens, config.max_tokens // 8),
            observation_tokens=config.max_observation_tokens,
            system_prompt=self._system_prompt,
        )
        self._turns: list[Turn] = []
        self._pending: Turn | None = None
        self._reset_info: dict[str, Any] = {}
        self._last_info: dict[str, Any] = {}
        self._reward = 0.0

    async def play(self) -> StopReason:
        """Reset, then turn after turn until somebody ends it."""
        observation, self._reset_info = await self._env.reset(self._spec.env_seed)
        images = await self._encode(observation)
        try:
            self.transcript.append_observation(observation["text"], images)
        except TokenBudgetExceeded as error:
            raise UsageError(f"the first prompt does not fit: {error}. Raise rollout.episode.max_tokens") from error
        actor = self._actor()
        for _ in range(self._config.max_turns):
            if self.transcript.room < 1:
                return StopReason.TOKEN_LIMIT
            stop, observation = await _within(self._config.turn_s, self._turn(actor, observation))
            if stop is not None:
                return stop
        return StopReason.TURN_LIMIT

    async def _turn(self, actor: Actor, observation: Observation) -> tuple[StopReason | None, Observation]:
        started = time.monotonic()
        try:
            generation = await actor.act(self.transcript, observation)
        except TokenBudgetExceeded as error:
            if self._turns:
                return StopReason.TOKEN_LIMIT, observation
            remedy = "serve it with a longer context, or lower rollout.episode.max_action_tokens"
            raise UsageError(f"the first prompt does not fit: {error}: {remedy}") from error
        if generation is None:
            return StopReason.ABORTED, observation
        generate_s = time.monotonic() - started
        self.transcript.append_generation(generation)
        action = self._chat.decode(generation.token_ids)
        self._pending = Turn(action=action, generate_s=generate_s)
        observation, reward, terminated, truncated, info = await self._env.step(action)
        self._reward += reward
        self._last_info = info
        call = info.get("tool_call")
        if not isinstance(call, ToolCall):
            call = None
        elif call.status == ToolStatus.FAILURE:
            raise InfrastructureError(f"tool {call.tool} failed: {observation['text']}")
        over = terminated or truncated
        text, images, full = observation["text"], (), False
        if not over:
            try:
                seen = self.transcript.append_observation(text, await self._encode(observation))
                text, images = seen.text, seen.images
            except TokenBudgetExceeded:
                full = True
        names = [image.sha256 for image in images]
        calls = [ToolCallRecord(call.tool, str(call.status), call.latency_s)] if call else []
        self._turns.append(Turn(action=action, observation=text, images=names, tool_calls=calls, generate_s=generate_s))
        self._pending = None
        if terminated:
            return StopReason.ANSWERED, observation
        if truncated:
            return StopReason.TURN_LIMIT, observation
        return StopReason.TOKEN_LIMIT if full else None, observation

    def _actor(self) -> Actor:
        kind, policy = self._spec.actor, self._policy
        if kind == "policy":
            if policy is None:
                raise UsageError("an episode of the actor 'policy' needs a policy")
            if hasattr(policy, "complete"):
                return EndpointActor(cast(ChatPolicy, policy), self._chat, self._spec, self._config, self._system_prompt)
            return PolicyActor(cast(Policy, policy), self._spec, self._config)
        script = {"expert": "expert", "random": "random_actor"}.get(kind)
        make = getattr(self._raw_env.unwrapped, script, None) if script else None
        if make is None and kind == "random":
            make = sampling(getattr(self._raw_env.unwrapped, "action_space", None))
        if make is None:
            raise UsageError(
                f"{self._spec.env_id} has no actor {kind!r}: choose policy, or an environment with a script of that kind"
            )
        try:
            return ScriptActor(make(random.Random(self._spec.sampling_seed)), self._chat)
        except ValueError as error:
            raise UsageError(str(error)) from error

    async def _encode(self, observation: Observation) -> list[EncodedImage]:
        images = observation["images"]
        if sum(image.size for image in images) // 3 <= _INLINE_PIXELS:
            return [self._chat.images.encode(image) for image in images]
        return await asyncio.to_thread(lambda: [self._chat.images.encode(image) for image in images])

    async def close(self) -> None:
        """Close the environment, whatever state it is in."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._env.close()
        except Exception:
            log.warning("episode %s: closing its environment failed", self._spec.episode_id, exc_info=True)

    def episode(self, stop: StopReason, error: str | None) -> Episode:
        """The record of what happened."""
        spec, first, last = self._spec, self._reset_info, self._last_info
        # A turn that a deadline cut off: its tokens were sampled, so it is on record as well.
        turns = [*self._turns, *([self._pending] if self._pending else [])]
        needed = first.get("needed_tools")
        return self.transcript.episode(
            turns,
            episode_id=spec.episode_id,
            task_id=str(first.get("task_id", f"{spec.env_id}:{spec.env_seed}")),
            group_id=spec.group_id,
            abilities=tuple(first.get("abilities", ())),
            source=str(first.get("source", spec.env_id)),
            seed=spec.env_seed,
            reward=self._reward,
            reward_parts=dict(last.get("reward_parts", {})),
            answer=last.get("answer"),
            stop_reason=stop,
            error=error,
            needed_tools=None if needed is None else list(needed),
            temperature=spec.temperature,
        )
