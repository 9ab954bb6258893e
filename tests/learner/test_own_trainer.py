"""What a trainer of the user's returns is checked before anything is learned from it, in one line that says what to return."""

import numpy as np
import pytest
import torch
from scripted import ScriptedTrainer, metrics, settings, start

from envs.errors import FleetError, UsageError
from learner import run as runs
from learner.config import LearnerConfig
from learner.experiment import Stage
from learner.train import run_rl
from learner.trainer import lacks


class Bare:
    """Takes what a trainer takes, and does nothing."""

    def __init__(self, policy_dir, config, *, seed, banned_token_ids):
        pass


class Odd:
    """Takes nothing."""


@pytest.fixture
def training(tmp_path):
    return start(settings(tmp_path / "run", stages=[Stage.rl]))


@pytest.mark.parametrize(
    ("method", "returned", "said"),
    [
        ("policy_step", None, "policy_step() returned a NoneType: return names and numbers"),
        ("policy_step", {"actor/x": "high"}, "policy_step() returned actor/x='high'"),
        ("advantages", None, "advantages() returned"),
        ("advantages", np.zeros(1), "advantages() returned the shape (1,): return a finite number for each of 4 episodes"),
        ("advantages", np.full(4, np.nan), "advantages() returned what is no number"),
        ("share_weights", None, "share_weights() returned a NoneType: return names and PyTorch tensors"),
        ("share_weights", {"w": np.ones(3)}, "share_weights() returned a dict"),
    ],
)
def test_what_a_step_cannot_use_is_refused(training, method, returned, said):
    setattr(training.trainer, method, lambda *_: returned)
    with pytest.raises(UsageError, match="learner") as refused:
        run_rl(training)
    assert said in str(refused.value)


def test_numbers_of_arrays_are_logged_as_numbers(training):
    training.trainer.policy_step = lambda *_: {"actor/x": torch.tensor(1.5), "rollout/logprob_gap": np.float32(0.25)}
    run_rl(training)
    assert metrics(training)[0]["actor/x"] == 1.5


def test_a_checkpoint_that_was_never_written_ends_the_run(training):
    training.trainer.save = lambda directory, done: None
    with pytest.raises(FleetError, match="step_2 is not there: something removed it, or save"):
        run_rl(training)


def test_a_trainer_without_its_methods_is_refused(tmp_path, monkeypatch, policy_dir):
    assert lacks(ScriptedTrainer()) == []
    for made, said in ((Bare, "has no advantages, refer_to, .*shutdown: write what"), (Odd, "cannot be made as Class")):
        monkeypatch.setattr(runs, "find_trainer", lambda kind, made=made: made)
        with pytest.raises(UsageError, match=f"learner.kind=mine:It {said}"):
            runs.start_trainer(settings(tmp_path, learner=LearnerConfig(kind="mine:It")), str(policy_dir))
