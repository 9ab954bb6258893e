"""verl's servers beside a learner, on CPU, with the machinery that GPUs have: its router, its checkpoint engine (over gloo), vLLM
in processes of its own.

What is sampled is what the learner computes, also if the output layer is the embedding; a request that an update cuts off goes on
with the new weights, and each of its tokens is stamped with the version that sampled it; an episode calls a tool; a server that
died is replaced.
Slow: seven processes import vLLM or verl, which takes one to two minutes for each of the two policies.
`pytest -m slow tests/learner/verl/test_servers.py`
"""

import asyncio
import random
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from envs.errors import InfrastructureError
from learner.batch import Batch
from learner.config import LearnerConfig
from learner.verl.trainer import VerlTrainer
from rollout.cluster.fleet import Fleet
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.engines.verl.policy import VerlPolicy
from rollout.specs import group_specs
from rollout.tokens.chat_format import banned_token_ids
from rollout.types import episodes_of
from starter.policy import build

pytestmark = pytest.mark.slow

TASKS = ("toolwise/Microworld-v0", {"split": "train", "abilities": ["reasoning"], "need": 1})


def tied(directory):
    """The policy in `directory` with its embedding as the output layer."""
    model = AutoModelForImageTextToText.from_pretrained(directory)
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(directory)


class Pair:
    """A learner and the fleet that serves its policy."""

    def __init__(self, directory):
        self.directory = directory
        processor, model_config = AutoProcessor.from_pretrained(directory), AutoConfig.from_pretrained(directory)
        self.banned = banned_token_ids(processor.tokenizer, model_config)
        self.config = RolloutConfig(
            engine=EngineConfig(kind="verl", policy=str(directory), max_model_len=2048, max_sequences=32),
            episode=EpisodeConfig(max_tokens=1024),
            sandboxes_per_worker=2,
        )
        with ThreadPoolExecutor(1) as thread:
            fleet = thread.submit(Fleet, self.config)
            self.trainer = VerlTrainer(directory, LearnerConfig(threads_per_worker=1), banned_token_ids=self.banned)
            self.fleet = fleet.result()

    def publish(self, version):
        self.fleet.servers.update(self.trainer.ranks(), version)

    def play(self, actor="policy"):
        specs = group_specs("played", TASKS, groups=1, group_size=4, seed=3, actor=actor)
        return list(episodes_of(self.fleet.collect(specs)))

    def log_probs(self, state, token_ids, prompt):
        """Plain Hugging Face's log-probabilities of what follows the prompt."""
        with tempfile.TemporaryDirectory() as place:
            directory = shutil.copytree(self.directory, place, dirs_exist_ok=True)
            save_file(state, Path(directory, "model.safetensors"), metadata={"format": "pt"})
            model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([token_ids])).logits[0, prompt - 1 : -1].clone()
        logits[:, self.banned] = -torch.inf
        return torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(token_ids[prompt:])[:, None])[:, 0]

    def close(self):
        self.fleet.shutdown()
        self.trainer.shutdown()


@pytest.fixture(scope="module", params=["untied", "tied"])
def pair(request, tmp_path_factory):
    directory = build(tmp_path_factory.mktemp(request.param), seed=0)
    if request.param == "tied":
        tied(directory)
    ray.shutdown()
    # "local": without it Ray would join whatever cluster runs on this machine.
    ray.init("local", num_cpus=8, num_gpus=1, resources={"sandbox": 8}, include_dashboard=False, log_to_driver=False)
    started = Pair(directory)
    yield started
    started.close()
    ray.shutdown()


async def test_a_request_that_an_update_cuts_off_ends_with_tokens_of_both_versions(pair):
    policy = VerlPolicy(pair.config)
    expert = Batch.of_episodes(pair.play("expert"))
    pair.publish(1)
    states = {1: pair.trainer.state_dict()}
    pair.trainer.supervised_step(expert, lr=1e-3)
    states[2] = pair.trainer.state_dict()
    prompt = random.Random(0).choices(range(40, 120), k=60)
    calls = [
        asyncio.create_task(policy.session(str(seed)).generate(prompt, [], max_tokens=1500, temperature=1.0, seed=seed))
        for seed in range(24)
    ]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)  # the others are in the middle of their turns
    await asyncio.to_thread(pair.publish, 2)
    generations = await asyncio.gather(*calls)
    mixed = [one for one in generations if one.versions is not None]
    assert mixed
    for one in mixed[:6]:
        assert set(one.token_versions) == {1, 2}
        assert one.token_versions == sorted(one.token_versions)
        assert len(one.token_ids) == len(one.logprobs) == len(one.token_versions)
        whole = [*prompt, *one.token_ids]
        said = {version: pair.log_probs(state, whole, len(prompt)) for version, state in states.items()}
        expected = [float(said[version][place]) for place, version in enumerate(one.token_versions)]
        assert one.logprobs == pytest.approx(expected, abs=1e-4)
        assert float((said[1] - said[2]).abs().max()) > 1e-2
    after = await policy.generate(prompt, [], max_tokens=8, temperature=1.0, seed=1)
    assert (after.version, after.versions) == (2, None)


def test_an_episode_calls_a_tool_and_the_learner_computes_what_was_sampled(pair):
    """The learner learns one demonstration by heart: then the policy plays it."""
    demonstration = Batch.of_episodes(pair.play("expert")[:1])
    for _ in range(120):
        pair.trainer.supervised_step(demonstration, lr=3e-3)
    pair.publish(3)
    played = pair.play()
    assert any(episode.trajectory.tool_calls for episode in played)
    assert {version for episode in played for version in episode.trajectory.versions} == {-1, 3}
    sampled = np.concatenate([episode.trajectory.logprobs for episode in played])  # 0 elsewhere
    assert pair.trainer.log_probs(Batch.of_episodes(played))[0] == pytest.approx(sampled, abs=1e-4)


async def test_servers_of_which_one_is_gone_are_started_anew_before_they_serve_an_update(pair):
    policy = VerlPolicy(pair.config)
    ray.kill(ray.get_actor("vllm_server_0_0"))
    with pytest.raises(InfrastructureError, match="verl's server failed"):
        await policy.generate([65, 66], [], max_tokens=4, temperature=1.0, seed=0)
    await asyncio.to_thread(pair.publish, 5)
    assert (await policy.generate([65, 66], [], max_tokens=4, temperature=1.0, seed=0)).version == 5
