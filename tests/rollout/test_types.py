"""A record keeps its invariants and is read from older files; records become episodes, and episodes groups."""

import json
from dataclasses import replace

import pytest
from trajectories import CODE, trajectory

from rollout.types import Episode, Group, StopReason, Trajectory, episodes_of, form_episodes, form_groups


def test_a_record_survives_json():
    one = trajectory([CODE], abilities=("perception", "search"), reward=0.5)
    assert Trajectory.from_json(one.to_json()) == one


def test_an_older_record_with_one_ability_and_one_call_a_turn_is_read():
    record = json.loads(trajectory([CODE], abilities=("perception", "search")).to_json())
    record["ability"] = "+".join(record.pop("abilities"))
    del record["chain"], record["error"]
    for turn in record["turns"]:
        del turn["tool_calls"]
    assert Trajectory.from_json(json.dumps(record)) == trajectory([CODE], abilities=("perception", "search"))


def test_an_outcome_has_no_error():
    with pytest.raises(ValueError, match="the wire is cut"):
        trajectory(error="the wire is cut")
    assert trajectory(error="the wire is cut", stop=StopReason.INFRASTRUCTURE).failed


def split(whole):
    """The two chains of an episode whose first turn is sampled in the one and its second in the other."""
    parts = [
        {name: getattr(whole, name)[start : start + 2] for name in ("token_ids", "loss_mask", "logprobs", "versions")}
        | {"turns": whole.turns[start // 2 : start // 2 + 1], "chain": start // 2}
        for start in (0, 2)
    ]
    return tuple(replace(whole, **part) for part in parts)


def test_an_episode_joins_its_chains_in_one_record():
    whole = trajectory([CODE])
    assert Episode(split(whole)).trajectory == whole
    assert Episode((whole,)).trajectory is whole


def test_records_become_episodes_and_episodes_groups():
    first, second, third = trajectory([CODE], "a"), trajectory([], "b"), trajectory([], "a", 1, stop=StopReason.INFRASTRUCTURE)
    episodes = list(form_episodes([*split(first), second, third]))
    assert [len(episode.chains) for episode in episodes] == [2, 1, 1]
    groups = form_groups(episodes)
    assert groups == [Group("a", (episodes[0], episodes[2])), Group("b", (episodes[1],))]
    assert groups[0].sound == (episodes[0],)
    assert list(episodes_of(groups)) == [episodes[0], episodes[2], episodes[1]]


def test_two_episodes_of_one_name_stay_two():
    assert len(list(form_episodes([trajectory(), trajectory()]))) == 2
