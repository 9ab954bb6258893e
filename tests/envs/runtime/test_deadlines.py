"""A deadline ends what is late; what waits in line, in this task or in one that it started, does not use up its time."""

import asyncio

import pytest

from envs.runtime.deadlines import waiting, within
from envs.tools.code import CodeTool
from envs.tools.tool import ToolEpisode
from envs.types import Task


async def wait(seconds):
    with waiting():
        await asyncio.sleep(seconds)


async def test_what_is_late_is_ended():
    with pytest.raises(TimeoutError):
        async with within(0.05) as deadline:
            await asyncio.sleep(30)
    assert deadline.expired


async def test_an_error_from_inside_is_no_expiry():
    with pytest.raises(TimeoutError):
        async with within(30) as deadline:
            raise TimeoutError
    assert not deadline.expired


@pytest.mark.parametrize("nested", [False, True])
async def test_waiting_does_not_count(nested):
    async with within(1.0) as deadline, within(1.0 if nested else 30):
        await wait(0.6)
        await asyncio.gather(wait(0.6), wait(0.4))  # two at the same time: the longer one counts
    assert deadline.waited_s >= 1.15
    assert not deadline.expired


async def test_the_clock_goes_on_after_the_wait():
    with pytest.raises(TimeoutError):
        async with within(0.1):
            await wait(0.2)
            await asyncio.sleep(30)


async def test_a_wait_that_outlives_its_deadline_disturbs_nothing():
    async with within(30):
        left_behind = asyncio.create_task(wait(0.1))
        await asyncio.sleep(0)
    await left_behind


class FullPool:
    """A pool whose only session is free after 1.2 s."""

    def session(self, images):
        return self

    async def __aenter__(self):
        await asyncio.sleep(1.2)
        raise RuntimeError("the pool is closed")

    async def __aexit__(self, *error):
        pass


async def test_the_wait_for_a_sandbox_does_not_count():
    async def pool():
        return FullPool()

    episode = ToolEpisode(Task("t", "q", "a", ("reasoning",), "test"), [], pool)
    async with within(1.0):
        with pytest.raises(Exception, match="the pool is closed"):
            await CodeTool().call({"code": "1"}, episode)
