"""A turn that updates cut off is one turn: it ends where an uncut one would, each token has the version that sampled it, and no
part draws the random numbers of another. Settings reach verl's own, and what cannot be served is refused in one line.

The servers themselves are in `tests/learner/verl/test_servers.py`: they take minutes to start.
"""

import json
import os
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from envs.errors import UsageError
from rollout.config import EngineConfig, RolloutConfig
from rollout.engines.verl import settings
from rollout.engines.verl.policy import VerlPolicy
from rollout.engines.verl.servers import Servers
from rollout.engines.verl.settings import check_transport, environment, verl_config
from rollout.policy import HasSessions


class Client:
    """verl's client, as far as a policy asks it: each part is (text or token ids, version), all but the last are cut off."""

    def __init__(self, chat, *parts):
        self.chat, self.parts, self.asked = chat, list(parts), []

    async def generate(self, request_id, *, prompt_ids, sampling_params, image_data):
        self.asked.append((request_id, prompt_ids, sampling_params))
        said, version = self.parts.pop(0)
        token_ids = self.chat.encode([said], ()) if isinstance(said, str) else said
        token_ids = token_ids[: sampling_params["max_tokens"]]
        return SimpleNamespace(
            token_ids=token_ids,
            log_probs=[-0.5] * len(token_ids),
            stop_reason="aborted" if self.parts else "completed",
            extra_fields={"global_steps": version},
        )


@pytest.fixture
def ask(chat, policy_directory):
    """Samples one turn in parts; returns it as text, the generation, and what the client was asked."""

    async def sample(*parts, max_tokens=64, stop=("</answer>",), version=7):
        client = Client(chat, *parts)
        config = RolloutConfig(engine=EngineConfig(kind="verl", policy=policy_directory, max_model_len=512))
        policy = VerlPolicy(config, version, client)
        turn = await policy.session("e").generate([1, 2], [], max_tokens=max_tokens, temperature=1.0, seed=3, stop=stop)
        return chat.decode(turn.token_ids), turn, client.asked

    return sample


@pytest.mark.parametrize(
    ("parts", "text", "versions", "reason"),
    [
        ([("<answer>1</answer>", 4)], "<answer>1</answer>", [4], "stop"),
        ([("<answer>1</answer>", None)], "<answer>1</answer>", [7], "stop"),
        ([("<answer>1", 4), ("2</answer>", 5)], "<answer>12</answer>", [4, 5], "stop"),
        ([("<answer>1</ans", 4), ("wer> and on", 5)], "<answer>1</answer>", [4, 5], "stop"),
        ([([], 4), ("<answer>1</answer>", 5)], "<answer>1</answer>", [5], "stop"),
        ([("ab", 4), ("cd", 4), ("ef", 6)], "abcdef", [4, 6], "length"),
    ],
)
async def test_a_turn_in_parts_ends_as_a_whole_one(ask, parts, text, versions, reason):
    said, turn, asked = await ask(*parts)
    assert said == text
    assert turn.finish_reason == reason
    assert sorted(set(turn.token_versions)) == versions
    assert len(turn.token_ids) == len(turn.logprobs) == len(turn.token_versions)
    assert (turn.versions is None) == (len(versions) == 1)
    assert len({sampling["seed"] for _, _, sampling in asked}) == len(parts)
    assert {request for request, _, _ in asked} == {"e"}


async def test_each_part_goes_on_behind_the_one_before_within_the_limit(ask):
    _, turn, asked = await ask(("abc", 1), ("defgh", 2), max_tokens=6)
    assert [(prompt, sampling["max_tokens"]) for _, prompt, sampling in asked] == [([1, 2], 6), ([1, 2, *turn.token_ids[:3]], 3)]
    assert (len(turn.token_ids), turn.finish_reason) == (6, "length")


async def test_the_end_of_turn_at_the_limit_is_a_stop(ask, chat):
    _, turn, _ = await ask(([65, chat.end_of_turn], 1), max_tokens=2)
    assert turn.finish_reason == "stop"


def test_the_policy_has_sessions(chat, policy_directory):
    config = RolloutConfig(engine=EngineConfig(policy=policy_directory))
    assert isinstance(VerlPolicy(config, 0, Client(chat)), HasSessions)


def test_settings_reach_verl(policy_directory, monkeypatch):
    monkeypatch.setattr(settings, "find_spec", lambda name: object())  # as if cupy were installed
    engine = EngineConfig(kind="verl", policy=policy_directory, max_model_len=777, tensor_parallel_size=2, max_images=3)
    hybrid, apart = (verl_config(RolloutConfig(engine=engine, servers=servers), on_cpu=False) for servers in (0, 4))
    rollout = apart.actor_rollout_ref.rollout
    assert (rollout.nnodes, rollout.n_gpus_per_node, rollout.tensor_model_parallel_size) == (4, 2, 2)
    assert (rollout.max_model_len, rollout.dtype, rollout.logprobs_mode) == (777, "float32", "processed_logprobs")
    group, other = (
        verl_config(RolloutConfig(engine=engine), on_cpu=False).actor_rollout_ref.rollout.checkpoint_engine.engine_kwargs.nccl
        for _ in range(2)
    )
    assert group.group_name != other.group_name  # of each start
    assert (rollout.checkpoint_engine.backend, rollout.enable_sleep_mode, rollout.enforce_eager) == ("nccl", False, False)
    assert rollout.engine_kwargs.vllm.limit_mm_per_prompt == {"image": 3, "video": 0}
    assert 261 in rollout.engine_kwargs.vllm.additional_config["banned_token_ids"]
    assert "worker_extension_cls" not in rollout.engine_kwargs.vllm  # on GPUs verl's own
    shared = hybrid.actor_rollout_ref.rollout
    assert (shared.checkpoint_engine.backend, shared.enable_sleep_mode, shared.free_cache_engine) == ("naive", True, True)
    assert "VERL_PLATFORM" not in environment(RolloutConfig(engine=engine), on_cpu=False)


@pytest.mark.parametrize(("servers", "on_cpu", "refused"), [(1, False, True), (0, False, False), (1, True, False)])
def test_servers_on_gpus_of_their_own_need_cupy_for_updates_alone(policy_directory, monkeypatch, servers, on_cpu, refused):
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    config = RolloutConfig(engine=EngineConfig(kind="verl", policy=policy_directory), servers=servers)
    with pytest.raises(UsageError, match="cupy-cuda13x: install it") if refused else nullcontext():
        check_transport(config, on_cpu)
    assert verl_config(config, on_cpu).actor_rollout_ref.rollout.checkpoint_engine.backend == ("gloo" if on_cpu else "naive")


def test_images_that_verl_does_not_join_are_refused(policy_directory, tmp_path):
    for name in os.listdir(policy_directory):
        (tmp_path / name).symlink_to(os.path.join(policy_directory, name))
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    settings["image_processor"]["image_processor_type"] = "SiglipImageProcessor"
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match=r"write rollout\.engine\.kind=vllm"):
        verl_config(RolloutConfig(engine=EngineConfig(kind="verl", policy=str(tmp_path))), on_cpu=True)


def test_servers_on_the_learners_gpus_need_a_learner():
    with pytest.raises(UsageError, match=r"write rollout\.servers=1"):
        Servers(RolloutConfig(engine=EngineConfig(kind="verl"), servers=0))
