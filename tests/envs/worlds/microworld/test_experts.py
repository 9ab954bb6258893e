"""The built-in world, proved: with the tools the oracle is always right; without one of them it is at chance on what needs it, and
as right as ever on what does not. On the real jail and the real searches."""

import asyncio
import random

import gymnasium
import pytest

from envs.tools.opening import BUILT_IN
from envs.worlds.microworld import ABILITIES, make_task
from sandbox import Pool

ITEMS = 24  # of an ability and a need


@pytest.fixture(scope="module")
def outcomes():
    """For each set of tools: (ability, needed tools, right) of every item."""
    sets = {"all": tuple(BUILT_IN), **{f"without {tool}": tuple(other for other in BUILT_IN if other != tool) for tool in BUILT_IN}}
    return asyncio.run(play(sets))


async def play(sets):
    async with Pool(size=4, preload=("PIL.Image",)) as pool:
        return {name: await asyncio.gather(*(one(pool, tools, *item) for item in items())) for name, tools in sets.items()}


def items():
    return [(ability, need, seed) for ability in (*ABILITIES, "errands") for need in (False, True) for seed in range(ITEMS)]


async def one(pool, tools, ability, need, seed):
    env = gymnasium.make("toolwise/Mixture-v0", tools=tools, sandbox=pool, disable_env_checker=True).unwrapped
    task = make_task(ability, need, "test", seed)
    observation, info = await env.reset_async(seed=0, options={"task": task})
    script = env.expert(random.Random(seed))
    action = next(script)
    while True:
        observation, _, terminated, truncated, step = await env.step_async(action)
        if terminated or truncated:
            return ability, info["needed_tools"], step["reward_parts"]["accuracy"] == 1
        action = script.send(observation)


@pytest.mark.parametrize("ability", [*ABILITIES, "errands"])
def test_with_the_tools_the_oracle_is_always_right(outcomes, ability):
    assert all(right for about, _, right in outcomes["all"] if about == ability)


@pytest.mark.parametrize("tool", BUILT_IN)
def test_without_a_needed_tool_the_oracle_is_at_chance(outcomes, tool):
    needing = [right for _, needed, right in outcomes[f"without {tool}"] if tool in needed]
    # The likeliest guess is a digit's, one in ten; of 24 such items 9 or more come right once in a thousand times.
    assert len(needing) >= 20
    assert sum(needing) <= 8


@pytest.mark.parametrize("tool", BUILT_IN)
def test_what_needs_no_tool_or_another_is_still_right(outcomes, tool):
    assert all(right for _, needed, right in outcomes[f"without {tool}"] if tool not in needed)
