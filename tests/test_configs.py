"""Settings: every shipped choice composes, YAML overrides dataclasses, the command line overrides YAML, mistakes get one line."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from configs import choices, compose, compose_again
from envs.errors import UsageError
from learner.experiment import Experiment, Stage
from rollout.collect import CollectConfig
from sandbox import Limits
from starter.pretraining import PretrainingConfig

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", ["train", "cold_start"])
@pytest.mark.parametrize("experiment", choices())
def test_every_experiment_composes(command, experiment):
    config = compose(command, Experiment, [f"experiment={experiment}"])
    assert isinstance(config, Experiment)
    assert config.out.startswith("runs/")


@pytest.mark.parametrize("command", ["collect", "evaluate"])
def test_every_collection_composes(command):
    assert isinstance(compose(command, CollectConfig, []), CollectConfig)


def test_a_model_composes():
    assert compose("model", PretrainingConfig, ["world=mixture"]).world == "mixture"


def test_a_run_of_an_earlier_version_is_gone_on_with(tmp_path):
    """Its `config.yaml` may hold settings that are none any more."""
    saved = tmp_path / "config.yaml"
    saved.write_text("seed: 7\nlearner:\n  seed: 7\n  banned_token_ids: []\n  workers: 2\n")
    config = compose_again(saved, Experiment, ["resume=true"])
    assert (config.seed, config.learner.workers, config.resume) == (7, 2, True)


def test_the_command_line_outranks_the_experiment():
    assert compose("train", Experiment, ["experiment=study", "evaluation.episodes=7"]).evaluation.episodes == 7


def test_the_limits_of_a_session_are_settings():
    limits = compose(
        "collect", CollectConfig, ["rollout.limits.memory_bytes=4294967296", "rollout.limits.wall_s=30"]
    ).rollout.limits
    assert limits == Limits(memory_bytes=4 << 30, wall_s=30)


def test_the_cold_start_command_does_only_that():
    assert compose("cold_start", Experiment, ["experiment=study"]).stages == [Stage.cold_start]


def test_the_7b_experiment_has_the_papers_hyper_parameters():
    config = compose("train", Experiment, ["experiment=qwen2_5_vl_7b"])
    assert (config.rl.groups, config.rl.group_size, config.rl.learning_rate) == (256, 16, 1e-6)
    assert (config.learner.clip_low, config.learner.clip_high, config.learner.entropy_coefficient) == (0.2, 0.3, 0.0)
    assert (config.cold_start.batch_size, config.cold_start.learning_rate) == (128, 1e-5)
    assert config.rollout.episode.max_turns == 9


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("rl.stepz=3", "did you mean rl.steps"),
        ("+zzz=3", "unknown setting 'zzz'"),
        ("rl.steps=many", "rl.steps"),
        ("steps", "write key=value"),
        ("experiment=dmeo", "demo"),
        ("stages=[rl,flight]", "expected one of"),
        ("task_options.train.need=0.3", "write +task_options.train.need=0.3"),
    ],
)
def test_a_mistake_gets_one_line(override, answer):
    with pytest.raises(UsageError, match=re.escape(answer)) as error:
        compose("train", Experiment, [override])
    assert "\n" not in str(error.value)


OPTIONS = [
    "+options.tools=[code, mine:look, {mcp: {command: [python, server.py]}}]",
    "+options.reward=[{accuracy: 0.8}, {mine:brief: 0.2}]",
]


def test_options_of_the_environment_are_those_of_every_split():
    config = compose("train", Experiment, [*OPTIONS, "+task_options.test.max_turns=9", "task_options.train.split=null"])
    env_id, train = config.tasks_of("train")
    assert (env_id, train["tools"][1], "split" in train, "max_turns" in train) == (
        "toolwise/Microworld-v0",
        "mine:look",
        False,
        False,
    )
    assert (config.tasks_of("test")[1]["max_turns"], config.tasks_of("test")[1]["split"]) == (9, "test")


def test_a_resumed_run_reads_overrides_as_the_first_one_did(tmp_path):
    config = compose("train", Experiment, OPTIONS)
    saved = tmp_path / "config.yaml"
    saved.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    assert compose_again(saved, Experiment, [*OPTIONS, "resume=true"]).options == config.options
