"""A trainer without a model and a fleet without workers: they run the stages in milliseconds and remember how they were called."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch

from envs.runtime.progress import silent
from learner.experiment import ColdStartConfig, Experiment, HeldOutConfig, RLConfig, Stage, TrackingConfig
from learner.run_directory import RunDirectory
from learner.training_run import TrainingRun
from rollout.types import Episode, Group, StopReason, ToolCallRecord, Trajectory, Turn

PROMPT = [1, 2, 3]


class ScriptedTrainer:
    """Its whole state is the number of steps that it has taken, by which a test tells weights apart."""

    def __init__(self, policy_dir="base", config=None, *, seed=0, banned_token_ids=()):
        self.steps = 0
        self.calls, self.references = [], []
        self.supervised_batches, self.policy_batches, self.advantages_given = [], [], []

    def refer_to(self, policy_dir):
        self.references.append(policy_dir)

    def advantages(self, batch):
        rewards, group_ids = batch.rewards_E, batch.group_ids_E
        groups = np.asarray(group_ids)
        return np.array([reward - rewards[groups == group].mean() for reward, group in zip(rewards, group_ids, strict=True)])

    def supervised_step(self, batch, lr):
        self.steps += 1
        self.calls.append("supervised_step")
        self.supervised_batches.append(batch)
        return {"train/loss": 1 / self.steps, "train/lr": lr}

    def policy_step(self, batch, advantages, lr):
        self.steps += 1
        self.calls.append("policy_step")
        self.policy_batches.append(batch)
        self.advantages_given.append(advantages)
        return {"actor/lr": lr, "rollout/logprob_gap": 0.0}

    def state_dict(self):
        return {"steps": torch.tensor([self.steps])}

    def save(self, directory):
        (directory / "policy").mkdir()
        (directory / "steps").write_text(json.dumps(self.steps))

    def load(self, directory):
        self.steps = json.loads((directory / "steps").read_text())
        self.calls.append(f"load {directory.name}")

    def reset_optimizer(self):
        self.calls.append("reset_optimizer")

    def shutdown(self):
        self.calls.append("shutdown")


class ScriptedFleet:
    """Answers each spec with `play(spec, steps)`, where `steps` is the number of steps behind the weights that it serves."""

    def __init__(self, play):
        self.play = play
        self.collected, self.published = [], []
        self.steps = 0
        self.open = True

    def collect(self, groups):
        self.collected.append([spec for group in groups for spec in group.episodes])
        return [Group(group.group_id, tuple(self.play(spec, self.steps) for spec in group.episodes)) for group in groups]

    def publish(self, state_dict, version):
        self.steps = int(state_dict["steps"])
        self.published.append((version, self.steps))

    def shutdown(self):
        self.open = False


def episode(spec, *, correct=True, called=False, tool_status="ok", error=None):
    """An outcome of `spec` without images: `error` makes it one that failed for infrastructure reasons."""
    trajectory = Trajectory(
        episode_id=spec.episode_id,
        task_id=f"task-{spec.env_seed}",
        group_id=spec.group_id,
        abilities=("perception",),
        source="test",
        seed=spec.env_seed,
        stop_reason=StopReason.ANSWERED if error is None else StopReason.INFRASTRUCTURE,
        error=error,
        temperature=spec.temperature or 1.0,
    )
    if error is not None:
        return Episode((trajectory,))
    calls = [ToolCallRecord("code", tool_status, 0.5)] if called else []
    return Episode(
        (
            replace(
                trajectory,
                token_ids=[*PROMPT, 10, 11],
                loss_mask=[0, 0, 0, 1, 1],
                logprobs=[0.0, 0.0, 0.0, -0.5, -1.0],
                versions=[-1, -1, -1, 0, 0],
                prompt_length=len(PROMPT),
                turns=[Turn(action="<answer>1</answer>", tool_calls=calls, generate_s=0.25)],
                reward=float(correct),
                reward_parts={"accuracy": float(correct)},
                answer="1",
            ),
        )
    )


def settings(out, **changes):
    """A short run of all stages."""
    defaults = {
        "out": str(out),
        "stages": [Stage.cold_start, Stage.rl, Stage.control],
        "cold_start": ColdStartConfig(
            demonstrations=4,
            rehearsal=3,
            batch_size=2,
            rehearsal_batch_size=1,
            max_steps=4,
            evaluate_every=2,
            validation_episodes=4,
        ),
        "rl": RLConfig(steps=3, groups=2, group_size=2, checkpoint_every=2),
        "evaluation": HeldOutConfig(episodes=4),
        "tracking": TrackingConfig(mode="disabled"),
    }
    return Experiment(**defaults | changes)


def start(config, play=lambda spec, steps: episode(spec)):
    """A run on scripted parts; `training.said` are the lines that a person saw."""
    directory = RunDirectory(config)
    directory.open(config)
    said = []
    training = TrainingRun(
        config,
        "base",
        directory,
        trainer=ScriptedTrainer(),
        fleet=ScriptedFleet(play),
        progress=lambda title, total: nullcontext(silent),
        say=said.append,
    )
    training.said = said
    return training


def metrics(training):
    """The lines of `metrics.jsonl`."""
    path = training.directory.path / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
