"""Demonstrations come from the expert, from files and from stored episodes, verified, each set once; weights decide how often each
is drawn."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scripted import episode, settings, start

from configs import compose
from curation.stored import read_episodes
from envs.errors import UsageError
from learner.cold_start import SupervisedSteps
from learner.demonstrations import (
    ATTEMPTS_PER_DEMONSTRATION,
    collect_demonstrations,
    collect_rehearsal,
    draw_weighted,
    mixture_weights,
)
from learner.experiment import ColdStartConfig, DemonstrationSource, Experiment, Loss, Stage
from rollout.tokens.chat_format import ChatFormat
from starter.policies import find_policy


def with_cold_start(config, **changes):
    return replace(config, cold_start=replace(config.cold_start, **changes))


@pytest.fixture
def config(tmp_path):
    return settings(tmp_path / "run")


def test_only_verified_demonstrations_are_kept_and_the_missing_ones_asked_for_again(config):
    def play(spec, steps):
        number = int(spec.group_id.rpartition("-")[2])
        return episode(spec, correct=number != 0, called=number == 1, tool_status="error")

    training = start(config, play)
    demonstrations = collect_demonstrations(training).episodes
    assert [demonstration.trajectory.group_id for demonstration in demonstrations] == [
        "demonstrations-0-2",
        "demonstrations-0-3",
        "demonstrations-1-2",
        "demonstrations-1-3",
    ]
    assert {(spec.actor, spec.env_kwargs["split"]) for specs in training.fleet.collected for spec in specs} == {("expert", "train")}


def test_demonstrations_are_made_once(config):
    first = start(config)
    demonstrations, rehearsal = collect_demonstrations(first), collect_rehearsal(first)
    resumed = start(replace(config, resume=True))
    assert collect_demonstrations(resumed) == demonstrations
    assert collect_rehearsal(resumed) == rehearsal
    assert resumed.fleet.collected == []


def test_an_expert_that_is_never_right_is_answered_in_one_line(config):
    training = start(config, lambda spec, steps: episode(spec, correct=False))
    with pytest.raises(UsageError, match=r"0 verified demonstrations of 4: lower cold_start.demonstrations"):
        collect_demonstrations(training)
    assert len(training.fleet.collected) == ATTEMPTS_PER_DEMONSTRATION
    assert training.store.names() == []


def test_rehearsal_without_a_verified_episode_is_answered_in_one_line(config):
    training = start(config, lambda spec, steps: episode(spec, correct=False))
    with pytest.raises(UsageError, match=r"cold_start.rehearsal_tasks=toolwise/Basics-v0 was right: write null for none"):
        collect_rehearsal(training)


def test_rehearsal_is_in_the_protocol_of_the_tasks(config):
    training = start(replace(config, options={"protocol": "hermes"}))
    collect_rehearsal(training)
    assert {spec.env_kwargs["protocol"] for specs in training.fleet.collected for spec in specs} == {"hermes"}


def test_a_file_is_learned_in_the_protocol_of_the_tasks(config, tmp_path):
    path = tmp_path / "sft.json"
    turns = ["What is 3 + 4?", "<code>\n```python\nprint(7)\n```\n</code>", "7", "<answer>7</answer>"]
    messages = [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(turns)]
    path.write_text(json.dumps([{"messages": messages}]))
    config = with_cold_start(config, demonstrations=1, demonstrations_file=str(path))
    training = start(replace(config, options={"protocol": "hermes"}))
    training.policy_dir = find_policy("starter")
    (episode,) = collect_demonstrations(training).episodes
    assert episode.trajectory.turns[0].action == ('<tool_call>\n{"name": "code", "arguments": {"code": "print(7)"}}\n</tool_call>')


@pytest.mark.parametrize("changes", [{"rehearsal_tasks": None}, {"rehearsal_batch_size": 0}])
def test_rehearsal_may_be_left_out(config, changes):
    training = start(with_cold_start(config, **changes))
    assert collect_rehearsal(training) == []
    assert training.fleet.collected == []


def of_abilities(*names):
    """Demonstrations of these abilities, "a+b" for both."""
    return [replaced(number, name) for number, name in enumerate(names)]


def replaced(number, name, **changes):
    played = episode(FakeSpec(number))
    (chain,) = played.chains
    return replace(played, chains=(replace(chain, abilities=tuple(filter(None, name.split("+"))), **changes),))


class FakeSpec:
    temperature = 1.0

    def __init__(self, number):
        self.episode_id = self.group_id = f"d-{number}"
        self.env_seed = number


def sources(*weights):
    return [DemonstrationSource(f"source_{place}.json", weight) for place, weight in enumerate(weights)]


A, B = ["perception"] * 3 + ["reasoning"], ["reasoning"] * 2


@pytest.mark.parametrize(
    ("pools", "weights", "abilities", "shares"),
    [
        ([A, B], (1, 1), {}, [1 / 8] * 4 + [1 / 4] * 2),
        ([A, B], (3, 1), {}, [3 / 16] * 4 + [1 / 8] * 2),
        ([A, B], (0, 1), {}, [0] * 4 + [1 / 2] * 2),
        ([A], (), {"perception": 1, "reasoning": 1}, [1 / 6] * 3 + [1 / 2]),
        ([A], (), {"perception": 1, "reasoning": 0}, [1 / 3] * 3 + [0]),
        ([A, B], (None, None), {"perception": 1, "reasoning": 1}, [1 / 9] * 3 + [1 / 3] + [1 / 6] * 2),
        ([A, B], (1, 1), {"perception": 1, "reasoning": 1}, [1 / 12] * 3 + [1 / 4] + [1 / 4] * 2),
        ([["a", "a+b"]], (), {"a": 1, "b": 3}, [1 / 4, 3 / 4]),
        ([["a", "", ""]], (), {"a": 1, "unknown": 1}, [1 / 2, 1 / 4, 1 / 4]),
    ],
)
def test_sources_and_abilities_have_their_shares(pools, weights, abilities, shares):
    found = mixture_weights(
        [of_abilities(*pool) for pool in pools], ColdStartConfig(sources=sources(*weights), ability_weights=abilities)
    )
    np.testing.assert_allclose(found, shares)


def test_without_weights_all_are_drawn_equally_often():
    assert mixture_weights([of_abilities(*A)], ColdStartConfig()) is None
    assert mixture_weights([of_abilities(*A)] * 2, ColdStartConfig(sources=sources(None, None))) is None


@pytest.mark.parametrize(
    ("weights", "abilities", "answer"),
    [
        ((1, None), {}, "write a weight for each source, or for none"),
        ((), {"perception": 1}, "has no weight for reasoning: write one, 0 to leave an ability out"),
        ((), {"perception": 1, "reasoning": 1, "serch": 1}, "has serch, and no demonstration is of that ability"),
        ((), {"perception": 0, "reasoning": 0}, "all weights are 0"),
        ((), {"perception": 1, "reasoning": 1, "": 1}, "has no weight for unknown: write one"),
    ],
)
def test_weights_that_do_not_match_get_one_line(weights, abilities, answer):
    with pytest.raises(UsageError, match=answer):
        pools = [of_abilities(*A, *([""] if "" in abilities else []))] * max(1, len(weights))
        mixture_weights(pools, ColdStartConfig(sources=sources(*weights), ability_weights=abilities))


def test_an_epoch_holds_each_as_often_as_its_share():
    weights = np.array([0.5, 0.25, 0.25 / 2, 0.25 / 2])
    drawn = Counter(draw_weighted(weights, 4000, seed=0, first=0))
    assert [drawn[place] / 4000 for place in range(4)] == pytest.approx(weights, abs=0.02)
    for epoch in range(20):
        counts = Counter(draw_weighted(weights, 4, seed=0, first=4 * epoch))
        assert all(abs(counts[place] - 4 * weight) < 1 for place, weight in enumerate(weights)), "rounded up or down"


def test_equal_weights_draw_each_once_an_epoch():
    assert sorted(draw_weighted(np.full(7, 1 / 7), 7, seed=3, first=7)) == list(range(7))


def test_a_draw_depends_on_its_place_alone():
    weights = np.array([0.7, 0.2, 0.1])
    assert draw_weighted(weights, 20, seed=1, first=0)[5:] == draw_weighted(weights, 15, seed=1, first=5)
    assert draw_weighted(weights, 20, seed=1, first=0) != draw_weighted(weights, 20, seed=2, first=0)


def in_tokens_of(chat, number, ability, **changes):
    """An episode whose action is in a policy's tokens."""
    tokens = chat.encode_action("<answer>1</answer>")
    count = len(tokens)
    parts = {"loss_mask": [0] + [1] * count, "versions": [-1] + [0] * count, "logprobs": [0.0] * (count + 1), "prompt_length": 1}
    return replaced(number, ability, token_ids=[1, *tokens], **parts, **changes)


@pytest.fixture(scope="module")
def chat():
    return ChatFormat.from_directory(find_policy("starter"))


@pytest.fixture
def teacher(chat, tmp_path):
    """A run with three demonstrations and an episode that is none."""
    episodes = [in_tokens_of(chat, number, "reasoning") for number in range(3)]
    start(settings(tmp_path / "teacher")).store.write(
        "episodes", [*episodes, in_tokens_of(chat, 9, "reasoning", reward_parts={"accuracy": 0.0})]
    )
    return tmp_path / "teacher"


def test_sources_are_mixed_in_every_step_and_made_once(config, teacher):
    mixed = [DemonstrationSource(weight=1, demonstrations=4), DemonstrationSource(str(teacher), weight=3)]
    training = start(with_cold_start(config, sources=mixed, batch_size=4))
    training.policy_dir = find_policy("starter")
    found = collect_demonstrations(training)
    assert found.weights == pytest.approx([1 / 16] * 4 + [1 / 4] * 3)
    assert training.said == [
        f"{teacher}: 1 episodes are no verified demonstrations and are left out",
        "demonstrations from expert: 4, 25.0% of what is drawn: perception 4 (25.0%)",
        f"demonstrations from {teacher}: 3, 75.0% of what is drawn: reasoning 3 (75.0%)",
    ]
    steps = SupervisedSteps(training)
    for step in range(70):
        steps.take(Stage.cold_start, step)
    batches = [batch.group_ids_E[:-1] for batch in training.trainer.supervised_batches]  # the last is rehearsal
    drawn = Counter(name.startswith("d-") for batch in batches for name in batch)
    assert drawn[True] / drawn.total() == pytest.approx(0.75, abs=0.02)
    resumed = start(replace(training.config, resume=True))
    again = collect_demonstrations(resumed)
    assert (again.episodes, again.weights.tolist(), resumed.fleet.collected) == (found.episodes, found.weights.tolist(), [])


def test_an_ability_of_weight_0_is_left_out(config, teacher):
    mixed = [DemonstrationSource(demonstrations=4), DemonstrationSource(f"{teacher}/trajectories/episodes.jsonl")]
    training = start(with_cold_start(config, sources=mixed, ability_weights={"perception": 0, "reasoning": 1}))
    training.policy_dir = find_policy("starter")
    assert {one.trajectory.abilities for one in collect_demonstrations(training).episodes} == {("reasoning",)}


def test_of_a_synthesis_only_what_it_kept_is_learned(config, teacher):
    said = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "<answer>4</answer>"}]
    (teacher / "demonstrations.jsonl").write_text(json.dumps({"messages": said}) + "\n")
    training = start(with_cold_start(config, sources=[DemonstrationSource(str(teacher))]))
    training.policy_dir = find_policy("starter")
    assert [one.trajectory.answer for one in collect_demonstrations(training).episodes] == ["4"]


def test_episodes_in_the_tokens_of_another_policy_are_refused(chat, tmp_path):
    run = start(settings(tmp_path / "other"))
    run.store.write("episodes", [replaced(0, "reasoning")])
    with pytest.raises(UsageError, match="in the tokens of another policy"):
        read_episodes(tmp_path / "other", chat, count=None, seed=0)


@pytest.mark.parametrize(("count", "answer"), [(9, "3 verified demonstrations of 4"), (None, None)])
def test_a_run_with_too_few_demonstrations_says_how_many(teacher, chat, count, answer):
    if answer is None:
        assert len(read_episodes(teacher, chat, count=count, seed=0)[0]) == 3
        return
    with pytest.raises(UsageError, match=answer):
        read_episodes(teacher, chat, count=count, seed=0)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"demonstrations_file": "a.json", "sources": [DemonstrationSource()]}, "write the file as one of the sources"),
        ({"demonstrations_file": "none.json"}, "there are no demonstrations at none.json"),
        ({"sources": [DemonstrationSource("none.json")]}, "there are no demonstrations at none.json"),
        ({"sources": [DemonstrationSource(weight=-1)]}, "has the weight -1: write 0 or more"),
        ({"sources": [DemonstrationSource(demonstrations=0)]}, "has demonstrations=0: write 1 or more"),
        ({"sources": [DemonstrationSource(weight=float("nan"))]}, "has the weight nan: write 0 or more"),
        ({"ability_weights": {"search": -2}}, r"ability_weights\.search=-2: write 0 or more"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(config, changes, answer):
    with pytest.raises(UsageError, match=answer):
        with_cold_start(config, **changes).check()
    with_cold_start(config, **changes).check(finished={"cold_start"})


def test_sources_are_written_on_the_command_line():
    given = ["cold_start.sources=[{path: a.jsonl, weight: 2}, {path: expert, weight: 1, demonstrations: 96}]"]
    made = compose("cold_start", Experiment, [*given, "+cold_start.ability_weights.search=2", "cold_start.loss=sequence"])
    assert made.cold_start.sources == [DemonstrationSource("a.jsonl", 2), DemonstrationSource("expert", 1, 96)]
    assert (made.cold_start.ability_weights, made.cold_start.loss) == ({"search": 2}, Loss.sequence)


@pytest.mark.parametrize("text", ["[{file: a.jsonl}]", "[{path: a, weight: much}]", "a.jsonl", "[a.jsonl]"])
def test_a_source_that_cannot_be_read_gets_one_line(text):
    with pytest.raises(UsageError) as error:
        compose("cold_start", Experiment, [f"cold_start.sources={text}"])
    assert "cold_start.sources" in str(error.value) and "\n" not in str(error.value)
