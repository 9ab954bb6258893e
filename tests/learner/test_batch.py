"""Batches hold what episodes say, each different image once, and refuse what the model could not read."""

from dataclasses import replace

import numpy as np
import pytest

from learner.batch import Collator


def test_rows_hold_the_episodes(make_episode, picture, processor, collate):
    episodes = [make_episode([picture(0)], seed=1, reward=0.5, temperature=0.7), make_episode([picture(0), picture(1)], seed=2)]
    batch = collate(episodes)
    assert len(batch) == 2
    assert batch.tokens_N_T.shape == (2, max(batch.lengths_N))
    for row, episode in enumerate(episodes):
        trajectory, length = episode.trajectory, len(episode.trajectory.token_ids)
        assert batch.lengths_N[row] == length
        assert batch.tokens_N_T[row, :length].tolist() == trajectory.token_ids
        assert batch.loss_mask_N_T[row, :length].tolist() == [bool(mask) for mask in trajectory.loss_mask]
        np.testing.assert_allclose(batch.logprobs_N_T[row, :length], trajectory.logprobs)
        assert (batch.tokens_N_T[row, length:] == processor.tokenizer.pad_token_id).all()
        assert not batch.loss_mask_N_T[row, length:].any()
        assert not batch.logprobs_N_T[row, length:].any()
    assert batch.trained_tokens == sum(sum(episode.trajectory.loss_mask) for episode in episodes)
    assert batch.rewards_E.tolist() == [0.5, 0.0]
    assert batch.episodes_N.tolist() == [0, 1]
    np.testing.assert_allclose(batch.temperatures_N, [0.7, 1.0])


def test_each_different_image_is_kept_once_and_in_placeholder_order(make_episode, picture, collate):
    a, b, c = picture(0), picture(1), picture(2)
    batch = collate([make_episode([a, b], seed=1), make_episode([c, a], seed=2), make_episode([a, a], seed=3)])
    assert batch.images_N == [[0, 1], [2, 0], [0, 0]]
    assert batch.grids_U_3.tolist() == [[1, 8, 8]] * 3
    assert batch.pixels_P_D.shape == (3 * 64, 1176)
    alone = collate([make_episode([b], seed=4)])
    np.testing.assert_array_equal(batch.pixels_of(1), alone.pixels_of(0))


def test_images_are_processed_once_while_they_are_remembered(make_episode, picture, processor):
    size_bytes = 64 * 1176 * 4 + 3 * 8
    collator, calls = Collator(processor, cache_bytes=2 * size_bytes), []
    process = collator.image_processor
    collator.image_processor = lambda **arguments: calls.append(1) or process(**arguments)
    collator.image_processor.merge_size = process.merge_size
    for seeds, processed in ((0, 1), 2), ((1, 0), 2), ((2,), 3), ((0,), 3), ((1,), 4):
        collator([make_episode([picture(seed) for seed in seeds])])
        assert len(calls) == processed


def test_an_image_larger_than_the_memory_is_not_remembered(make_episode, picture, processor):
    episodes = [make_episode([picture(0)])]
    small, ample = (Collator(processor, cache_bytes=size)(episodes) for size in (1000, 1 << 20))
    np.testing.assert_array_equal(small.pixels_P_D, ample.pixels_P_D)


def test_a_batch_has_a_row_for_each_chain_and_an_outcome_for_each_episode(make_episode, picture, collate):
    first, second = make_episode([picture(0)], seed=1, group="a", reward=1.0), make_episode([picture(1)], seed=2)
    rewritten = replace(second.trajectory, episode_id=first.trajectory.episode_id, chain=1, group_id="a", reward=1.0)
    two_chains = replace(first, chains=(first.trajectory, rewritten), images=first.images | second.images)
    batch = collate([two_chains, make_episode(seed=3, group="b", reward=0.5)])
    assert batch.episodes_N.tolist() == [0, 0, 1]
    assert batch.rewards_E.tolist() == [1.0, 0.5]
    assert batch.group_ids_E == ["a", "b"]
    for row, chain in enumerate(two_chains.chains):
        assert batch.tokens_N_T[row, : batch.lengths_N[row]].tolist() == chain.token_ids
    assert batch.images_N == [[0], [1], []]
    assert np.array([10, 20])[batch.episodes_N].tolist() == [10, 10, 20]


@pytest.mark.parametrize("image_tokens", [15, 17])
def test_placeholders_that_do_not_match_the_grid_are_refused(make_episode, picture, collate, image_tokens):
    with pytest.raises(ValueError, match=r"episode-0: image placeholders come in runs of \[\d+\] tokens, its images need \[16\]"):
        collate([make_episode([picture(0)], image_tokens=image_tokens)])


def test_placeholders_without_an_image_are_refused(make_episode, picture, collate):
    episode = make_episode([picture(0)])
    with pytest.raises(ValueError, match=r"runs of \[16\] tokens, its images need \[\]"):
        collate([replace(episode, chains=(replace(episode.trajectory, images=[]),))])


def test_an_image_that_is_named_but_missing_is_refused(make_episode, picture, collate):
    with pytest.raises(ValueError, match="does not bring it"):
        collate([replace(make_episode([picture(0)]), images={})])


def test_an_empty_prompt_is_refused(make_episode, collate):
    with pytest.raises(ValueError, match="the prompt is empty"):
        collate([make_episode(prompt=0)])


def test_no_episodes_are_refused(collate):
    with pytest.raises(ValueError, match="at least one episode"):
        collate([])


def test_a_tokenizer_alone_serves_text_policies(make_episode, picture, processor):
    collate = Collator(processor.tokenizer)
    batch = collate([make_episode(seed=1), make_episode(seed=2)])
    assert batch.images_N == [[], []]
    assert batch.pixels_P_D.size == 0
    with pytest.raises(ValueError, match="reads text only"):
        collate([make_episode([picture(0)])])
