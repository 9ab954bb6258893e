"""What an engine or an environment of the user's returns is read as plain numbers, or refused in a line with what to return."""

import json
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from rollout_fakes import Fake, ScriptedPolicy, spec

from envs.errors import UsageError
from rollout.episode.environments import make
from rollout.episode.loop import run_episode
from rollout.types import Generation


class Spoilt(ScriptedPolicy):
    """A policy whose every answer is `spoil` of a sound one."""

    def __init__(self, chat, spoil):
        super().__init__(chat)
        self._spoil = spoil

    async def generate(self, *arguments, **options):
        return self._spoil(await super().generate(*arguments, **options))


def played(chat, spoil=lambda generation: generation, env=None):
    return run_episode(spec(turns=1), env or make("rollout_fakes:Fake-v0", {"turns": 1}), Spoilt(chat, spoil), chat)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda g: None, "returned a NoneType: return a rollout.types.Generation"),
        (lambda g: replace(g, version=None), "what is no number"),
        (lambda g: replace(g, version=-1), "the version -1"),
        (lambda g: replace(g, token_ids=[-5, *g.token_ids[1:]]), "the token -5: ids are 0 or more"),
        (lambda g: replace(g, logprobs=[2.0] * len(g.logprobs)), "the log-probability 2: they are 0 or less"),
        (lambda g: replace(g, token_ids=g.token_ids * 500, logprobs=g.logprobs * 500), "tokens: max_tokens was"),
    ],
)
async def test_what_is_no_generation_is_refused(chat, spoil, said):
    with pytest.raises(UsageError, match="the engine's generate") as refused:
        await played(chat, spoil)
    assert said in str(refused.value)


@pytest.mark.parametrize("array", [np.array, torch.tensor])
async def test_arrays_of_an_engine_are_recorded_as_numbers(chat, array):
    arrays = lambda g: Generation(array(g.token_ids), array(g.logprobs), g.finish_reason, g.version)  # noqa: E731
    sound, read = (await played(chat)).trajectory, (await played(chat, arrays)).trajectory
    json.dumps(read.to_json())  # a record that JSON cannot hold would be lost
    assert (read.token_ids, read.logprobs, read.versions) == (sound.token_ids, sound.logprobs, sound.versions)


class Answering(Fake):
    """Its `reset` or its `step` returns what it is given; numbers in place of a step's reward."""

    def __init__(self, step=None, reset=None, reward=None, **info):
        super().__init__(turns=0)
        self._given, self._begun, self._number, self._info = step, reset, reward, info

    async def reset_async(self, *, seed=None, options=None):
        observation, info = await super().reset_async(seed=seed)
        return self._begun or (observation, info | {"abilities": "counting", "needed_tools": "code"})

    async def step_async(self, action):
        observation, reward, terminated, truncated, info = await super().step_async(action)
        reward = reward if self._number is None else self._number
        return self._given or (observation, reward, terminated, truncated, info | self._info)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reset": "question"}, "reset() returned a str: return an observation and a mapping"),
        ({"step": ("text", 1.0, True)}, "step() returned (str, float, bool): return observation, reward"),
        ({"step": ("text", 1.0, True, False, None)}, "step() returned (str, float, bool, bool, NoneType)"),
        ({"reward": float("nan")}, "the reward is nan: return a finite number"),
        ({"reward": "good"}, "the reward is 'good': return a finite number"),
        ({"reward": 10**400}, "0: return a finite number"),
        ({"reward": 1e39}, "the reward is 1e+39, and the learner computes in float32: return less than 3e+38"),
        ({"reward_parts": {"brief": float("nan")}}, "the reward part brief is nan: return a finite number"),
        ({"reward_parts": [1.0]}, "info['reward_parts'] is a list: write names and numbers"),
    ],
)
async def test_what_is_no_step_is_refused(chat, given, said):
    with pytest.raises(UsageError, match="environment Answering: ") as refused:
        await played(chat, env=Answering(**given))
    assert said in str(refused.value)


async def test_numbers_and_names_of_an_environment_are_recorded_as_such(chat):
    env = Answering(reward=torch.tensor(0.5), reward_parts={"brief": np.float32(0.25)}, answer=np.int64(7))
    trajectory = (await played(chat, env=env)).trajectory
    assert (trajectory.reward, trajectory.reward_parts, trajectory.answer) == (0.5, {"brief": 0.25}, "7")
    assert type(trajectory.reward) is float
    assert (trajectory.abilities, trajectory.needed_tools) == (("counting",), ["code"])


async def test_an_answer_that_no_file_can_hold_is_recorded_with_a_replacement_character(chat):
    """JSON may spell half a character, as in "\\ud83d"."""
    trajectory = (await played(chat, env=Answering(answer=json.loads('"half \\ud83d"')))).trajectory
    assert trajectory.answer == "half \ufffd"


@pytest.mark.parametrize("place", ["reset", "step"])
async def test_an_environment_that_exits_is_a_failure_of_its_episode(chat, place):
    """Of a coroutine SystemExit would end the event loop, and with it the worker, without a word."""

    class Exiting(gymnasium.Env):
        observation_space = action_space = gymnasium.spaces.Text(100)

        def reset(self, *, seed=None, options=None):
            return "Q", sys.exit(3) if place == "reset" else {}

        def step(self, action):
            sys.exit(3)

    failed = (await played(chat, env=Exiting())).trajectory
    assert failed.failed
    assert failed.error.startswith("SystemExit: 3 (test_own_code.py, line ")


def test_an_environment_whose_maker_exits_is_one_line(monkeypatch):
    monkeypatch.setitem(gymnasium.registry, "Exits-v0", gymnasium.envs.registration.EnvSpec("Exits-v0", lambda: sys.exit(3)))
    with pytest.raises(UsageError, match=r"'Exits-v0' cannot be made: SystemExit: 3 \(test_own_code.py"):
        make("Exits-v0", {})
