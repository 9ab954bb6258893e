"""The learner computes what Hugging Face and NumPy compute, learns, and resumes bit for bit; on CPU through verl's FSDP2 engine.

One group of one worker serves all fast tests, so each begins by going back to the state and the settings that it was started with.
"""

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
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from learner.batch import collate
from learner.config import LearnerConfig, Precision
from learner.verl_backend import Learner

LR = 1e-3


@pytest.fixture(scope="module")
def cluster():
    ours = not ray.is_initialized()
    if ours:
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    if ours:
        ray.shutdown()


@pytest.fixture(scope="module")
def banned(processor):
    return processor.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>"])


@pytest.fixture(scope="module")
def started(cluster, policy_dir, banned, tmp_path_factory):
    learner = Learner(policy_dir, LearnerConfig(freeze_vision=True, banned_token_ids=banned))
    yield learner, learner.save(tmp_path_factory.mktemp("started") / "checkpoint")
    learner.shutdown()


@pytest.fixture
def learner(started):
    learner, checkpoint = started
    learner.load(checkpoint)
    settings = learner.config
    learner.config = replace(settings)
    yield learner
    learner.config = settings


@pytest.fixture(scope="module")
def batch(make_episode, picture, processor):
    """Nine sequences in three groups with no, one, two and three images, some of them shared; two temperatures."""
    episodes = []
    for seed in range(9):
        images = [picture(seed // 3), *[picture(100 + seed + more) for more in range(seed % 3)]] if seed != 4 else []
        temperature = 0.5 if seed == 7 else 1.0
        episodes.append(make_episode(images, seed, group=f"group-{seed // 3}", reward=seed % 2, temperature=temperature))
    return collate(episodes, processor)


@pytest.fixture(scope="module")
def reference(batch, policy_dir, banned, tmp_path_factory):
    """Plain Hugging Face's figures for `batch`."""
    directory = tmp_path_factory.mktemp("reference")
    (directory / "batch.pickle").write_bytes(pickle.dumps((batch, str(policy_dir), banned)))
    subprocess.run([sys.executable, Path(__file__).with_name("reference.py"), directory], check=True, capture_output=True)
    return np.load(directory / "reference.npz")


def test_log_probs_equal_hugging_face(learner, batch, reference):
    log_probs, entropies = learner.log_probs(batch)
    expected = np.where(batch.loss_mask_N_T, reference["log_probs"], 0.0)
    np.testing.assert_allclose(log_probs.numpy(), expected, atol=1e-5)
    assert (entropies.numpy()[batch.loss_mask_N_T] > 0).all()
    assert np.isfinite(entropies.numpy()).all()


def test_log_probs_do_not_depend_on_micro_batches(learner, batch):
    whole, _ = learner.log_probs(batch)
    learner.config.micro_batch_tokens = 150
    parts, entropies = learner.log_probs(batch, with_entropy=False)
    assert entropies is None
    np.testing.assert_allclose(parts.numpy(), whole.numpy(), atol=1e-5)


def test_a_batch_without_images_is_learnt_from(learner, make_episode, picture, processor):
    episode = make_episode(seed=1)
    alone, beside = collate([episode], processor), collate([episode, make_episode([picture(0)], seed=2)], processor)
    length = alone.lengths_N[0]
    np.testing.assert_allclose(learner.log_probs(alone)[0][0], learner.log_probs(beside)[0][0, :length], atol=1e-5)
    assert learner.supervised_step(alone, LR)["train/loss"] > learner.supervised_step(alone, LR)["train/loss"]


def test_banned_tokens_have_no_probability(learner, make_episode, processor, banned):
    """Probabilities of all tokens after one prompt sum to 1 without the banned ones; none is left for these."""
    vocabulary = AutoConfig.from_pretrained(learner.policy_dir).text_config.vocab_size
    batch = collate([make_episode(seed=3)] * vocabulary, processor)
    batch.loss_mask_N_T[:, 9:] = False
    batch.tokens_N_T[:, 8] = np.arange(vocabulary)
    log_probs, _ = learner.log_probs(batch)
    probabilities = log_probs[:, 8].double().exp()
    assert (probabilities[banned] == 0).all()
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert (probabilities > 0).sum() == vocabulary - len(banned)


def test_a_supervised_step_has_hugging_faces_loss_and_gradient(learner, batch, reference):
    metrics = learner.supervised_step(batch, LR)
    assert metrics["train/loss"] == pytest.approx(float(reference["loss"]), abs=1e-5)
    assert metrics["train/grad_norm"] == pytest.approx(float(reference["text_grad_norm"]), rel=1e-4)
    assert metrics["train/lr"] == LR


def test_supervised_steps_lower_the_loss(learner, batch):
    losses = [learner.supervised_step(batch, LR)["train/loss"] for _ in range(6)]
    assert losses[-1] < losses[0] - 0.3


def test_a_frozen_vision_tower_stays_and_the_rest_moves(learner, batch):
    before = learner.state_dict()
    learner.supervised_step(batch, LR)
    after = learner.state_dict()
    for name, weight in before.items():
        assert torch.equal(weight, after[name]) == name.startswith("visual."), name


def test_a_step_at_learning_rate_zero_changes_nothing(learner, batch):
    before = learner.state_dict()
    learner.supervised_step(batch, 0.0)
    after = learner.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_a_policy_step_follows_the_advantages(learner, batch):
    advantages = np.where(np.arange(len(batch)) % 2, 1.0, -1.0)
    before, _ = learner.log_probs(batch)
    metrics = learner.policy_step(batch, advantages, before, LR)
    after, _ = learner.log_probs(batch)
    change = (after - before).sum(dim=1).numpy()
    assert (change * advantages > 0).all()
    assert metrics["actor/ppo_kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["actor/pg_clipfrac"] == 0
    tokens = batch.loss_mask_N_T.sum(axis=1)
    assert metrics["actor/pg_loss"] == pytest.approx(-(advantages * tokens).sum() / tokens.sum(), abs=1e-5)
    assert metrics["actor/grad_norm"] > 0
    assert metrics["actor/lr"] == LR


def test_ratios_beyond_the_clip_range_teach_nothing(learner, batch):
    """Old log-probabilities far below the present ones, with positive advantages: the objective is flat."""
    before, _ = learner.log_probs(batch)
    metrics = learner.policy_step(batch, np.ones(len(batch)), before - 1.0, LR)
    assert metrics["actor/pg_clipfrac"] == 1
    assert metrics["actor/pg_loss"] == pytest.approx(-(1 + learner.config.clip_high), abs=1e-5)
    assert metrics["actor/grad_norm"] == 0


def test_mini_batches_and_epochs_take_more_steps(learner, batch):
    log_probs, _ = learner.log_probs(batch)
    changes = {}
    for mini_batches, epochs in (1, 1), (4, 2), (100, 1):
        learner.config.mini_batches, learner.config.ppo_epochs = mini_batches, epochs
        before = learner.state_dict()["lm_head.weight"]
        metrics = learner.policy_step(batch, np.ones(len(batch)), log_probs, LR)
        changes[mini_batches] = float((learner.state_dict()["lm_head.weight"] - before).abs().max())
        assert np.isfinite(list(metrics.values())).all()
    # One step of AdamW moves a weight by the learning rate at most, give or take the decay.
    assert changes[1] < 1.1 * LR < changes[4]
    assert changes[100] > 1.1 * LR


def test_training_goes_on_bit_for_bit_after_a_checkpoint(learner, batch, tmp_path):
    learner.supervised_step(batch, LR)
    saved = learner.save(tmp_path / "checkpoint")

    def further():
        log_probs, _ = learner.log_probs(batch)
        learner.policy_step(batch, batch.rewards_N - 0.5, log_probs, LR)
        learner.supervised_step(batch, LR)
        return learner.state_dict()

    expected = further()
    learner.reset_optimizer()
    learner.supervised_step(batch, 10 * LR)
    learner.load(saved)
    resumed = further()
    assert all(torch.equal(weight, resumed[name]) for name, weight in expected.items())


def test_a_fresh_optimizer_forgets_its_moments(learner, batch):
    first = learner.supervised_step(batch, 0.0)
    learner.supervised_step(batch, LR)
    before = learner.state_dict()["lm_head.weight"]
    learner.reset_optimizer()
    learner.supervised_step(batch, LR)
    moved = (learner.state_dict()["lm_head.weight"] - before).abs()
    # The first step of AdamW has the size of the learning rate wherever there is a gradient to speak of.
    assert float(moved.max()) == pytest.approx(LR, rel=0.05)
    assert first["train/lr"] == 0.0


def test_a_checkpoint_is_a_hugging_face_policy(learner, policy_dir, batch, tmp_path):
    learner.supervised_step(batch, LR)
    policy = learner.save(tmp_path / "checkpoint") / "policy"
    assert {path.name for path in policy.iterdir()} == {path.name for path in policy_dir.iterdir()}
    AutoProcessor.from_pretrained(policy)
    original, written = (load_file(directory / "model.safetensors") for directory in (policy_dir, policy))
    state = learner.state_dict()
    assert written.keys() == original.keys() == state.keys()
    assert all(torch.equal(state[name], written[name]) for name in written)
    assert all(written[name].shape == original[name].shape for name in written)


def test_checkpoints_never_overwrite_and_leave_nothing_half_written(learner, tmp_path):
    learner.save(tmp_path / "checkpoint")
    with pytest.raises(FileExistsError, match="exists already"):
        learner.save(tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    with pytest.raises(FileNotFoundError, match="is not a checkpoint"):
        learner.load(tmp_path)


def test_advantages_equal_numpys(learner):
    rewards = np.array([1.0, 0.0, 0.5, 1.0, 0.3, 0.3, 0.3, 0.7, 0.0, 1.0])
    groups = ["a", "a", "a", "a", "b", "b", "b", "alone", "c", "c"]
    expected = np.zeros(len(rewards))
    for group in "ac":
        members = np.array(groups) == group
        expected[members] = (rewards[members] - rewards[members].mean()) / (rewards[members].std(ddof=1) + 1e-6)
    np.testing.assert_allclose(learner.advantages(rewards, groups), expected, atol=1e-5)
    learner.config.normalise_by_std = False
    np.testing.assert_allclose(learner.advantages(rewards, groups)[:4], rewards[:4] - rewards[:4].mean(), atol=1e-6)
    with pytest.raises(ValueError, match="group ids"):
        learner.advantages(rewards, groups[:-1])


def test_batches_without_sampled_tokens_and_misshapen_arguments_are_refused(learner, batch, make_episode, processor):
    empty = collate([make_episode()], processor)
    empty.loss_mask_N_T[:] = False
    with pytest.raises(ValueError, match="no token"):
        learner.supervised_step(empty, LR)
    with pytest.raises(ValueError, match="needs advantages of shape"):
        learner.policy_step(batch, np.ones(3), torch.zeros(batch.tokens_N_T.shape), LR)


@pytest.mark.parametrize(
    "settings", [{"gpus_per_worker": 2}, {"gpus_per_worker": 0.5, "workers": 2}, {"workers": 0}, {"workers": 3, "nodes": 2}]
)
def test_impossible_settings_are_refused(cluster, policy_dir, settings):
    with pytest.raises(ValueError, match="not"):
        Learner(policy_dir, LearnerConfig(**settings))


@pytest.mark.slow
def test_two_workers_compute_what_one_computes(cluster, policy_dir, batch, reference, banned, tmp_path):
    states, log_probs, later, metrics = {}, {}, {}, {}
    for workers in 1, 2:
        learner = Learner(policy_dir, LearnerConfig(workers=workers, threads_per_worker=1, banned_token_ids=banned, mini_batches=2))
        try:
            log_probs[workers], _ = learner.log_probs(batch)
            metrics[workers] = learner.supervised_step(batch, LR)
            learner.policy_step(batch, batch.rewards_N - 0.5, log_probs[workers], LR)
            later[workers], _ = learner.log_probs(batch)
            states[workers] = learner.state_dict()
            if workers == 1:
                checkpoint = learner.save(tmp_path / "checkpoint")
            else:
                learner.load(checkpoint)
                resharded = learner.state_dict()
        finally:
            learner.shutdown()
    np.testing.assert_allclose(log_probs[1].numpy(), np.where(batch.loss_mask_N_T, reference["log_probs"], 0.0), atol=1e-5)
    np.testing.assert_allclose(log_probs[2].numpy(), log_probs[1].numpy(), atol=1e-5)
    # AdamW's first steps turn rounding noise in tiny gradients into steps, so weights agree less closely than gradients do.
    np.testing.assert_allclose(later[2].numpy(), later[1].numpy(), atol=5e-3)
    assert np.abs(later[1].numpy() - log_probs[1].numpy()).max() > 0.1
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
    batch = collate([make_episode(seed=seed) for seed in range(5)], AutoTokenizer.from_pretrained(policy_dir))
    learner = Learner(policy_dir, LearnerConfig(precision=Precision.bfloat16))
    try:
        original, state = load_file(policy_dir / "model.safetensors"), learner.state_dict()
        assert state.keys() == original.keys()
        assert all(torch.equal(state[name], weight) for name, weight in original.items())
        losses = [learner.supervised_step(batch, LR)["train/loss"] for _ in range(6)]
        assert losses[-1] < losses[0] - 0.1
        before = learner.state_dict()
        learner.load(learner.save(tmp_path / "checkpoint"))
        assert all(torch.equal(weight, before[name]) for name, weight in learner.state_dict().items())
    finally:
        learner.shutdown()
