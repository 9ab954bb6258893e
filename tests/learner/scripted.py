"""A trainer without a model and a fleet without workers: they run the stages in milliseconds and remember how they were called."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from fsspec.core import url_to_fs

from envs.runtime.progress import silent
from learner.experiment import ColdStartConfig, Experiment, HeldOutConfig, RLConfig, Stage, TrackingConfig
from learner.run_files.run_directory import RunDirectory
from learner.training_run import TrainingRun
from rollout.sequences import Sequences
from rollout.summary import EpisodeSummary
from rollout.types import Episode, Group, StopReason, ToolCallRecord, Trajectory, Turn, episodes_of

PROMPT = [1, 2, 3]


class ScriptedTrainer:
    """Its whole state is the number of steps that it has taken, by which a test tells weights apart."""

    def __init__(self, policy_dir="base", config=None, *, seed=0, banned_token_ids=()):
        self.steps = 0
        self.gap = 0.0  # nats between its log-probabilities and the sampler's
        self.calls, self.references = [], []
        self.slow, self.saved = False, []  # slow: what it saves is written when somebody waits for it
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
        return {"actor/lr": lr, "rollout/logprob_gap": self.gap}

    def share_weights(self, dtype):
        return {"steps": torch.tensor([self.steps])}

    def save(self, directory, done):
        fs, path = url_to_fs(directory)
        fs.makedirs(f"{path}/policy")
        fs.pipe_file(f"{path}/steps", json.dumps(self.steps).encode())
        self.saved.append(done)
        if not self.slow:
            self.finish_saving()

    def finish_saving(self):
        while self.saved:
            self.saved.pop()()

    def load(self, directory):
        fs, path = url_to_fs(directory)
        self.steps = json.loads(fs.cat_file(f"{path}/steps"))
        self.calls.append(f"load {path.rpartition('/')[2]}")

    def reset_optimizer(self):
        self.calls.append("reset_optimizer")

    def shutdown(self):
        self.calls.append("shutdown")


class ScriptedFleet:
    """Answers each spec with `answer(spec, steps)`, where `steps` is the number of steps behind the weights that it serves."""

    servers = None
    dtype = "float32"

    def __init__(self, answer):
        self.answer = answer
        self.collected, self.published, self.played = [], [], []
        self.steps = 0
        self.open = True

    def collect(self, groups, *, played=False):
        self.played.append(played)
        self.collected.append([spec for group in groups for spec in group.episodes])
        return [Group(group.group_id, tuple(self.answer(spec, self.steps) for spec in group.episodes)) for group in groups]

    def play(self, groups, store, name, *, played=False):
        played = self.collect(groups, played=played)
        store.write(name, episodes_of(played))
        return [Group(group.group_id, tuple(map(summary, group.episodes))) for group in played]

    def status(self):
        return {"workers": {"wanted": 1, "ready": 1, "replaced": 0}, "episodes": None, "failures": {}, "errors": []}

    def flush(self):
        pass

    def publish(self, weights, version):
        self.steps = int(weights["steps"])
        self.published.append((version, self.steps))

    def shutdown(self):
        self.open = False


def summary(played):
    """The summary of an episode, with its sequences in the place of a reference to them."""
    return replace(EpisodeSummary.of(played), sequences=Sequences.of(played) if played.trainable else None)


def episode(spec, *, correct=True, called=False, tool_status="ok", error=None, cut=None, refused=None):
    """An outcome of `spec` without images: `error` makes it one that failed for infrastructure reasons, `cut` one that this
    deadline cut off, `refused` one whose question could not be put."""
    if refused is not None:
        played = episode(spec, error=refused)
        return Episode((replace(played.chains[0], stop_reason=StopReason.ABORTED),))
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
                stop_reason=StopReason.TIME_LIMIT if cut else StopReason.ANSWERED,
                cut=cut,
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
