"""A turn that updates cut off is one turn: it ends where an uncut one would, each token has the version that sampled it, and no
part draws the random numbers of another. Each image is sent as one placeholder, and a server that sees another prompt is heard.
Settings reach verl's own, and what cannot be served is refused in one line.

The servers themselves are in `tests/learner/verl/test_servers.py`: they take minutes to start.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from families import policy
from rollout_fakes import picture, show

from envs.errors import UsageError
from rollout.config import EngineConfig, RolloutConfig
from rollout.engines.banned_tokens import BannedTokens
from rollout.engines.verl import settings
from rollout.engines.verl.policy import VerlPolicy
from rollout.engines.verl.prompt_check import PromptCheck
from rollout.engines.verl.prompts import Prompts
from rollout.engines.verl.servers import Servers
from rollout.engines.verl.settings import check_transport, environment, verl_config
from rollout.policy import HasSessions
from rollout.tokens.chat_format import ChatFormat
from rollout.tokens.transcript import Transcript


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


@pytest.fixture
def tiled(tmp_path):
    """A policy with tiles: its settings, its chat format, and a transcript that shows an image."""
    directory = str(policy("idefics3", tmp_path))
    chat = ChatFormat.from_directory(directory)
    transcript = Transcript(chat, max_tokens=400)
    show(transcript, "What is to be seen?", [picture(0, 112, 84)])
    return RolloutConfig(engine=EngineConfig(kind="verl", policy=directory, max_model_len=512)), chat, transcript


async def test_each_part_shows_an_image_as_one_placeholder_and_says_what_its_prompt_should_be(tiled):
    config, chat, transcript = tiled
    client = Client(chat, ("abc", 1), ("defgh", 2))
    turn = await VerlPolicy(config, 0, client).generate(
        transcript.token_ids, transcript.images, max_tokens=999, temperature=1.0, seed=3
    )
    prompts = Prompts(chat.images)
    joined = prompts.joined(transcript.token_ids, transcript.images)
    assert joined.count(chat.image_token) == 1
    for (_, prompt, sampling), sampled in zip(client.asked, ([], turn.token_ids[:3]), strict=True):
        assert prompt == [*joined, *sampled]
        assert sampling.items() >= prompts.checked([*transcript.token_ids, *sampled], transcript.images).items()
        # verl, which is sent fewer tokens than the model is given, would allow more.
        assert sampling["max_tokens"] == 512 - len(transcript.token_ids) - len(sampled)


async def test_what_a_server_refuses_is_an_error(tiled):
    config, chat, transcript = tiled
    client = Client(chat, ([chat.image_token], 1))
    with pytest.raises(ValueError, match="lays images out as the transcript does not"):
        await VerlPolicy(config, 0, client).generate(transcript.token_ids, transcript.images, max_tokens=4, temperature=1.0, seed=3)


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
    assert list(rollout.engine_kwargs.vllm.logits_processors) == [
        f"{one.__module__}:{one.__qualname__}" for one in (BannedTokens, PromptCheck)
    ]
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


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("qwen3_5", r"layers with a state, .* write rollout\.engine\.kind=vllm"),
        ("qwen3_moe", r"or rollout\.engine\.dtype=bfloat16"),
    ],
)
def test_what_servers_cannot_compute_on_a_cpu_is_refused(tmp_path, kind, remedy):
    config = RolloutConfig(engine=EngineConfig(kind="verl", policy=str(policy(kind, tmp_path))))
    with pytest.raises(UsageError, match=remedy):
        verl_config(config, on_cpu=True)


def test_servers_on_the_learners_gpus_need_a_learner():
    with pytest.raises(UsageError, match=r"write rollout\.servers=1"):
        Servers(RolloutConfig(engine=EngineConfig(kind="verl"), servers=0))
