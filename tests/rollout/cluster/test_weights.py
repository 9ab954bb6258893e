"""Weights reach another process as a handle and are the ones that were shared, or there is an error; a worker that is killed amid
an update serves the new ones or nothing."""

import os
import pickle
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from rollout_fakes import RefusingEngine, spec
from rollout_mortal import Mortal, told
from transformers import AutoModelForImageTextToText

from envs.errors import FleetError, InfrastructureError
from rollout.cluster import weights as module
from rollout.cluster.fleet import Fleet
from rollout.cluster.weights import Sender
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.tokens.chat_format import banned_token_ids
from rollout.types import GroupSpec

STATE = {
    "large": torch.arange(40_000, dtype=torch.float32).reshape(200, 200),
    "half": torch.randn(7, 3).to(torch.bfloat16),
    "transposed": torch.randn(5, 64).T,
    "whole": torch.arange(5),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "last": torch.randn(1000),
}


@pytest.fixture
def small_buckets(monkeypatch):
    """So that the tensors take several buckets, and one is larger than a bucket."""
    monkeypatch.setattr(module, "BUCKET_BYTES", 4096)


@ray.remote
def read(weights):
    return {name: tensor.clone() for name, tensor in weights.tensors().items()}


@ray.remote
def read_elsewhere(weights):
    """As on a node that the sender is not on."""
    return {name: tensor.clone() for name, tensor in replace(weights, node="another").tensors().items()}


@pytest.mark.parametrize(("reader", "copies"), [(read, False), (read_elsewhere, True)])
def test_another_process_reads_what_was_shared(cluster, small_buckets, reader, copies):
    sender = Sender()
    for round_ in range(3):
        weights = sender.share(((name, tensor + round_) for name, tensor in STATE.items()), copies=copies)
        found = ray.get(reader.remote(weights))
        assert list(found) == list(STATE)
        for name, tensor in STATE.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor + round_)
    assert len(weights.buckets) > 2


def test_floating_point_numbers_are_cast_and_others_are_not(cluster):
    sender = Sender()
    found = sender.share(STATE.items(), "bfloat16").tensors()
    for name, tensor in STATE.items():
        expected = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected)


def test_a_handle_is_small_and_so_are_the_tensors_that_an_engines_other_processes_get(cluster):
    tensors = {f"layer.{number}": torch.zeros(1000, 250) for number in range(20)}
    sender = Sender()
    handle = pickle.dumps(sender.share(tensors.items()))
    passed = pickle.dumps(sender.share(tensors.items()).tensors())
    assert max(len(handle), len(passed)) < 100 * len(tensors) < 1e-3 * 20 * tensors["layer.0"].nbytes
    assert torch.equal(pickle.loads(passed)["layer.7"], tensors["layer.7"])


def test_an_engine_on_another_node_copies_what_its_other_processes_read(cluster):
    sender = Sender()
    tensors = replace(sender.share(STATE.items(), copies=True), node="another").tensors()
    passed = pickle.loads(pickle.dumps(tensors))
    assert all(torch.equal(passed[name], tensor) for name, tensor in STATE.items())


def test_one_version_can_be_read_while_the_next_is_served_and_none_that_was_overwritten(cluster):
    sender = Sender()
    weights = [sender.share({"weight": torch.full((3,), float(version))}.items()) for version in range(3)]
    assert [weights[version].tensors()["weight"][0].item() for version in (1, 2)] == [1.0, 2.0]
    with pytest.raises(InfrastructureError, match="overwritten by later ones"):
        weights[0].tensors()["weight"]


@ray.remote
class Owner:
    def share(self):
        self.sender = Sender()
        return os.getpid(), self.sender.share(STATE.items())


def test_weights_whose_owner_was_killed_are_lost(cluster):
    owner = Owner.remote()
    process, weights = ray.get(owner.share.remote())
    assert torch.equal(weights.tensors()["last"], STATE["last"])
    os.kill(process, signal.SIGKILL)
    while Path(weights.buckets[0].path).exists():
        time.sleep(0.01)
    with pytest.raises(InfrastructureError, match="lost with the process that shared them"):
        weights.tensors()["last"]


def test_if_no_worker_takes_an_update_the_run_ends_in_one_line(cluster):
    engine = EngineConfig(kind=RefusingEngine.KIND)
    fleet = Fleet(RolloutConfig(sandboxes_per_worker=0, cpus_per_worker=0.5, engine=engine))
    fleet.publish({"weight": torch.zeros(2)}, 3)
    with pytest.raises(FleetError, match=r"^a worker and its successor failed to take version 3: there is no room for them$"):
        fleet.collect([GroupSpec("g", (spec(),))])
    fleet.shutdown()


def sampled_after_a_kill(kind, directory, state):
    """The tokens, and those that were sampled with their log-probabilities, of an episode after an update amid which the fleet's
    only worker was killed."""
    fleet = Fleet(
        RolloutConfig(
            sandboxes_per_worker=0,
            cpus_per_worker=0.5,
            engine=EngineConfig(kind=kind, policy=str(directory), max_model_len=512),
            episode=EpisodeConfig(max_tokens=400, max_action_tokens=16),
        )
    )
    try:
        process = ray.get(fleet.seats[0].worker.health.remote())["process"]
        Path(directory, "deadly").touch()
        fleet.publish(state, 5)
        assert ray.get(fleet.seats[0].worker.health.remote())["process"] != process
        (group,) = fleet.collect([GroupSpec("g", (spec(turns=0),))])
    finally:
        fleet.shutdown()
        Path(directory, "deadly").unlink(missing_ok=True)
    trajectory = group.episodes[0].trajectory
    sampled = torch.tensor(trajectory.loss_mask, dtype=torch.bool)
    assert {version for version, mine in zip(trajectory.versions, sampled, strict=True) if mine} == {5}
    return torch.tensor([trajectory.token_ids]), sampled, torch.tensor(trajectory.logprobs)[sampled]


def test_a_worker_that_is_killed_amid_an_update_is_replaced_by_one_with_the_new_weights(cluster, tmp_path):
    _, _, log_probs = sampled_after_a_kill(Mortal.KIND, tmp_path, STATE)
    assert log_probs.tolist() == pytest.approx([told(STATE)] * len(log_probs))


@pytest.mark.slow
def test_a_worker_of_vllm_that_is_killed_amid_an_update_is_too(cluster, policy_directory, other_policy_directory, chat):
    model = AutoModelForImageTextToText.from_pretrained(other_policy_directory, dtype=torch.float32)
    ids, sampled, log_probs = sampled_after_a_kill("rollout_mortal_vllm:Mortal", policy_directory, model.state_dict())
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    logits[:, banned_token_ids(chat.tokenizer, model.config)] = -torch.inf
    expected = torch.log_softmax(logits[:-1], dim=-1).gather(1, ids[0, 1:, None])[:, 0]
    assert log_probs.tolist() == pytest.approx(expected[sampled[1:]].tolist(), abs=1e-4)
