"""A batch indexes the sequences of its episodes, and refuses what cannot be learnt from."""

from dataclasses import replace

import numpy as np
import pytest

from learner.batch import Batch, Example
from rollout.sequences import Sequences


def test_rows_index_the_sequences_of_the_episodes(make_episode, picture):
    episodes = [make_episode([picture(0)], seed=1, reward=0.5, temperature=0.7), make_episode([picture(0), picture(1)], seed=2)]
    batch = Batch.of_episodes(episodes)
    assert len(batch) == 2
    assert batch.lengths_N.tolist() == [len(episode.trajectory.token_ids) for episode in episodes]
    assert batch.trained_N.tolist() == [sum(episode.trajectory.loss_mask) for episode in episodes]
    assert batch.trained_tokens == sum(sum(episode.trajectory.loss_mask) for episode in episodes)
    assert batch.rewards_E.tolist() == [0.5, 0.0]
    assert batch.episodes_N.tolist() == [0, 1]
    np.testing.assert_allclose(batch.temperatures_N, [0.7, 1.0])


def test_sequences_hold_the_tokens_and_images_of_an_episode(make_episode, picture):
    episode = make_episode([picture(0), picture(1)], seed=2)
    trajectory, sequences = episode.trajectory, Sequences.of(episode)
    assert sequences.tokens_S.tolist() == trajectory.token_ids
    assert sequences.loss_mask_S.tolist() == [bool(mask) for mask in trajectory.loss_mask]
    np.testing.assert_allclose(sequences.logprobs_S, trajectory.logprobs)
    assert sequences.images_N == [trajectory.images]
    assert sequences.images == episode.images


def test_a_batch_has_a_row_for_each_chain_and_an_outcome_for_each_episode(make_episode, picture):
    first, second = make_episode([picture(0)], seed=1, group="a", reward=1.0), make_episode([picture(1)], seed=2)
    rewritten = replace(second.trajectory, episode_id=first.trajectory.episode_id, chain=1, group_id="a", reward=1.0)
    two_chains = replace(first, chains=(first.trajectory, rewritten), images=first.images | second.images)
    batch = Batch.of_episodes([two_chains, make_episode(seed=3, group="b", reward=0.5)])
    assert batch.episodes_N.tolist() == [0, 0, 1]
    assert batch.chains_N.tolist() == [0, 1, 0]
    assert batch.rewards_E.tolist() == [1.0, 0.5]
    assert batch.group_ids_E == ["a", "b"]
    assert np.array([10, 20])[batch.episodes_N].tolist() == [10, 10, 20]


def test_a_batch_takes_references_in_place_of_sequences():
    batch = Batch.of([Example("reference", (5, 7), (2, 3), "group", 1.0, 1.0)])
    assert batch.examples_E[0].sequences == "reference"
    assert batch.lengths_N.tolist() == [5, 7]
    assert batch.trained_tokens == 5


def test_an_image_that_is_named_but_missing_is_refused(make_episode, picture):
    with pytest.raises(ValueError, match="does not bring it"):
        Batch.of_episodes([replace(make_episode([picture(0)]), images={})])


def test_an_empty_prompt_is_refused(make_episode):
    with pytest.raises(ValueError, match="the prompt is empty"):
        Batch.of_episodes([make_episode(prompt=0)])


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="at least one episode"):
        Batch.of([])
