"""Checkpoints of sharded ranks go on bit for bit, on another number of ranks too; are Hugging Face policies; survive SIGKILL.

Real processes over gloo hold a tiny model by FSDP2 (`tests/learner/ranks.py`).
"""

import json
import math
import os
import re
import signal
import time
from types import SimpleNamespace

import checkpoint_ranks as ranks
import pytest
import torch
from families import policy
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.core_model_loading import Chunk, WeightConverter

from benchmarks.learning.checkpoint_peak import peaks
from learner.run_files.checkpoints import Checkpoints
from learner.verl.state import checkpoints, policy_files


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory):
    return ranks.build(tmp_path_factory.mktemp("policy"))


@pytest.mark.slow
def test_training_goes_on_on_any_number_of_ranks(policy_dir, tmp_path):
    """Two ranks save, one goes on and saves, two go on: the losses are those of a run that was never interrupted."""
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    whole = ranks.run(2, ranks.train, policy_dir, None, [1, 2, 3, 4, 5, 6], None)[0][0]
    before = ranks.run(2, ranks.train, policy_dir, None, [1, 2], first)
    same = ranks.run(2, ranks.train, policy_dir, first, [3, 4, 5, 6], None)
    alone = ranks.run(1, ranks.train, policy_dir, first, [3, 4], second)
    again = ranks.run(2, ranks.train, policy_dir, second, [5, 6], None)
    assert before[0][0] == whole[:3], "saving changes nothing"
    assert same[0][0] == whole[2:], "bit for bit"
    assert [*alone[0][0][:2], *again[0][0]] == pytest.approx(whole[2:], rel=1e-5)
    assert [random_state for _, random_state in same] == ["random state of rank 0", "random state of rank 1"]
    assert [random_state for _, random_state in again] == ["random state of rank 0", None], "rank 1 was not there"
    assert (first / "done").exists()


@pytest.mark.slow
def test_moments_of_8_bits_go_on_on_another_number_of_ranks(tmp_path):
    pytest.importorskip("torchao", reason="torchao is not installed, which keeps moments in 8 bits")
    policy_dir, saved = ranks.build(tmp_path / "policy", hidden=128), tmp_path / "saved"
    saved.mkdir()
    whole, _ = ranks.run(1, ranks.in_8_bits, policy_dir, None, [1, 2, 3, 4], None)[0]
    before, none = ranks.run(1, ranks.in_8_bits, policy_dir, None, [1, 2], saved)[0]
    after, kinds = ranks.run(2, ranks.in_8_bits, policy_dir, saved, [3, 4], None)[0]
    assert before == whole[:2]
    assert after == pytest.approx(whole[2:], rel=1e-3)
    assert (none, kinds) == (set(), {"OptimState8bit", "Tensor"})


def test_a_url_holds_what_a_directory_holds(policy_dir):
    losses, names, repeated = ranks.run(1, ranks.in_memory, policy_dir)[0]
    assert names == ["step_1"]
    assert repeated == losses[1]


def test_an_optimizer_without_state_stays_so(policy_dir, tmp_path):
    losses, repeated, third, has_state = ranks.run(1, ranks.without_state, policy_dir, tmp_path)[0]
    assert repeated == losses[:1]
    assert third == losses[2]
    assert not has_state


@pytest.mark.parametrize(
    ("base", "dtype", "written_dtype", "tied"),
    [
        ("float32", "auto", "float32", True),
        ("float32", "bfloat16", "bfloat16", False),
        pytest.param("bfloat16", "auto", "bfloat16", True, marks=pytest.mark.slow),
        pytest.param("bfloat16", "auto", "bfloat16", False, marks=pytest.mark.slow),
        pytest.param("float32", "auto", "float32", False, marks=pytest.mark.slow),
        pytest.param("float32", "bfloat16", "bfloat16", True, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_is_a_hugging_face_policy(base, dtype, written_dtype, tied, tmp_path):
    """In one file, or in several with an index, each written by one of the ranks."""
    base_dir = tmp_path / "base"
    base_dir.mkdir()
    ranks.build(base_dir, dtype=base, tied=tied)
    file_bytes = 5 * 10**9 if dtype == "auto" else 30_000
    ranks.run(2, ranks.write_policy, base_dir, tmp_path, dtype, file_bytes, 10_000)
    policy = tmp_path / "policy"
    files = sorted(path.name for path in policy.glob("*.safetensors"))
    assert (len(files) == 1) == (dtype == "auto")
    assert all((policy / name).stat().st_size < 1.2 * file_bytes for name in files)
    assert (policy / "tokenizer.json").read_text() == "{}"
    assert json.loads((policy / "config.json").read_text())["dtype"] == written_dtype
    stored = {name: tensor for file in files for name, tensor in load_file(policy / file).items()}
    assert stored.keys() == load_file(base_dir / "model.safetensors").keys()
    model = AutoModelForCausalLM.from_pretrained(policy)
    expected = torch.load(tmp_path / "expected.pt")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name].to(getattr(torch, written_dtype))), name


def test_weights_that_files_join_are_converted_together(policy_dir):
    """A family may store in one tensor what the model keeps in several: those are read and written together."""
    model = AutoModelForCausalLM.from_pretrained(policy_dir)
    model._weight_conversions = [
        WeightConverter("mlp.gate_up.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"], [Chunk(dim=0)])
    ]
    files = policy_files.PolicyFiles(model, policy_dir, "auto", tied=False)
    (sources,) = files._files.values()
    together = [source for source in sources if len(source.weights) > 1]
    assert {name for source in together for name in source.weights} == {
        f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in (0, 1) for part in ("gate", "up")
    }
    assert {name: tuple(tensor.shape) for source in together for name, tensor in source.targets.items()} == {
        f"model.layers.{layer}.mlp.gate_up.weight": (128, 32) for layer in (0, 1)
    }


def test_experts_that_are_turned_round_when_they_are_read_are_written_as_they_were(tmp_path):
    directory = policy("qwen3_vl_moe", tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(directory)
    files = policy_files.PolicyFiles(model, directory, "auto", tied=False)
    written = {name: target.shape for sources in files._files.values() for one in sources for name, target in one.targets.items()}
    assert written == {name: tensor.shape for name, tensor in load_file(directory / "model.safetensors").items()}
    name = "model.language_model.layers.0.mlp.experts.down_proj"
    assert tuple(model.get_parameter(name).shape) == (4, 64, 96) != tuple(written[name])


def test_checkpoints_of_version_0_1_are_read(policy_dir, tmp_path):
    for losses, repeated, random_state in ranks.run(2, ranks.from_version_0_1, policy_dir, tmp_path):
        assert repeated == losses
        assert random_state is None


def test_what_went_wrong_is_one_line_on_every_rank_that_of_the_background_at_the_next_call(policy_dir, tmp_path):
    for message, done, unread in ranks.run(2, ranks.on_a_full_disk, policy_dir, tmp_path):
        assert message.startswith("a checkpoint could not be written: rank 1: IsADirectoryError: ")
        assert "\n" not in message
        assert not done
        assert re.fullmatch(
            r"the checkpoint .*cut cannot be read \(rank \d: .+\): if it is damaged, remove it, .* the one before", unread
        )


def test_a_full_disk_is_named_of_which_torch_says_nothing(tmp_path, monkeypatch):
    assert checkpoints._if_full(str(tmp_path / "gone")) == checkpoints._if_full("s3://bucket") == ""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=5e6))
    assert f"the disk of {tmp_path} is full: 5.0 MB are left" in checkpoints._if_full(str(tmp_path))


@pytest.mark.parametrize("number", [pytest.param(2, marks=pytest.mark.slow), 1])
def test_killed_amid_writing_it_goes_on_from_the_checkpoint_before(policy_dir, tmp_path, number):
    """SIGKILL hits the processes while the third checkpoint's shards are there and it is not yet whole."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    processes = ranks.start(2, ranks.save_again_and_again, policy_dir, str(tmp_path))
    unfinished = tmp_path / ".step_3.UNFINISHED"
    deadline = time.monotonic() + 120
    while not list(unfinished.glob("training/*.distcp")):
        assert time.monotonic() < deadline
        time.sleep(0.0002)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()
    assert unfinished.exists(), "it was written before the signal came"
    assert checkpoints.names() == ["step_1", "step_2"]
    checkpoints.open()
    assert not unfinished.exists()
    whole = ranks.run(2, ranks.train, policy_dir, None, [1, 2, 3], None)[0][0]
    step, loss = ranks.run(number, ranks.go_on, policy_dir, str(tmp_path))[0]
    assert step == 2
    assert math.isclose(loss, whole[2], rel_tol=1e-5)


def test_saving_takes_hardly_more_memory_than_a_copy_of_the_ranks_shard(tmp_path):
    """Real peaks of real processes; a rank that gathered the optimizer would rise by twice its shard, or more."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "vocab_size": 16384}
    for rise, shard in peaks(2, sizes, tmp_path):
        assert shard > 200 * 10**6
        assert rise < 1.5 * shard
