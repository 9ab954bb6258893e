"""Batches hold what episodes say, each different image once, and refuse what the model could not read."""

from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from learner.batch import Collator, collate
from learner.config import LearnerConfig, Precision


def test_rows_hold_the_episodes(make_episode, picture, processor):
    episodes = [make_episode([picture(0)], seed=1, reward=0.5, temperature=0.7), make_episode([picture(0), picture(1)], seed=2)]
    batch = collate(episodes, processor)
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
    assert batch.rewards_N.tolist() == [0.5, 0.0]
    np.testing.assert_allclose(batch.temperatures_N, [0.7, 1.0])


def test_each_different_image_is_kept_once_and_in_placeholder_order(make_episode, picture, processor):
    a, b, c = picture(0), picture(1), picture(2)
    batch = collate([make_episode([a, b], seed=1), make_episode([c, a], seed=2), make_episode([a, a], seed=3)], processor)
    assert batch.images_N == [[0, 1], [2, 0], [0, 0]]
    assert batch.grids_U_3.tolist() == [[1, 8, 8]] * 3
    assert batch.pixels_P_D.shape == (3 * 64, 1176)
    alone = collate([make_episode([b], seed=4)], processor)
    np.testing.assert_array_equal(batch.pixels_of(1), alone.pixels_of(0))


def test_images_are_processed_once_while_they_are_remembered(make_episode, picture, processor):
    collator, calls = Collator(processor, cache_size=2), []
    process = collator.image_processor
    collator.image_processor = lambda **arguments: calls.append(1) or process(**arguments)
    collator.image_processor.merge_size = process.merge_size
    for seeds, processed in ((0, 1), 2), ((1, 0), 2), ((2,), 3), ((0,), 3), ((1,), 4):
        collator([make_episode([picture(seed) for seed in seeds])])
        assert len(calls) == processed


@pytest.mark.parametrize("image_tokens", [15, 17])
def test_placeholders_that_do_not_match_the_grid_are_refused(make_episode, picture, processor, image_tokens):
    with pytest.raises(ValueError, match=r"episode-0: image placeholders come in runs of \[\d+\] tokens, its images need \[16\]"):
        collate([make_episode([picture(0)], image_tokens=image_tokens)], processor)


def test_placeholders_without_an_image_are_refused(make_episode, picture, processor):
    episode = make_episode([picture(0)])
    with pytest.raises(ValueError, match=r"runs of \[16\] tokens, its images need \[\]"):
        collate([replace(episode, chains=(replace(episode.trajectory, images=[]),))], processor)


def test_an_image_that_is_named_but_missing_is_refused(make_episode, picture, processor):
    with pytest.raises(ValueError, match="does not bring it"):
        collate([replace(make_episode([picture(0)]), images={})], processor)


def test_an_empty_prompt_is_refused(make_episode, processor):
    with pytest.raises(ValueError, match="the prompt is empty"):
        collate([make_episode(prompt=0)], processor)


def test_no_episodes_are_refused(processor):
    with pytest.raises(ValueError, match="at least one episode"):
        collate([], processor)


def test_a_tokenizer_alone_serves_text_policies(make_episode, picture, processor):
    batch = collate([make_episode(seed=1), make_episode(seed=2)], processor.tokenizer)
    assert batch.images_N == [[], []]
    assert batch.pixels_P_D.size == 0
    with pytest.raises(ValueError, match="reads text only"):
        collate([make_episode([picture(0)])], processor.tokenizer)


def test_settings_are_a_structured_config():
    config = OmegaConf.merge(OmegaConf.structured(LearnerConfig), {"precision": "bfloat16", "banned_token_ids": [1, 2]})
    assert OmegaConf.to_object(config) == LearnerConfig(precision=Precision.bfloat16, banned_token_ids=[1, 2])
