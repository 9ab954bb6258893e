"""Settings: every shipped choice composes, YAML overrides dataclasses, the command line overrides YAML, a text is taken as it
stands, mistakes get one line."""

import math
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from configs import choices, compose, compose_again
from configs.elsewhere import NAMES
from configs.values import check_numbers, check_out, options_text, read_value
from curation.settings import CurateConfig
from envs.errors import UsageError
from evaluation.settings import EvaluateConfig
from learner.experiment import Experiment, Stage
from rollout.collect import CollectConfig
from rollout.config import EngineConfig, RolloutConfig
from rollout.episode.environments import make, tool_names
from sandbox import Limits
from starter.pretraining import PretrainingConfig

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", ["train", "cold_start"])
@pytest.mark.parametrize("experiment", choices())
def test_every_experiment_composes(command, experiment):
    config = compose(command, Experiment, [f"experiment={experiment}"])
    assert isinstance(config, Experiment)
    assert config.out.startswith("runs/")


@pytest.mark.parametrize(
    ("command", "schema"), [("collect", CollectConfig), ("evaluate", EvaluateConfig), ("curate", CurateConfig)]
)
def test_every_collection_composes(command, schema):
    assert isinstance(compose(command, schema, []), schema)


def test_a_model_composes():
    assert compose("model", PretrainingConfig, ["world=mixture"]).world == "mixture"


def test_a_run_of_an_earlier_version_is_gone_on_with(tmp_path):
    """Its `config.yaml` may hold settings that are none any more."""
    saved = tmp_path / "config.yaml"
    saved.write_text("seed: 7\nlearner:\n  seed: 7\n  packed: false\n  attention: sdpa\n  banned_token_ids: []\n  workers: 2\n")
    config = compose_again(saved, Experiment, ["resume=true"])
    assert (config.seed, config.learner.workers, config.resume) == (7, 2, True)


def test_the_command_line_outranks_the_experiment():
    assert compose("train", Experiment, ["experiment=study", "evaluation.episodes=7"]).evaluation.episodes == 7


def test_an_experiment_may_be_a_file_of_ones_own(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("defaults: [dapo]\nrl: {steps: 7, learning_rate: 2e-6}\noptions: {protocol: hermes}\nout: x_${seed}\n")
    config = compose("train", Experiment, [f"experiment={own}", "rl.steps=8"])
    dapo = compose("train", Experiment, ["experiment=dapo"])
    assert (config.rl.steps, config.rl.learning_rate, config.options["protocol"]) == (8, 2e-6, "hermes")
    assert config.learner == dapo.learner != Experiment().learner
    own.write_text("seed: 5\n")  # read anew, as in a notebook
    assert compose("train", Experiment, [f"experiment={own}"]) == replace(Experiment(), seed=5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rl: {stepz: 1}", "experiment=.*mine.yaml: unknown setting 'rl.stepz': did you mean rl.steps"),
        ("rl: {steps: many}", "rl.steps: In .*mine.yaml: .*'many'"),
        ("rl: [", "experiment=.*mine.yaml: while parsing"),
        ("- rl", "experiment=.*mine.yaml: write a setting a line"),
        (None, "experiment=.*mine.yaml: .*No such file"),
    ],
)
def test_a_wrong_file_of_ones_own_is_named(tmp_path, text, said):
    own = tmp_path / "mine.yaml"
    if text is not None:
        own.write_text(text)
    with pytest.raises(UsageError, match=said):
        compose("train", Experiment, [f"experiment={own}"])


def test_the_limits_of_a_session_are_settings():
    limits = compose(
        "collect", CollectConfig, ["rollout.limits.memory_bytes=4294967296", "rollout.limits.wall_s=30"]
    ).rollout.limits
    assert limits == Limits(memory_bytes=4 << 30, wall_s=30)


def test_the_home_directory_is_put_in_for_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    given = ["out=~/runs", "rollout.engine.policy=~", 'cold_start.sources=[{path: "~/a.json"}]', "+options.text_search=~/index"]
    config = compose("train", Experiment, [*given, "checkpoint.dir=a~/b", "tracking.project=~/as_it_stands"])
    assert (config.out, config.rollout.engine.policy) == ("/home/ada/runs", "/home/ada")
    assert (config.cold_start.sources[0].path, config.options["text_search"]) == ("/home/ada/a.json", "/home/ada/index")
    assert (config.checkpoint.dir, config.tracking.project) == ("a~/b", "~/as_it_stands")


def test_the_cold_start_command_does_only_that():
    assert compose("cold_start", Experiment, ["experiment=study"]).stages == [Stage.cold_start]


def test_the_experiments_without_tools_offer_none():
    assert tool_names(*compose("train", Experiment, ["experiment=dynamics/no_tools"]).tasks_of("train")) == ()


@pytest.mark.parametrize("experiment", [name for name in choices() if name.startswith("dynamics/")])
def test_the_environment_of_each_experiment_can_be_made(experiment):
    """Its reward, which no schema checks, included."""
    make(*compose("train", Experiment, [f"experiment={experiment}"]).tasks_of("train")).close()


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
        ("steps=5", "did you mean rl.steps"),
        ("evaluation.episode=5", "did you mean evaluation.episodes"),
        ("actor_rollout_ref.rollout.n=8", "did you mean rl.group_size=…?"),
        ("cold_start.lr=1e-5", "did you mean cold_start.learning_rate=…?"),
        ("kl-coef=0.1", "did you mean +learner.verl.actor.kl_loss_coef=…?"),
        ("checkpoint.zzz=1", "unknown setting 'checkpoint.zzz': settings of checkpoint are dir, best"),
        ("rollout=5", "write rollout.NAME=…, with NAME one of engine"),
        ("rl.steps=1e3", "write a whole number"),
        ("rl.learning_rate=fast", "write a number"),
        ("learner.freeze_vision=maybe", "write true or false"),
        ("learner.precision=fp8", "write float32 or bfloat16"),
        ("stages=rl", "stages=[rl]"),
        ("stages=rl,control", "stages=[rl,control]"),
        ("out=", "out= has no value"),
        ("seed=", "write a whole number, or leave seed= out"),
        ("out=runs/${x}", "as in ${seed}"),
        ("out=runs/${x", "choose a value without it"),
        ("+options.reward={a: b=c}", "quote each text"),
        ("stages=[rl,flight]", "expected one of"),
        ("task_options.train.need=0.3", "write +task_options.train.need=0.3"),
    ],
)
def test_a_mistake_gets_one_line(override, answer):
    with pytest.raises(UsageError, match=re.escape(answer)) as error:
        compose("train", Experiment, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("setting", NAMES)
def test_a_name_from_elsewhere_is_answered_with_ours(setting):
    command, schema = ("evaluate", EvaluateConfig) if setting in ("episodes", "group_size") else ("train", Experiment)
    for name in NAMES[setting].split():
        with pytest.raises(UsageError, match=rf"(mean|or) \+?{re.escape(setting)}=…"):
            compose(command, schema, [f"trainer.{name}=1"])


STANDING = [
    "ckpt/epoch=3-step=100",
    "https://x.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
    "runs/中文/é",
    "data/q (1).jsonl",
    "v1, no tools",
    "[v1] {a: b}",
    "007",
    "1e3",
    "true",
    "~/runs",
    "runs/$x",
    "it's",
    "a:b#c&d;e!",
    "C:\\runs\\x",
    "\\\\server\\share",
    " ",
]


@pytest.mark.parametrize("text", STANDING)
@pytest.mark.parametrize("hint", [str, str | None])
def test_a_text_is_taken_as_it_stands(text, hint):
    assert read_value("label", text, hint) == text


def test_texts_arrive_as_they_stand():
    for text in STANDING:
        assert compose("collect", CollectConfig, [f"label={text}"]).label == text


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("'a=b'", str, "a=b"),
        ('"a, b"', str, "a, b"),
        ("ckpt/epoch\\=3", str, "ckpt/epoch=3"),
        ('"x" and "y"', str, '"x" and "y"'),
        ("null", str | None, None),
        ("null", str, "null"),
        ("null", int | None, None),
        ("[runs/a=1, runs/b]", list[str], ["runs/a=1", "runs/b"]),
        ('["a,b",c]', list[str], ["a,b", "c"]),
        ("[007]", list[str], ["007"]),
        ("[]", list[str], []),
        ("v1, no", Any, "v1, no"),
        ("http://x?y=z", Any, "http://x?y=z"),
        ("5", Any, 5),
        ('{"accuracy": 0.5, "mine:brief": [1]}', Any, {"accuracy": 0.5, "mine:brief": [1]}),
    ],
)
def test_quotes_lists_and_json_are_read(text, hint, value):
    assert read_value("key", text, hint) == value


def test_of_a_setting_that_is_given_twice_the_last_counts():
    """A script has settings of its own, and its caller's after them."""
    assert compose("collect", CollectConfig, ["out=a", "seed=1", "+out=a=1"]).out == "a=1"


def test_a_setting_may_name_another():
    assert compose("collect", CollectConfig, ["out=runs/${seed}", "seed=7"]).out == "runs/7"


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"episodes": 0}, "episodes=0: write at least 1"),
        ({"episodes": -1}, "episodes=-1: write at least 1"),
        ({"group_size": 0}, "group_size=0: write at least 1"),
        ({"seed": -1}, "seed=-1: write at least 0"),
        ({"seed": 2**31}, "write at most 2147483647"),
        ({"temperature": -0.1}, "temperature=-0.1: write at least 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf: write a number"),
        ({"rollout": RolloutConfig(workers=0)}, "rollout.workers=0: write at least 1"),
        ({"rollout": RolloutConfig(group_s=0)}, "rollout.group_s=0: write more than 0"),
        ({"rollout": RolloutConfig(engine=EngineConfig(gpu_memory_utilization=90))}, "write at most 1"),
    ],
    ids=str,
)
def test_a_number_out_of_its_range_is_refused(change, answer):
    with pytest.raises(UsageError, match=re.escape(answer)):
        check_numbers(CollectConfig(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"rollout": RolloutConfig(sandboxes_per_worker=0, group_s=math.inf)},
        {"rollout": RolloutConfig(gpus_per_worker=0.5, engine=EngineConfig(block_size=None))},
    ],
    ids=str,
)
def test_a_number_in_its_range_is_taken(change):
    check_numbers(CollectConfig(**change))


@pytest.mark.parametrize(("name", "schema"), [("collect", CollectConfig), ("evaluate", CollectConfig), ("train", Experiment)])
def test_a_commands_numbers_are_checked(name, schema):
    with pytest.raises(UsageError, match=r"rollout.workers=-2: write at least 1"):
        compose(name, schema, ["rollout.workers=-2"])


def test_a_file_is_no_place_to_write_to(tmp_path):
    (tmp_path / "file").touch()
    for out in ("file", "file/run"):
        with pytest.raises(UsageError, match="file is a file: write a directory"):
            check_out(f"{tmp_path}/{out}")
    check_out(f"{tmp_path}/new/run")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError, match="link is a link to nowhere, which is not there: make it"):
        check_out(f"{tmp_path}/link/run")
    with pytest.raises(UsageError, match="there can be no such directory"):
        check_out(f"{tmp_path}/{'x' * 300}")
    (tmp_path / "link").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("out", ["/proc/run", *(["/usr/run"] if os.geteuid() else [])])  # root may write there
def test_a_place_that_may_not_be_written_to_is_refused(out):
    with pytest.raises(UsageError, match="cannot be written to"):
        check_out(out)


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


def test_options_are_written_as_they_are_read():
    options = {
        "protocol": {"hermes": {"answer": "tag"}},
        "tools": ["code", "my_module:my_tool"],
        "reward": [{"accuracy": 1.0}, {"my_module:part": -0.2}],
        "judge": {"url": "http://x:80/v1?a=b,c", "model": "Q 7"},
        "prompt": "a=b, {c} 'd'",
        "name": "5",
        "split": None,
        "strict": True,
    }
    assert compose("collect", CollectConfig, shlex.split(options_text(options))).options == options
