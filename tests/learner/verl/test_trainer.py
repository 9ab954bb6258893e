"""The trainer computes what Hugging Face and NumPy compute, learns, and resumes bit for bit; on CPU through verl's FSDP2 engine.

One group of one worker serves all fast tests, so each begins by going back to the state and the settings that it was started with.
"""

import math
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoProcessor, Qwen2Config, Qwen2ForCausalLM

from envs.errors import UsageError
from learner.batch import Batch, Example
from learner.config import LearnerConfig, Precision
from learner.verl.trainer import VerlTrainer
from rollout.learned import LearnedFiles, read_learned
from rollout.types import Episode

LR = 1e-3


def save(trainer, directory):
    """Save, and wait until it is written."""
    trainer.save(directory, Path(directory, "done").touch)
    trainer.finish_saving()
    assert Path(directory, "done").exists()


@pytest.fixture(scope="module")
def banned(processor):
    return processor.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>"])


@pytest.fixture(scope="module")
def started(cluster, policy_dir, banned, tmp_path_factory):
    trainer = VerlTrainer(policy_dir, LearnerConfig(freeze_vision=True), banned_token_ids=banned)
    checkpoint = tmp_path_factory.mktemp("started")
    save(trainer, checkpoint)
    yield trainer, checkpoint
    trainer.shutdown()


@pytest.fixture
def trainer(started):
    trainer, checkpoint = started
    trainer.load(checkpoint)
    settings = trainer.config
    yield trainer
    trainer.config = settings


@pytest.fixture(scope="module")
def batch(make_episode, picture):
    """Nine sequences in three groups with no, one, two and three images, some of them shared; two temperatures."""
    episodes = []
    for seed in range(9):
        images = [picture(seed // 3), *[picture(100 + seed + more) for more in range(seed % 3)]] if seed != 4 else []
        temperature = 0.5 if seed == 7 else 1.0
        episodes.append(make_episode(images, seed, group=f"group-{seed // 3}", reward=seed % 2, temperature=temperature))
    return Batch.of_episodes(episodes)


@pytest.fixture(scope="module")
def reference(batch, policy_dir, banned, tmp_path_factory):
    """Plain Hugging Face's figures for `batch`."""
    directory = tmp_path_factory.mktemp("reference")
    (directory / "batch.pickle").write_bytes(pickle.dumps((batch, str(policy_dir), banned)))
    subprocess.run([sys.executable, Path(__file__).with_name("reference.py"), directory], check=True, capture_output=True)
    return np.load(directory / "reference.npz")


def sampled(batch):
    """Whether a token was sampled, sequence after sequence."""
    return np.concatenate([example.sequences.loss_mask_S for example in batch.examples_E])


def by_sequence(batch, values):
    """The sum over each sequence."""
    return np.array([part.sum() for part in np.split(values, batch.lengths_N.cumsum()[:-1])])


def test_log_probs_equal_hugging_face(trainer, batch, reference):
    log_probs, entropies = trainer.log_probs(batch)
    mask = sampled(batch)
    np.testing.assert_allclose(log_probs, np.where(mask, reference["log_probs"], 0.0), atol=1e-5)
    assert (entropies[mask] > 0).all()
    assert np.isfinite(entropies).all()


def test_log_probs_do_not_depend_on_micro_batches(trainer, batch):
    whole, _ = trainer.log_probs(batch)
    trainer.config = replace(trainer.config, micro_batch_tokens=150)
    parts, entropies = trainer.log_probs(batch, with_entropy=False)
    assert entropies is None
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_a_batch_without_images_is_learnt_from(trainer, make_episode, picture):
    episode = make_episode(seed=1)
    alone, beside = Batch.of_episodes([episode]), Batch.of_episodes([episode, make_episode([picture(0)], seed=2)])
    length = alone.lengths_N[0]
    np.testing.assert_allclose(trainer.log_probs(alone)[0], trainer.log_probs(beside)[0][:length], atol=1e-5)
    assert trainer.supervised_step(alone, LR)["train/loss"] > trainer.supervised_step(alone, LR)["train/loss"]


def test_sequences_are_fetched_by_reference(trainer, batch):
    references = [replace(example, sequences=ray.put(example.sequences)) for example in batch.examples_E]
    np.testing.assert_array_equal(trainer.log_probs(Batch.of(references))[0], trainer.log_probs(batch)[0])


@pytest.mark.parametrize(
    ("images", "expected"),
    [((0, 15), "1 images take 16 placeholder tokens, the sequence has 15"), ((), "0 images take 0 placeholder")],
)
def test_placeholders_that_do_not_match_the_images_are_refused(trainer, make_episode, picture, images, expected):
    episode = make_episode([picture(0)], image_tokens=15)
    if not images:
        episode = replace(episode, chains=(replace(episode.trajectory, images=[]),))
    with pytest.raises(ValueError, match=expected):
        trainer.log_probs(Batch.of_episodes([episode]))


def test_banned_tokens_have_no_probability(trainer, make_episode, banned):
    """Probabilities of all tokens after one prompt sum to 1 without the banned ones; none is left for these."""
    image_pad, *others = banned
    vocabulary = [
        token for token in range(AutoConfig.from_pretrained(trainer.policy_dir).text_config.vocab_size) if token != image_pad
    ]
    trajectory = make_episode(seed=3).trajectory
    sampled_at_8 = [int(place == 8) for place in range(len(trajectory.token_ids))]
    changes = {"loss_mask": sampled_at_8, "versions": [mask - 1 for mask in sampled_at_8], "logprobs": [0.0] * len(sampled_at_8)}
    before, after = trajectory.token_ids[:8], trajectory.token_ids[9:]
    batch = Batch.of_episodes(
        Episode((replace(trajectory, token_ids=[*before, token, *after], **changes),)) for token in vocabulary
    )
    log_probs, _ = trainer.log_probs(batch)
    probabilities = dict(zip(vocabulary, np.exp(log_probs[sampled(batch)].astype(np.float64)), strict=True))
    assert all(probabilities[token] == 0 for token in others)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert sum(value > 0 for value in probabilities.values()) == len(vocabulary) - len(others)


def test_a_supervised_step_has_hugging_faces_loss_and_gradient(trainer, batch, reference):
    metrics = trainer.supervised_step(batch, LR)
    assert metrics["train/loss"] == pytest.approx(float(reference["loss"]), abs=1e-5)
    assert metrics["train/grad_norm"] == pytest.approx(float(reference["text_grad_norm"]), rel=1e-4)
    assert metrics["train/lr"] == LR


def test_the_loss_per_sequence_is_the_mean_of_the_sequences_means(trainer, batch):
    at_one = replace(batch, temperatures_N=np.ones_like(batch.temperatures_N))
    log_probs, _ = trainer.log_probs(at_one, with_entropy=False)
    ends = batch.lengths_N.cumsum()[:-1]
    pairs = zip(np.split(log_probs, ends), np.split(sampled(batch), ends), strict=True)
    expected = np.mean([-of_sequence[mask].mean() for of_sequence, mask in pairs if mask.any()])
    by_token = trainer.supervised_step(batch, 0.0)["train/loss"]
    for micro_batch_tokens in (trainer.config.micro_batch_tokens, 150):
        trainer.config = replace(trainer.config, micro_batch_tokens=micro_batch_tokens)
        found = trainer.supervised_step(batch, 0.0, per_sequence=True)["train/loss"]
        assert found == pytest.approx(expected, abs=1e-5) != pytest.approx(by_token, abs=1e-3)


def test_supervised_steps_lower_the_loss(trainer, batch):
    losses = [trainer.supervised_step(batch, LR)["train/loss"] for _ in range(6)]
    assert losses[-1] < losses[0] - 0.3


def test_steps_that_are_left_out_are_counted_and_said(trainer, batch, caplog):
    before, _ = trainer.log_probs(batch)
    advantages = batch.rewards_E - 0.5
    advantages[0] = np.inf
    metrics = trainer.policy_step(batch, advantages, LR)
    assert (metrics["actor/skipped_updates"], math.isnan(metrics["actor/grad_norm"])) == (1, True)
    assert "1 optimizer steps were left out" in caplog.text
    np.testing.assert_array_equal(trainer.log_probs(batch)[0], before)
    assert trainer.policy_step(batch, batch.rewards_E - 0.5, LR)["actor/skipped_updates"] == 0


def test_a_frozen_vision_tower_stays_and_the_rest_moves(trainer, batch):
    before = trainer.state_dict()
    trainer.supervised_step(batch, LR)
    after = trainer.state_dict()
    for name, weight in before.items():
        assert torch.equal(weight, after[name]) == name.startswith("visual."), name


def test_a_step_at_learning_rate_zero_changes_nothing(trainer, batch):
    before = trainer.state_dict()
    trainer.supervised_step(batch, 0.0)
    after = trainer.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_a_policy_step_follows_the_advantages(trainer, batch):
    advantages = np.where(np.arange(len(batch)) % 2, 1.0, -1.0)
    before, entropies = trainer.log_probs(batch)
    metrics = trainer.policy_step(batch, advantages, LR)
    after, _ = trainer.log_probs(batch)
    assert (by_sequence(batch, after - before) * advantages > 0).all()
    assert metrics["actor/ppo_kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["actor/pg_clipfrac"] == 0
    tokens = batch.trained_N
    assert metrics["actor/pg_loss"] == pytest.approx(-(advantages * tokens).sum() / tokens.sum(), abs=1e-5)
    assert metrics["actor/grad_norm"] > 0
    assert metrics["actor/lr"] == LR
    assert {name for name in metrics if name.startswith("perf/")} == {"perf/cpu_memory_used_gb"}  # there is no GPU
    mask = sampled(batch)
    gaps = np.abs(before[mask] - np.concatenate([example.sequences.logprobs_S for example in batch.examples_E])[mask])
    assert metrics["rollout/logprob_gap"] == pytest.approx(gaps.mean(), abs=1e-5)
    assert metrics["rollout/logprob_gap_max"] == pytest.approx(gaps.max(), abs=1e-5)
    assert metrics["actor/entropy"] == pytest.approx(entropies[mask].mean(), abs=1e-5)
    assert metrics["actor/computed_sequences"] == 1


def test_sequences_without_an_advantage_count_in_the_mean_and_are_not_computed(trainer, batch):
    """Their gradient is 0: the step is the one that is made if an entropy bonus of nothing to speak of asks for them."""
    advantages = np.where(np.arange(len(batch)) % 3, 0.0, 1.0)
    skipped = trainer.policy_step(batch, advantages, 0.0)
    assert skipped["actor/computed_sequences"] == pytest.approx(1 / 3)
    trainer.config = replace(trainer.config, entropy_coefficient=1e-12)
    whole = trainer.policy_step(batch, advantages, 0.0)
    assert whole["actor/computed_sequences"] == 1
    for name in ("actor/pg_loss", "actor/grad_norm"):
        assert skipped[name] == pytest.approx(whole[name], rel=1e-5)


@pytest.mark.parametrize(("epochs", "mini_batches"), [(1, 1), (2, 2)])
def test_what_a_step_learned_is_on_disk_with_its_checkpoint(trainer, batch, tmp_path, epochs, mini_batches):
    """The log-probabilities are those before the step; what was not computed has none."""
    trainer.config = replace(trainer.config, ppo_epochs=epochs, mini_batches=mini_batches)
    advantages = np.where(np.arange(len(batch)) % 3, 0.0, [*range(1, 10)]).astype(np.float32)
    before, _ = trainer.log_probs(batch)
    trainer.record(LearnedFiles.of(tmp_path, "rl_000000", dict.fromkeys(batch.group_ids_E, "rl_000000")))
    trainer.policy_step(batch, advantages, LR)
    save(trainer, tmp_path / "checkpoint")
    found = {one.episode_id: one for one in read_learned(tmp_path, "rl_000000")}
    ends, mask = batch.lengths_N.cumsum()[:-1], sampled(batch)
    for number, (log_probs, inside) in enumerate(zip(np.split(before, ends), np.split(mask, ends), strict=True)):
        one = found.pop(f"episode-{number}")
        assert (one.chain, one.advantage, one.advantages) == (0, advantages[number], None)
        if advantages[number]:
            np.testing.assert_allclose(one.log_probs, log_probs[inside], atol=1e-5)
        else:
            assert one.log_probs is None
    assert not found
    trainer.policy_step(batch, advantages, LR)  # nobody asked for a record of this one
    assert [path.name for path in (tmp_path / "learned").iterdir()] == ["rl_000000.parquet"]


def test_a_step_without_any_advantage_changes_nothing(trainer, batch):
    before = trainer.state_dict()
    metrics = trainer.policy_step(batch, np.zeros(len(batch)), LR)
    assert metrics["actor/grad_norm"] == 0
    assert metrics["actor/computed_sequences"] == pytest.approx(1 / 9)
    assert metrics["rollout/logprob_gap"] > 0
    # AdamW's decay is all that is left.
    assert all(torch.allclose(weight, trainer.state_dict()[name], rtol=2 * LR) for name, weight in before.items())


def test_ratios_beyond_the_clip_range_teach_nothing(trainer, batch):
    """A first step of AdamW so large that in the second pass every ratio lies beyond the range: its loss is the clipped one."""
    trainer.config = replace(trainer.config, ppo_epochs=2)
    metrics = trainer.policy_step(batch, np.ones(len(batch)), 30 * LR)
    assert metrics["actor/pg_clipfrac"] > 0.2
    assert metrics["actor/pg_loss"] > -(1 + (1 + trainer.config.clip_high)) / 2 - 1e-5


def test_engines_get_a_handle_of_the_weights_in_their_own_type(trainer):
    weights = trainer.share_weights("bfloat16")
    states = [trainer.state_dict() for _ in range(3)]  # looking at them leaves alone what engines are given
    tensors = weights.tensors()
    assert list(tensors) == list(states[0])
    assert all(torch.equal(tensors[name], weight.to(torch.bfloat16)) for name, weight in states[0].items())


def test_mini_batches_and_epochs_take_more_steps(trainer, batch):
    changes = {}
    for mini_batches, epochs in (1, 1), (4, 2), (100, 1):
        trainer.config = replace(trainer.config, mini_batches=mini_batches, ppo_epochs=epochs)
        before = trainer.state_dict()["lm_head.weight"]
        metrics = trainer.policy_step(batch, np.ones(len(batch)), LR)
        changes[mini_batches] = float((trainer.state_dict()["lm_head.weight"] - before).abs().max())
        assert np.isfinite(list(metrics.values())).all()
    # One step of AdamW moves a weight by the learning rate at most, give or take the decay.
    assert changes[1] < 1.1 * LR < changes[4]
    assert changes[100] > 1.1 * LR


def test_training_goes_on_bit_for_bit_after_a_checkpoint(trainer, batch, tmp_path):
    trainer.supervised_step(batch, LR)
    save(trainer, tmp_path)

    def further():
        trainer.policy_step(batch, batch.rewards_E - 0.5, LR)
        trainer.supervised_step(batch, LR)
        return trainer.state_dict()

    expected = further()
    trainer.reset_optimizer()
    trainer.supervised_step(batch, 10 * LR)
    trainer.load(tmp_path)
    resumed = further()
    assert all(torch.equal(weight, resumed[name]) for name, weight in expected.items())


def test_a_fresh_optimizer_forgets_its_moments(trainer, batch):
    first = trainer.supervised_step(batch, 0.0)
    trainer.supervised_step(batch, LR)
    before = trainer.state_dict()["lm_head.weight"]
    trainer.reset_optimizer()
    trainer.supervised_step(batch, LR)
    moved = (trainer.state_dict()["lm_head.weight"] - before).abs()
    # The first step of AdamW has the size of the learning rate wherever there is a gradient to speak of.
    assert float(moved.max()) == pytest.approx(LR, rel=0.05)
    assert first["train/lr"] == 0.0


def test_a_checkpoint_is_a_hugging_face_policy(trainer, policy_dir, batch, tmp_path):
    trainer.supervised_step(batch, LR)
    save(trainer, tmp_path)
    policy = tmp_path / "policy"
    assert {path.name for path in policy.iterdir()} == {path.name for path in policy_dir.iterdir()}
    AutoProcessor.from_pretrained(policy)
    original, written = (load_file(directory / "model.safetensors") for directory in (policy_dir, policy))
    state = trainer.state_dict()
    assert written.keys() == original.keys() == state.keys()
    assert all(torch.equal(state[name], written[name]) for name in written)
    assert all(written[name].shape == original[name].shape for name in written)


def test_a_checkpoint_is_not_written_over_another(trainer, tmp_path):
    save(trainer, tmp_path)
    with pytest.raises(FileExistsError):
        save(trainer, tmp_path)


def test_what_is_no_checkpoint_is_not_loaded(trainer, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a checkpoint"):
        trainer.load(tmp_path)


def test_advantages_are_those_of_the_batchs_rewards(trainer, batch):
    """Each estimator is tested in `test_advantages`."""
    rewards, groups = batch.rewards_E, np.array(batch.group_ids_E)
    expected = np.zeros(len(rewards))
    for group in set(groups):
        members = groups == group
        expected[members] = (rewards[members] - rewards[members].mean()) / (rewards[members].std(ddof=1) + 1e-6)
    np.testing.assert_allclose(trainer.advantages(batch), expected, atol=1e-5)


def test_batches_without_sampled_tokens_and_misshapen_arguments_are_refused(trainer, batch, make_episode):
    empty = Batch.of([replace(Example.of(make_episode()), trained=(0,))])
    with pytest.raises(ValueError, match="no token"):
        trainer.supervised_step(empty, LR)
    with pytest.raises(ValueError, match="9 episodes need as many advantages"):
        trainer.policy_step(batch, np.ones(3), LR)


@pytest.mark.parametrize(
    "settings", [{"gpus_per_worker": 2}, {"gpus_per_worker": 0.5, "workers": 2}, {"workers": 0}, {"workers": 3, "nodes": 2}]
)
def test_impossible_settings_are_refused(cluster, policy_dir, settings):
    with pytest.raises(UsageError, match="learner"):
        VerlTrainer(policy_dir, LearnerConfig(**settings))


@pytest.mark.slow
def test_two_workers_compute_what_one_computes(cluster, policy_dir, batch, reference, banned, tmp_path):
    states, log_probs, later, metrics = {}, {}, {}, {}
    for workers in 1, 2:
        trainer = VerlTrainer(
            policy_dir, LearnerConfig(workers=workers, threads_per_worker=1, mini_batches=2), banned_token_ids=banned
        )
        try:
            log_probs[workers], _ = trainer.log_probs(batch)
            metrics[workers] = trainer.supervised_step(batch, LR)
            trainer.policy_step(batch, batch.rewards_E - 0.5, LR)
            later[workers], _ = trainer.log_probs(batch)
            states[workers] = trainer.state_dict()
            if workers == 1:
                save(trainer, tmp_path)
            else:
                trainer.load(tmp_path)
                resharded = trainer.state_dict()
        finally:
            trainer.shutdown()
    np.testing.assert_allclose(log_probs[1], np.where(sampled(batch), reference["log_probs"], 0.0), atol=1e-5)
    np.testing.assert_allclose(log_probs[2], log_probs[1], atol=1e-5)
    # AdamW's first steps turn rounding noise in tiny gradients into steps, so weights agree less closely than gradients do.
    np.testing.assert_allclose(later[2], later[1], atol=5e-3)
    assert np.abs(later[1] - log_probs[1]).max() > 0.1
    for worker_metrics in metrics.values():
        assert worker_metrics["train/loss"] == pytest.approx(float(reference["loss"]), abs=1e-5)
        assert worker_metrics["train/grad_norm"] == pytest.approx(float(reference["grad_norm"]), rel=1e-4)
    assert all(torch.equal(weight, resharded[name]) for name, weight in states[1].items())


@pytest.mark.slow
def test_a_text_policy_in_bfloat16_learns(cluster, processor, make_episode, tmp_path):
    """A model of another class, with tied embeddings: weights come and go under its own names, in float32."""
    policy_dir = tmp_path / "policy"
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    Qwen2ForCausalLM(Qwen2Config(vocab_size=320, tie_word_embeddings=True, **sizes)).save_pretrained(policy_dir)
    processor.tokenizer.save_pretrained(policy_dir)
    batch = Batch.of_episodes([make_episode(seed=seed) for seed in range(5)])
    trainer = VerlTrainer(policy_dir, LearnerConfig(precision=Precision.bfloat16))
    try:
        original, state = load_file(policy_dir / "model.safetensors"), trainer.state_dict()
        assert state.keys() == original.keys()
        assert all(torch.equal(state[name], weight) for name, weight in original.items())
        losses = [trainer.supervised_step(batch, LR)["train/loss"] for _ in range(6)]
        assert losses[-1] < losses[0] - 0.1
        before = trainer.state_dict()
        save(trainer, tmp_path / "checkpoint")
        trainer.load(tmp_path / "checkpoint")
        assert all(torch.equal(weight, before[name]) for name, weight in trainer.state_dict().items())
    finally:
        trainer.shutdown()
