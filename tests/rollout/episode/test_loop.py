"""An episode always ends in exactly one outcome, deadlines hold, a failure of infrastructure never counts against the model, slow
tools of one episode do not delay another, and a plain Gymnasium environment rolls out unchanged."""

import asyncio
import io
import math
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest
from PIL import Image
from rollout_fakes import Fake, Plain, ScriptedPolicy, spec

from envs import Task, ToolEnv
from envs.errors import ItemError, UsageError
from envs.runtime.deadlines import waiting
from envs.runtime.threads import Threads
from rollout.config import EpisodeConfig, RolloutConfig
from rollout.episode import loop
from rollout.episode.deadlines import episode_deadline_s, overdue_s, turn_deadline_s
from rollout.episode.environments import make
from rollout.episode.loop import run_episode
from rollout.types import StopReason


def run(spec_, policy, chat, threads=None, **limits):
    return run_episode(spec_, make(spec_.env_id, spec_.env_kwargs), policy, chat, EpisodeConfig(**limits), threads=threads)


@pytest.fixture(autouse=True)
def rows_are_tried_again_soon(monkeypatch):
    monkeypatch.setattr(loop, "PAUSES_S", (0.01, 0.01))


@pytest.fixture(autouse=True)
def every_environment_is_closed():
    before = Fake.open_environments
    yield
    assert Fake.open_environments == before


async def test_an_answered_episode_is_recorded_turn_by_turn(chat):
    episode = await run(spec(turns=2, images=1, number=7), ScriptedPolicy(chat, lambda turn: f"act {turn}"), chat)
    trajectory = episode.trajectory
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert (trajectory.task_id, trajectory.abilities, trajectory.source, trajectory.needs_tool) == (
        "task-7",
        ("faking",),
        "fake",
        True,
    )
    assert [turn.action for turn in trajectory.turns] == ["act 0", "act 1", "act 2"]
    assert [turn.tool for turn in trajectory.turns] == ["fake", "fake", None]
    assert [turn.tool_status for turn in trajectory.turns] == ["ok", "ok", None]
    assert [turn.observation for turn in trajectory.turns] == ["seen", "seen", ""]
    assert (trajectory.reward, trajectory.correct, trajectory.answer) == (1.0, True, "act 2")
    assert len(trajectory.images) == 3
    assert set(trajectory.images) == episode.images.keys()
    assert trajectory.token_ids[-1] == chat.end_of_turn


async def test_slow_tools_do_not_hold_up_other_episodes(chat, monkeypatch):
    """The tools of fifteen episodes are at work until the sixteenth has ended."""
    monkeypatch.setattr(Fake, "gate", asyncio.Event())
    policy = ScriptedPolicy(chat, delay_s=0.05)
    slow = [asyncio.create_task(run(spec(turns=3, gated=True, number=number), policy, chat)) for number in range(15)]
    quick = await asyncio.wait_for(run(spec(turns=12, number=15), policy, chat), 60)
    assert policy.calls == 15 + 13, "each of the fifteen has sampled once and waits for its tool"
    assert not any(task.done() for task in slow)
    Fake.gate.set()
    episodes = [quick, *await asyncio.gather(*slow)]
    assert {episode.trajectory.stop_reason for episode in episodes} == {StopReason.ANSWERED}


async def test_a_plain_environment_with_bare_text_rolls_out_in_bounded_threads(chat):
    Plain.most_running = 0
    threads = Threads(3)
    specs = [spec("rollout_fakes:Plain-v0", number, step_s=0.05) for number in range(9)]
    episodes = await asyncio.gather(*(run(one, ScriptedPolicy(chat), chat, threads) for one in specs))
    assert 2 <= Plain.most_running <= 3
    for episode, one in zip(episodes, specs, strict=True):
        assert episode.trajectory.stop_reason is StopReason.ANSWERED
        assert episode.trajectory.reward == 1.0
        assert episode.trajectory.turns[0].observation == "say more"
        assert episode.trajectory.task_id == f"{one.env_id}:{one.env_seed}"


async def test_a_stuck_plain_environment_costs_no_thread_slot(chat, monkeypatch):
    monkeypatch.setattr(Plain, "over", threading.Event())
    threads = Threads(1)
    stuck = await run(spec("rollout_fakes:Plain-v0", step_s=600.0), ScriptedPolicy(chat), chat, threads, turn_s=1.0)
    assert stuck.trajectory.stop_reason is StopReason.TIME_LIMIT
    assert await threads.run(lambda: Plain.running) == 1, "the stuck step still runs"
    Plain.over.set()


async def test_an_exception_in_a_thread_reaches_the_caller():
    with pytest.raises(KeyError):
        await Threads(1).run({}.__getitem__, "missing")
    assert await Threads(1).run(threading.current_thread) is not threading.current_thread()


@pytest.mark.parametrize("limits", [{"turn_s": 1.0}, {"episode_s": 1.0}], ids=["turn", "episode"])
async def test_deadlines_end_an_episode_with_what_was_sampled(chat, limits):
    episode = await run(spec(turns=1, tool_s=3600.0), ScriptedPolicy(chat, lambda turn: "slow"), chat, **limits)
    trajectory = episode.trajectory
    assert trajectory.stop_reason is StopReason.TIME_LIMIT
    assert [(turn.action, turn.tool) for turn in trajectory.turns] == [("slow", None)]
    assert sum(trajectory.loss_mask) == len(chat.encode_action("slow"))
    assert trajectory.reward == 0.0
    assert (episode.cut, episode.trainable) == (f"rollout.episode.{next(iter(limits))}=1 s", False)


async def test_a_first_turn_that_is_cut_off_is_on_record_with_its_deadline(chat):
    episode = await run(spec(), ScriptedPolicy(chat, delay_s=10.0), chat, turn_s=0.05)
    assert episode.trajectory.stop_reason is StopReason.TIME_LIMIT
    assert (episode.cut, episode.error, episode.trainable) == ("rollout.episode.turn_s=0.05 s", None, False)
    assert (episode.trajectory.turns, episode.trajectory.reward) == ([], 0.0)


async def test_a_deadline_before_the_policy_was_asked_is_a_failure_of_ours(chat):
    class Stuck(Fake):
        async def reset_async(self, **_):
            await asyncio.sleep(3600)

    episode = await run_episode(spec(), Stuck(), ScriptedPolicy(chat), chat, EpisodeConfig(episode_s=0.05))
    assert (episode.trajectory.stop_reason, episode.cut) == (StopReason.INFRASTRUCTURE, None)
    assert "rollout.episode.episode_s=0.05 s: before the policy was asked" in episode.error


@pytest.mark.parametrize("limits", [{"turn_s": 1.0}, {"episode_s": 1.0}], ids=["turn", "episode"])
async def test_waiting_for_a_jail_does_not_count_against_the_model(chat, limits):
    """Of two episodes that do nothing, one waits for a jail: it goes on when the other's deadline, which is as long, has passed."""
    jail = asyncio.Event()

    class Waits(Fake):
        context = staticmethod(waiting)

        async def step_async(self, action):
            with self.context():
                await jail.wait()
            return await super().step_async(action)

    class Works(Waits):
        context = staticmethod(nullcontext)

    async def play(kind):
        return await run_episode(spec(), kind(turns=0), ScriptedPolicy(chat), chat, EpisodeConfig(**limits))

    in_line = asyncio.create_task(play(Waits))
    assert (await play(Works)).trajectory.stop_reason is StopReason.TIME_LIMIT
    jail.set()
    assert (await in_line).trajectory.stop_reason is StopReason.ANSWERED


@pytest.mark.parametrize(
    ("settings", "turn_s", "episode_s"),
    [
        ({}, 120 + 256, 17 * 120 + 2048),
        ({"max_action_tokens": 4096, "max_tokens": 24576, "max_turns": 9}, 120 + 4096, 10 * 120 + 24576),
        ({"max_action_tokens": 100, "max_turns": 2}, 120 + 100, 3 * 120 + 200),
        ({"turn_s": 7.0, "episode_s": 9.0}, 7.0, 9.0),
    ],
    ids=str,
)
def test_deadlines_follow_the_budget_of_tokens_unless_they_are_given(settings, turn_s, episode_s):
    config = EpisodeConfig(**settings)
    assert (turn_deadline_s(config), episode_deadline_s(config)) == (turn_s, episode_s)
    rollout = RolloutConfig(episode=config, start_s=10.0)
    assert overdue_s(rollout) == 10 + 2 * (episode_s + 120)
    assert overdue_s(replace(rollout, group_s=5.0)) == 15


async def test_max_pixels_holds_for_the_question_and_for_what_tools_show(chat):
    episode = await run(spec(turns=1, images=2, image_size=(60, 84)), ScriptedPolicy(chat), chat, max_pixels=1500)
    assert len(episode.trajectory.images) == 4
    sizes = [Image.open(io.BytesIO(image)).size for image in episode.images.values()]
    assert all(1300 < width * height <= 1500 for width, height in sizes)


async def test_turn_and_token_limits(chat):
    policy = ScriptedPolicy(chat, lambda turn: "again")
    episode = await run(spec(turns=99), policy, chat, max_turns=3)
    assert (episode.trajectory.stop_reason, len(episode.trajectory.turns)) == (StopReason.TURN_LIMIT, 3)
    episode = await run(spec(turns=99), policy, chat, max_tokens=80, max_turns=99)
    assert episode.trajectory.stop_reason is StopReason.TOKEN_LIMIT
    assert len(episode.trajectory.token_ids) <= 80


@pytest.mark.parametrize("limits", [{"max_turns": 2}, {"max_tokens": 150}, {}])
async def test_whoever_ends_an_episode_it_has_the_reward_of_its_environment(chat, limits):
    """A budget of tokens or turns is the rollout's, another one of turns the environment's: a cost is paid in either case."""
    options = {
        "reward": [{"accuracy": 1.0}, {lambda outcome: -0.1 * outcome.turns: 1.0}],
        "tools": [],
        "max_turns": 99 if limits else 2,
    }
    asked = spec("toolwise/Reasoning-v0", **options)
    trajectory = (await run(asked, ScriptedPolicy(chat, lambda turn: "no answer"), chat, **limits)).trajectory
    assert trajectory.stop_reason is (StopReason.TOKEN_LIMIT if "max_tokens" in limits else StopReason.TURN_LIMIT)
    cost = -0.1 * len(trajectory.turns)
    assert trajectory.reward_parts == pytest.approx({"accuracy": 0.0, "<lambda>": cost})
    assert (trajectory.reward, trajectory.answer) == (pytest.approx(cost), None)


async def test_an_action_cut_off_by_length_is_acted_on_and_goes_on(chat):
    policy = ScriptedPolicy(chat, lambda turn: "long text", end=False)
    episode = await run(spec(turns=1), policy, chat, max_action_tokens=4)
    assert [turn.action for turn in episode.trajectory.turns] == ["long", "long"]


@pytest.mark.parametrize(
    ("said", "limits", "stop", "correct"),
    [
        ("420", {"max_action_tokens": 2}, StopReason.TURN_LIMIT, False),
        ("42", {"max_action_tokens": 3}, StopReason.ANSWERED, True),
        ("<answer>42</answer>0", {"max_action_tokens": 19}, StopReason.ANSWERED, True),
        ("4" * 999, {"max_action_tokens": 500, "max_tokens": 300}, StopReason.TOKEN_LIMIT, False),
    ],
    ids=["cut", "whole", "cut behind its tag", "no room left"],
)
async def test_words_that_were_cut_off_are_no_answer(chat, said, limits, stop, correct):
    env = ToolEnv([Task("t", "What is 6 times 7?", "42", "reasoning", "test")], tools=[], protocol="hermes", max_turns=2)
    config = EpisodeConfig(**{"max_tokens": 2000} | limits)
    trajectory = (await run_episode(spec(), env, ScriptedPolicy(chat, lambda turn: said), chat, config)).trajectory
    assert (trajectory.stop_reason, trajectory.correct) == (stop, correct)
    assert all("cut off" in turn.observation for turn in trajectory.turns[:-1])


async def test_a_cancelled_episode_is_aborted_and_keeps_its_tokens(chat):
    policy = ScriptedPolicy(chat)
    task = asyncio.create_task(run(spec(turns=5, tool_s=60.0), policy, chat))
    while not policy.calls:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)  # its first tool is at work
    task.cancel()
    episode = await task
    assert episode.trajectory.stop_reason is StopReason.ABORTED
    assert sum(episode.trajectory.loss_mask) > 0
    assert (episode.cut is None, episode.unplayed, episode.trainable) == (False, False, False)


@pytest.mark.parametrize("trouble", ["raise", "crash", "tool"])
async def test_a_failure_that_is_not_the_models_is_infrastructure(chat, trouble):
    episode = await run(spec(trouble=trouble, text="broken pipe"), ScriptedPolicy(chat), chat)
    assert episode.trajectory.stop_reason is StopReason.INFRASTRUCTURE
    assert episode.error is not None


async def test_weights_that_are_no_numbers_are_named(chat):
    class Diverged(ScriptedPolicy):
        async def generate(self, *given, **options):
            return replace(sampled := await super().generate(*given, **options), logprobs=[math.nan] * len(sampled.logprobs))

    episode = await run(spec(), Diverged(chat), chat)
    assert episode.trajectory.stop_reason is StopReason.INFRASTRUCTURE
    assert "weights of the policy have become infinite or NaN" in episode.error


async def test_scripts_are_recorded_in_the_students_tokens_as_version_0(chat):
    episode = await run(spec(turns=2, actor="expert"), None, chat)
    trajectory = episode.trajectory
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert set(trajectory.versions) == {-1, 0}
    assert set(trajectory.logprobs) == {0.0}
    sampled = [token for token, mask in zip(trajectory.token_ids, trajectory.loss_mask, strict=True) if mask]
    assert sampled == [token for turn in trajectory.turns for token in chat.encode_action(turn.action)]
    again = await run(spec(turns=2, actor="expert"), None, chat)
    assert again.trajectory.token_ids == trajectory.token_ids


async def test_a_script_that_stops_early_is_aborted(chat):
    episode = await run(spec(turns=9, actor="random"), None, chat)
    assert episode.trajectory.stop_reason is StopReason.ABORTED
    assert [turn.action for turn in episode.trajectory.turns] == ["give up"]
    assert episode.cut is None


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (spec(actor="oracle"), "no actor 'oracle'"),
        (spec("rollout_fakes:Plain-v0", actor="expert"), "no actor 'expert'"),
        (spec("rollout_fakes:Plain-v0", observation=3), "must be text"),
    ],
)
async def test_what_no_second_attempt_would_change_is_a_usage_error(chat, wrong, remedy):
    with pytest.raises(UsageError, match=remedy):
        await run(wrong, ScriptedPolicy(chat), chat)


async def test_a_prompt_that_cannot_fit_says_which_setting_to_raise(chat):
    trajectory = (await run(spec(), ScriptedPolicy(chat), chat, max_tokens=4)).trajectory
    assert (trajectory.stop_reason, trajectory.unplayed) == (StopReason.TOKEN_LIMIT, True)
    assert "Raise rollout.episode.max_tokens" in str(trajectory.error)


async def test_a_row_that_turns_out_broken_is_an_outcome_of_its_episode_alone(chat):
    class Broken(Fake):
        async def reset_async(self, **_):
            raise ItemError("q.jsonl, row 3: the image cannot be opened")

    trajectory = (await run_episode(spec(), Broken(), ScriptedPolicy(chat), chat)).trajectory
    assert (trajectory.stop_reason, trajectory.error) == (StopReason.ABORTED, "q.jsonl, row 3: the image cannot be opened")
    assert not trajectory.trainable


async def test_a_row_that_can_be_read_again_is_played(chat):
    class Stale(Fake):
        reads = 0

        async def reset_async(self, **options):
            self.reads += 1
            if self.reads < 3:
                raise ItemError("q.jsonl, row 3: the image a.png cannot be opened ([Errno 116] Stale file handle)")
            return await super().reset_async(**options)

    episode = await run_episode(spec(), Stale(turns=0), ScriptedPolicy(chat), chat)
    assert episode.trajectory.stop_reason is StopReason.ANSWERED


def test_an_unknown_environment_is_a_usage_error():
    with pytest.raises(UsageError, match="Nowhere-v0"):
        make("Nowhere-v0", {})


async def test_many_episodes_cost_little_each(chat):
    """The loop itself, without engine and tools: the Python functions that it calls for an episode are counted."""
    policy, calls = ScriptedPolicy(chat), 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    await run(spec(), policy, chat)
    sys.setprofile(count)
    try:
        await asyncio.gather(*(run(spec(turns=1, number=number), policy, chat) for number in range(128)))
    finally:
        sys.setprofile(None)
    assert calls / 128 < 1500
