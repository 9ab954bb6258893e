"""One way to drive any environment: its coroutines if it has them, else a bounded number of threads (plain `gymnasium.Env`)."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from envs import ToolEnv
from envs.errors import ToolwiseError, UsageError
from envs.protocols import encodable
from envs.runtime.failures import place, told
from envs.runtime.imports import trouble
from envs.runtime.threads import Threads
from envs.types import Observation

_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")

_LARGEST = float(np.finfo(np.float32).max)

Step = tuple[Observation, float, bool, bool, dict[str, Any]]


class Environment(Protocol):
    """What an episode needs of an environment."""

    async def reset(self, seed: int) -> tuple[Observation, dict[str, Any]]:
        """Begin the episode of `seed`."""
        ...

    async def step(self, action: str) -> Step:
        """Take one action: observation, reward, terminated, truncated, info."""
        ...

    async def give_up(self) -> tuple[float, dict[str, Any]]:
        """End the episode without an answer: the reward for that, and what belongs into the last `info`. Gymnasium knows no such
        end: only a `ToolEnv` is asked, of others it is 0."""
        ...

    async def close(self) -> None:
        """Give back what the environment holds."""
        ...


def make(env_id: str, options: Mapping[str, Any], sandbox: Any = None) -> gymnasium.Env:
    """`gymnasium.make`; an environment that has the attribute `sandbox`, under whatever id, shares the given pool.

    Raises UsageError if the environment cannot be made.
    """
    try:
        if module := env_id.rpartition(":")[0]:
            _import(module, env_id)
        env = gymnasium.make(env_id, disable_env_checker=True, **options)
    except ModuleNotFoundError as error:
        # Gymnasium raises an error of its own from the import's, without the module's name.
        missing = error.name or getattr(error.__cause__, "name", None)
        raise UsageError(
            f"environment {env_id!r}: there is no module {missing}: put its directory into PYTHONPATH, or install it"
        ) from error
    except (gymnasium.error.Error, TypeError) as error:
        if (unknown := _UNKNOWN.search(str(error))) and unknown[1] != "split":
            raise UsageError(f"environment {env_id!r} has no option {unknown[1]!r}{_nearest(env_id, unknown[1])}") from error
        # Gymnasium adds its own words to what the maker raised.
        reason = " ".join(str(error).partition(" was raised from the environment creator")[0].split())
        splits = "; give its maker a parameter split, or write task_options.train.split=null, and so for validation and test"
        remedy = splits if "'split'" in reason else ""
        given = ", ".join(f"{name}={value}" for name, value in options.items())
        raise UsageError(f"environment {env_id!r} cannot be made with {given or 'no options'}: {reason}{remedy}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, ToolwiseError) or not place(error):
            raise
        raise UsageError(f"environment {env_id!r} cannot be made: {told(error)}") from error
    inner: Any = env.unwrapped
    if sandbox is not None and hasattr(inner, "sandbox"):
        inner.sandbox = sandbox
    return env


def _import(module: str, env_id: str) -> None:
    """Raises ModuleNotFoundError, or UsageError if the user's module is there and cannot be imported, or is written as a file."""
    try:
        importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not module.endswith(".py"):
            raise
        raise UsageError(f"environment {env_id!r}: {trouble(module, error)}") from error


def _nearest(env_id: str, option: str) -> str:
    """The option that a wrong one may mean, as the end of a sentence."""
    entry: Any = gymnasium.spec(env_id.rpartition(":")[2]).entry_point
    maker = load_env_creator(entry) if isinstance(entry, str) else entry
    parameters = inspect.signature(maker).parameters.values()
    known = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    if len(known) < len(parameters):  # the rest are a ToolEnv's
        known |= set(inspect.signature(ToolEnv).parameters) - {"tasks"}
    close = difflib.get_close_matches(option, sorted(known), 1)
    return f": did you mean {close[0]!r}?" if close else f": it takes {', '.join(sorted(known))}"


def tool_names(env_id: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The tools that an environment offers; () if it has none. Raises UsageError if it cannot be made."""
    env = make(env_id, options)
    try:
        if hasattr(env.unwrapped, "tools"):
            env.reset(seed=0)  # a server names its tools when it is first asked
        return tuple(getattr(env.unwrapped, "tools", ()))
    finally:
        env.close()


def adapt(env: gymnasium.Env, threads: Threads) -> Environment:
    """The environment's coroutines, or its plain methods on `threads`."""
    return _Coroutines(env.unwrapped) if hasattr(env.unwrapped, "step_async") else _Blocking(env, threads)


class _Coroutines:
    """An environment with `reset_async`, `step_async` and `close_async`."""

    def __init__(self, env: Any) -> None:
        self._env = env

    async def reset(self, seed: int) -> tuple[Observation, dict[str, Any]]:
        return _begun(await self._env.reset_async(seed=seed), self._env)

    async def step(self, action: str) -> Step:
        return _stepped(await self._env.step_async(action), self._env)

    async def give_up(self) -> tuple[float, dict[str, Any]]:
        if not isinstance(self._env, ToolEnv):
            return 0.0, {}
        _, reward, _, _, info = await self._env.finish()
        return reward, {name: info[name] for name in ("answer", "reward_parts")}

    async def close(self) -> None:
        await self._env.close_async()


class _Blocking:
    """A plain environment, whose observation is text, text and images, or the messages of a chat."""

    def __init__(self, env: gymnasium.Env, threads: Threads) -> None:
        self._env = env
        self._threads = threads

    async def reset(self, seed: int) -> tuple[Observation, dict[str, Any]]:
        return _begun(await self._threads.run(self._env.reset, seed=seed), self._env)

    async def step(self, action: str) -> Step:
        return _stepped(await self._threads.run(self._env.step, action), self._env)

    async def give_up(self) -> tuple[float, dict[str, Any]]:
        return 0.0, {}

    async def close(self) -> None:
        await self._threads.run(self._env.close)


def _begun(answer: Any, env: Any) -> tuple[Observation, dict[str, Any]]:
    """What `reset` returned, read. Raises UsageError if it is not what Gymnasium asks for."""
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)):
        raise UsageError(f"{_named(env)}: reset() returned {_shape(answer)}: return an observation and a mapping, the info")
    return _observation(answer[0]), dict(answer[1])


def _stepped(answer: Any, env: Any) -> Step:
    """What `step` returned, read. Raises UsageError if it is not what Gymnasium asks for, or a number is none."""
    if not (isinstance(answer, tuple) and len(answer) == 5 and isinstance(answer[4], Mapping)):
        fields = "observation, reward, terminated, truncated and a mapping, the info"
        raise UsageError(f"{_named(env)}: step() returned {_shape(answer)}: return {fields}")
    observation, reward, terminated, truncated, info = answer
    info = dict(info)
    if (parts := info.get("reward_parts")) is not None:
        if not isinstance(parts, Mapping):
            raise UsageError(f"{_named(env)}: info['reward_parts'] is a {type(parts).__name__}: write names and numbers")
        info["reward_parts"] = {str(name): _number(value, f"the reward part {name}", env) for name, value in parts.items()}
    else:
        info.pop("reward_parts", None)
    return _observation(observation), _number(reward, "the reward", env), bool(terminated), bool(truncated), info


def _number(value: Any, what: str, env: Any) -> float:
    try:
        number = float(value)
    except Exception:  # a tensor, for example, may raise anything
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{_named(env)}: {what} is {value!r}: return a finite number")
    if abs(number) > _LARGEST:
        raise UsageError(
            f"{_named(env)}: {what} is {number:.3g}, and the learner computes in float32: return less than {_LARGEST:.1g}"
        )
    return number


def _named(env: Any) -> str:
    return f"environment {env.spec.id!r}" if getattr(env, "spec", None) else f"environment {type(env).__name__}"


def _shape(answer: Any) -> str:
    kinds = ", ".join(type(part).__name__ for part in answer) if isinstance(answer, tuple) else ""
    return f"({kinds})" if kinds else f"a {type(answer).__name__}"


def _observation(observation: Any) -> Observation:
    if isinstance(observation, str):
        return {"text": encodable(observation), "images": ()}
    if isinstance(observation, Mapping) and isinstance(observation.get("text"), str):
        images = tuple(np.asarray(image) for image in observation.get("images", ()))
        return {"text": encodable(observation["text"]), "images": images}
    if isinstance(observation, Sequence) and all(map(_is_message, observation)):
        return {"text": encodable("\n\n".join(message["content"] for message in _since_last_action(observation))), "images": ()}
    raise UsageError(
        f"an observation must be text, {{'text': …, 'images': …}} or messages with 'role' and 'content', "
        f"not {type(observation).__name__}: wrap the environment"
    )


def _is_message(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("role"), str) and isinstance(part.get("content"), str)


def _since_last_action(messages: Sequence[Mapping[str, str]]) -> Sequence[Mapping[str, str]]:
    """Some environments show the whole conversation at each step, others what is new: the action itself is known either way."""
    actions = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[actions[-1] + 1 :] if actions else messages
