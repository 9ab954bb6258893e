"""One episode from reset to outcome: a pure loop that knows neither Ray nor vLLM.

Whatever happens, `run_episode` returns exactly one Episode. What the model did is an outcome; an episode that
failed for another reason ends as INFRASTRUCTURE.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import gymnasium

from envs.errors import EndpointRefused, InfrastructureError, ItemError, TokenBudgetExceeded, UsageError
from envs.protocols import CutOff, Message, encodable
from envs.runtime.deadlines import waiting, within
from envs.runtime.failures import told
from envs.runtime.offloading import QUICK_PIXELS
from envs.runtime.threads import Threads
from envs.types import Observation, ToolCall, ToolStatus
from rollout.config import EpisodeConfig
from rollout.episode.actors import Actor, PolicyActor, ScriptActor, sampling
from rollout.episode.deadlines import episode_deadline_s, turn_deadline_s
from rollout.episode.endpoint_actor import EndpointActor
from rollout.episode.environments import adapt
from rollout.episode.prompts import protocol_of, reserved_tokens, system_prompt, template_tools, tool_schemas
from rollout.policy import ChatPolicy, Policy, Teaches
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.images import ImageEncoder, limited
from rollout.tokens.transcript import Transcript
from rollout.types import Episode, EpisodeSpec, StopReason, ToolCallRecord, Trajectory, Turn

log = logging.getLogger(__name__)

_CLOSE_S = 30.0
PAUSES_S = (1.0, 5.0, 15.0)
"""Seconds before each further attempt to read a row."""


async def run_episode(
    spec: EpisodeSpec,
    env: gymnasium.Env,
    policy: Policy | ChatPolicy | None,
    chat: ChatFormat,
    config: EpisodeConfig | None = None,
    *,
    threads: Threads | None = None,
    images: ImageEncoder | None = None,
    listen: Callable[[Sequence[ChatMessage]], None] = lambda _: None,
) -> Episode:
    """Run `spec` on `env`, which is closed at the end; `policy` is needed for the actor "policy" only. `listen` is called with what
    the environment shows at each turn, before any of it is cut to the budgets.

    Past a deadline the episode ends as TIME_LIMIT; cancelled, as ABORTED. Both are `Trajectory.cut`, which names the deadline; if
    the policy had not yet been asked, they are INFRASTRUCTURE, like every error that is not the model's. A question that cannot be
    put to the policy ends as `Trajectory.unplayed`: TOKEN_LIMIT if it does not fit, ABORTED if an endpoint refuses it or its row
    cannot be read, not even after `PAUSES_S`. Raises UsageError for what concerns every question: an actor that the environment
    does not have, an observation that is not text.
    """
    config = config or EpisodeConfig()
    run = _Run(spec, env, policy, chat, config, threads or Threads(1), images or ImageEncoder(), listen)
    error: str | None = None
    cut: str | None = None
    try:
        async with _limited("rollout.episode.episode_s", episode_deadline_s(config)):
            stop = await run.play()
    except _DeadlinePassed as passed:
        stop, cut = StopReason.TIME_LIMIT, str(passed)
    except asyncio.CancelledError:
        stop, cut = StopReason.ABORTED, "its group's deadline (rollout.group_s), or the end of the run"
    except (ItemError, EndpointRefused) as refusal:
        stop, error = StopReason.ABORTED, str(refusal)
    except _DoesNotFit as refusal:
        stop, error = StopReason.TOKEN_LIMIT, str(refusal)
    except UsageError:
        raise
    except (Exception, SystemExit) as failure:  # an environment that calls sys.exit() would end the loop of the worker
        stop, error = StopReason.INFRASTRUCTURE, told(failure)
        log.warning("episode %s: %s", spec.episode_id, error, exc_info=not isinstance(failure, InfrastructureError))
    finally:
        await run.close()
    if cut is not None and not run.asked:
        stop, error, cut = StopReason.INFRASTRUCTURE, f"{stop}: {cut}: before the policy was asked", None
    elif cut is None and error is None and not run.has_turns:
        stop, error = StopReason.INFRASTRUCTURE, f"{stop}: not one token was sampled"
    return run.episode(stop, error, cut)


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
        cut_before=spec.cut_before,
    )
    return Episode((trajectory,))


class _DoesNotFit(Exception):
    """The first prompt exceeds a budget; the message is the remedy."""


class _DeadlinePassed(Exception):
    """One of our deadlines, as opposed to a TimeoutError that an environment raised; the message names it."""


@asynccontextmanager
async def _limited(name: str, seconds: float) -> AsyncGenerator[None]:
    """`within(seconds)`, which raises _DeadlinePassed."""
    try:
        async with within(seconds) as deadline:
            yield
    except TimeoutError:
        if deadline.expired:
            raise _DeadlinePassed(f"{name}={seconds:g} s") from None
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
        images: ImageEncoder,
        listen: Callable[[Sequence[ChatMessage]], None],
    ) -> None:
        self._spec, self._raw_env, self._policy, self._chat, self._config = spec, env, policy, chat, config
        self._env = adapt(env, threads)
        self._images, self._listen = images, listen
        self._protocol = protocol_of(env)
        self._transcript: Transcript | None = None
        self._turns: list[Turn] = []
        self._pending: Turn | None = None
        self._reset_info: dict[str, Any] = {}
        self._last_info: dict[str, Any] = {}
        self._reward = 0.0
        self._ended = False
        self.asked = False
        """Whether the policy has been asked for a turn."""

    @property
    def has_turns(self) -> bool:
        """Whether the policy has acted, be it with an empty turn."""
        return bool(self._turns) or (self._transcript is not None and self._transcript.sampled_tokens > 0)

    async def play(self) -> StopReason:
        """Reset, then turn after turn until somebody ends it."""
        stop = await self._play()
        if stop in (StopReason.TURN_LIMIT, StopReason.TOKEN_LIMIT) and not self._ended:
            # A budget of ours is spent, of which the environment knows nothing: its reward counts as if the budget were its own.
            reward, info = await self._env.give_up()
            self._reward += reward
            self._last_info = self._last_info | info
        return stop

    async def _play(self) -> StopReason:
        observation, self._reset_info = await self._reset()
        actor, transcript = self._begin()
        messages = await self._encode(observation, self._reset_info)
        self._listen(messages)
        try:
            transcript.append_observation(messages)
        except TokenBudgetExceeded as error:
            name = self._reset_info.get("task_id", self._spec.episode_id)
            raise _DoesNotFit(f"{name}: the first prompt does not fit: {error}. Raise rollout.episode.max_tokens") from error
        for _ in range(self._config.max_turns):
            if transcript.room < 1:
                return StopReason.TOKEN_LIMIT
            async with _limited("rollout.episode.turn_s", turn_deadline_s(self._config)):
                stop, observation, messages = await self._turn(actor, transcript, observation, messages)
            if stop is not None:
                return stop
        return StopReason.TURN_LIMIT

    async def _reset(self) -> tuple[Observation, dict[str, Any]]:
        """The first observation. A row that cannot be read is tried again: a stale handle or a file that is being replaced passes.

        It is tried here and not as a failed episode: all members of its group fail alike, and so many failures in a row would be
        taken for those of a fleet that cannot work.
        """
        for pause_s in PAUSES_S:
            try:
                return await self._env.reset(self._spec.env_seed)
            except ItemError as error:
                log.warning("episode %s: %s: it is tried again in %g s", self._spec.episode_id, error, pause_s)
                with waiting():
                    await asyncio.sleep(pause_s)
        return await self._env.reset(self._spec.env_seed)

    async def _turn(
        self, actor: Actor, transcript: Transcript, observation: Observation, messages: list[ChatMessage]
    ) -> tuple[StopReason | None, Observation, list[ChatMessage]]:
        started = time.monotonic()
        self.asked = True
        try:
            pieces = await actor.act(transcript, observation, messages)
        except TokenBudgetExceeded as error:
            if self._turns:
                return StopReason.TOKEN_LIMIT, observation, messages
            remedy = "serve it with a longer context, or lower rollout.episode.max_action_tokens"
            raise _DoesNotFit(f"the first prompt does not fit: {error}: {remedy}") from error
        if pieces is None:
            return StopReason.ABORTED, observation, messages
        generate_s = time.monotonic() - started
        for piece in pieces:
            transcript.append_generation(piece)
        action = self._chat.decode([token for piece in pieces for token in piece.token_ids])
        reasoning = "".join(piece.reasoning for piece in pieces)
        self._pending = Turn(action=action, generate_s=generate_s, reasoning=reasoning)
        cut_off = pieces[-1].finish_reason == "length" and pieces[-1].token_ids[-1:] != [self._chat.end_of_turn]
        said = actor.opening + action
        observation, reward, terminated, truncated, info = await self._env.step(CutOff(said) if cut_off else said)
        self._reward += reward
        self._last_info = info
        self._ended = terminated or truncated
        calls = _calls(info)
        for call in calls:
            if call.status == ToolStatus.FAILURE:
                raise InfrastructureError(f"tool {call.tool} failed: {observation['text']}")
        messages, full = [], False
        text, images = observation["text"], []
        if not (terminated or truncated):
            try:
                messages = await self._encode(observation, info)
                self._listen(messages)
                shown = transcript.append_observation(messages)
                text = "\n".join(message.text for message in shown)
                images = [image.sha256 for message in shown for image in message.images]
            except TokenBudgetExceeded:
                full = True
        records = [ToolCallRecord(call.tool, str(call.status), call.latency_s) for call in calls]
        self._turns.append(replace(self._pending, observation=text, images=images, tool_calls=records))
        self._pending = None
        if terminated:
            return StopReason.ANSWERED, observation, messages
        if truncated:
            return StopReason.TURN_LIMIT, observation, messages
        return (StopReason.TOKEN_LIMIT if full else None), observation, messages

    def _begin(self) -> tuple[Actor, Transcript]:
        """The actor, and the transcript with its system prompt and tools, which depend on the task."""
        config, policy, tools = self._config, self._policy, template_tools(self._raw_env, self._chat)
        self._transcript = transcript = Transcript(
            self._chat,
            max_tokens=config.max_tokens,
            reserve_tokens=reserved_tokens(config),
            observation_tokens=config.max_observation_tokens,
            system_prompt=system_prompt(self._raw_env, config, tools is not None),
            tools=tools,
            history=config.history,
        )
        if self._spec.actor != "policy" or not hasattr(policy, "complete"):
            return self._actor(), transcript
        actor = EndpointActor(
            cast(ChatPolicy, policy),
            self._chat,
            self._spec,
            config,
            system=self._asked(policy),
            protocol=self._protocol,
            tools=tool_schemas(self._raw_env),
        )
        return actor, transcript

    def _asked(self, policy: object) -> str | None:
        """The system prompt of a model behind an endpoint: the student's, or that of a teacher."""
        protocol = self._protocol
        if protocol is None or not isinstance(policy, Teaches):
            return system_prompt(self._raw_env, self._config, protocol is not None and protocol.native)
        inner: Any = self._raw_env.unwrapped
        return policy.teacher_prompt(inner.instructions() if hasattr(inner, "instructions") and not policy.native else "")

    def _actor(self) -> Actor:
        kind, policy = self._spec.actor, self._policy
        if kind == "policy":
            if policy is None:
                raise UsageError("an episode of the actor 'policy' needs a policy")
            return PolicyActor(cast(Policy, policy), self._chat, self._spec, self._config, self._protocol)
        script = {"expert": "expert", "random": "random_actor"}.get(kind)
        make: Any = getattr(self._raw_env.unwrapped, script, None) if script else None
        if make is None and kind == "random":
            make = sampling(getattr(self._raw_env.unwrapped, "action_space", None))
        if make is None:
            raise UsageError(
                f"{self._spec.env_id} has no actor {kind!r}: choose policy, or an environment with a script of that kind"
            )
        return ScriptActor(make(random.Random(self._spec.sampling_seed)), self._chat, self._protocol)

    async def _encode(self, observation: Observation, info: Mapping[str, Any]) -> list[ChatMessage]:
        """The observation as messages: in the roles that the environment's protocol gives, else as a user's."""
        given = info.get("messages") or [Message("user", observation["text"])]
        images, most = observation["images"], self._config.max_pixels
        if sum(image.size for image in images) // 3 <= QUICK_PIXELS:
            encoded = [self._images.encode(limited(image, most)) for image in images]
        else:
            encoded = await asyncio.to_thread(lambda: [self._images.encode(limited(image, most)) for image in images])
        if len(given) == 1:
            return [ChatMessage(given[0].role, observation["text"], tuple(encoded))]
        rest = iter(encoded)
        return [ChatMessage(message.role, message.text, tuple(islice(rest, len(message.images)))) for message in given]

    async def close(self) -> None:
        """Close the environment, whatever state it is in."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._env.close()
        except (Exception, SystemExit):
            log.warning("episode %s: closing its environment failed", self._spec.episode_id, exc_info=True)

    def episode(self, stop: StopReason, error: str | None, cut: str | None) -> Episode:
        """The record of what happened."""
        spec, first, last = self._spec, self._reset_info, self._last_info
        # A turn that a deadline cut off: its tokens were sampled, so it is on record as well.
        turns = [*self._turns, *([self._pending] if self._pending else [])]
        transcript = self._transcript or Transcript(self._chat, max_tokens=self._config.max_tokens)
        return transcript.episode(
            turns,
            episode_id=spec.episode_id,
            task_id=str(first.get("task_id", f"{spec.env_id}:{spec.env_seed}")),
            group_id=spec.group_id,
            abilities=tuple(_names(first.get("abilities")) or ()),
            source=str(first.get("source", spec.env_id)),
            seed=spec.env_seed,
            reward=self._reward,
            reward_parts=dict(last.get("reward_parts", {})),
            answer=None if (answer := last.get("answer")) is None else encodable(str(answer)),
            stop_reason=stop,
            error=error,
            needed_tools=_names(first.get("needed_tools")),
            temperature=spec.temperature,
            cut=cut,
            cut_before=spec.cut_before,
        )


def _names(given: Any) -> list[str] | None:
    """Names in an `info`, be it a single one; None if there are none."""
    if given is None:
        return None
    return [given] if isinstance(given, str) else list(given)


def _calls(info: Mapping[str, Any]) -> list[ToolCall]:
    """The records of the turn's tool calls, from environments that list them and from those that have one at most."""
    calls = info.get("tool_calls")
    if calls is None:
        calls = [info["tool_call"]] if isinstance(info.get("tool_call"), ToolCall) else []
    return [call for call in calls if isinstance(call, ToolCall)]
