"""verl's servers beside a learner, on CPU, with the machinery that GPUs have: its router, its checkpoint engine (over gloo), vLLM
in processes of its own.

What is sampled is what the learner computes, also if the output layer is the embedding, and of pictures in tiles; a request that an
update cuts off goes on with the new weights, and each of its tokens is stamped with the version that sampled it; an episode calls a
tool; a server that died is replaced; one that would see other tokens than the transcript's says so.
Slow: seven processes import vLLM or verl, which takes one to two minutes for each of the three policies.
`pytest -m slow tests/learner/verl/test_servers.py`
"""

import asyncio
import json
import random
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from families import policy
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from envs.errors import InfrastructureError
from learner.batch import Batch
from learner.config import LearnerConfig
from learner.parity import picture
from learner.verl.trainer import VerlTrainer
from rollout.cluster.fleet import Fleet
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.engines.verl.policy import VerlPolicy
from rollout.specs import group_specs
from rollout.tokens.chat_format import ChatFormat, ChatMessage, banned_token_ids
from rollout.tokens.image_layout import ImageLayout
from rollout.tokens.images import encoded_image
from rollout.tokens.transcript import Transcript
from rollout.types import episodes_of
from starter.policy import build

pytestmark = pytest.mark.slow

PICTURES = ("learner.parity:Probe-v0", {"pictures": 0})
TASKS = ("toolwise/Microworld-v0", {"split": "train", "abilities": ["reasoning"], "need": 1})


def tied(directory):
    """The policy in `directory` with its embedding as the output layer."""
    model = AutoModelForImageTextToText.from_pretrained(directory)
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(directory)


class Pair:
    """A learner and the fleet that serves its policy."""

    def __init__(self, directory, **episode):
        self.directory = directory
        processor, model_config = AutoProcessor.from_pretrained(directory), AutoConfig.from_pretrained(directory)
        self.layout = ImageLayout(processor)
        self.banned = banned_token_ids(processor.tokenizer, model_config)
        self.config = RolloutConfig(
            engine=EngineConfig(kind="verl", policy=str(directory), max_model_len=2048, max_sequences=32),
            episode=EpisodeConfig(max_tokens=1024, **episode),
            sandboxes_per_worker=2,
        )
        with ThreadPoolExecutor(1) as thread:
            fleet = thread.submit(Fleet, self.config)
            self.trainer = VerlTrainer(directory, LearnerConfig(threads_per_worker=1), banned_token_ids=self.banned)
            self.fleet = fleet.result()

    def publish(self, version):
        self.fleet.servers.update(self.trainer.ranks(), version)

    def play(self, actor="policy", tasks=TASKS):
        specs = group_specs("played", tasks, groups=1, group_size=4, seed=3, actor=actor)
        return list(episodes_of(self.fleet.collect(specs)))

    def log_probs(self, state, token_ids, prompt, images):
        """Plain Hugging Face's log-probabilities of what follows the prompt."""
        with tempfile.TemporaryDirectory() as place:
            directory = shutil.copytree(self.directory, place, dirs_exist_ok=True)
            save_file(state, Path(directory, "model.safetensors"), metadata={"format": "pt"})
            model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
        inputs = self.layout.inputs(*(image.image for image in images)) if images else {}
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([token_ids]), **inputs).logits[0, prompt - 1 : -1].clone()
        logits[:, self.banned] = -torch.inf
        return torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(token_ids[prompt:])[:, None])[:, 0]

    def close(self):
        self.fleet.shutdown()
        self.trainer.shutdown()


@pytest.fixture(scope="module", params=["untied", "tied"])
def pair(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "tiled":
        policy("idefics3", directory)
    else:
        build(directory, seed=0)
    if request.param == "tied":
        tied(directory)
    ray.shutdown()
    # "local": without it Ray would join whatever cluster runs on this machine.
    ray.init("local", num_cpus=8, num_gpus=1, resources={"sandbox": 8}, include_dashboard=False, log_to_driver=False)
    started = Pair(directory, **({"max_action_tokens": 32} if request.param == "tiled" else {}))
    yield started
    started.close()
    ray.shutdown()


# Pictures stand in tiles. A parameter of the same fixture, since each policy has a Ray of its own.
tiles = pytest.mark.parametrize("pair", ["tiled"], indirect=True)


def agree(pair, played):
    """The learner computes what was sampled."""
    batch = Batch.of_episodes(played)
    sampled = np.concatenate([example.sequences.logprobs_S for example in batch.examples_E])  # 0 elsewhere
    assert pair.trainer.log_probs(batch)[0] == pytest.approx(sampled, abs=1e-4)


def shown(directory, count):
    """A prompt with this many pictures."""
    transcript = Transcript(ChatFormat.from_directory(directory), max_tokens=900)
    images = tuple(encoded_image(picture(number, 0)) for number in range(count))
    transcript.append_observation([ChatMessage("user", "What is to be seen?", images)])
    return transcript.token_ids, transcript.images


async def cut_off_by_an_update(pair, episodes, prompt, images):
    """Requests in the middle of which the weights become those that the learner has after a step on `episodes`: each token is
    that of the model that it is stamped with."""
    served = VerlPolicy(pair.config)
    pair.publish(1)
    states = {1: pair.trainer.state_dict()}
    pair.trainer.supervised_step(Batch.of_episodes(episodes), lr=1e-3)
    states[2] = pair.trainer.state_dict()
    calls = [
        asyncio.create_task(served.session(str(seed)).generate(prompt, images, max_tokens=1500, temperature=1.0, seed=seed))
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
        said = {version: pair.log_probs(state, whole, len(prompt), images) for version, state in states.items()}
        expected = [float(said[version][place]) for place, version in enumerate(one.token_versions)]
        assert one.logprobs == pytest.approx(expected, abs=1e-4)
        assert float((said[1] - said[2]).abs().max()) > 1e-2
    after = await served.generate(prompt, images, max_tokens=8, temperature=1.0, seed=1)
    assert (after.version, after.versions) == (2, None)


async def test_a_request_that_an_update_cuts_off_ends_with_tokens_of_both_versions(pair):
    prompt = random.Random(0).choices(range(40, 120), k=60)
    await cut_off_by_an_update(pair, pair.play("expert"), prompt, [])


def test_an_episode_calls_a_tool_and_the_learner_computes_what_was_sampled(pair):
    """The learner learns one demonstration by heart: then the policy plays it."""
    demonstration = Batch.of_episodes(pair.play("expert")[:1])
    for _ in range(120):
        pair.trainer.supervised_step(demonstration, lr=3e-3)
    pair.publish(3)
    played = pair.play()
    assert any(episode.trajectory.tool_calls for episode in played)
    assert {version for episode in played for version in episode.trajectory.versions} == {-1, 3}
    agree(pair, played)


async def test_servers_of_which_one_is_gone_are_started_anew_before_they_serve_an_update(pair):
    served = VerlPolicy(pair.config)
    ray.kill(ray.get_actor("vllm_server_0_0"))
    with pytest.raises(InfrastructureError, match="verl's server failed"):
        await served.generate([65, 66], [], max_tokens=4, temperature=1.0, seed=0)
    await asyncio.to_thread(pair.publish, 5)
    assert (await served.generate([65, 66], [], max_tokens=4, temperature=1.0, seed=0)).version == 5


@tiles
async def test_pictures_in_tiles_are_shown_to_a_request_that_an_update_cuts_off(pair):
    await cut_off_by_an_update(pair, pair.play(tasks=PICTURES), *shown(pair.directory, 3))


@tiles
def test_conversations_with_pictures_in_tiles_are_what_the_learner_computes(pair):
    """Later turns show the pictures of earlier ones again, which the server has in its caches."""
    played = pair.play(tasks=PICTURES)
    assert {len(episode.trajectory.turns) for episode in played} == {3}
    agree(pair, played)


@tiles
async def test_a_server_that_lays_pictures_out_otherwise_says_so_and_goes_on(pair, tmp_path):
    """A worker whose policy's images have other sizes than those that the servers were started with."""
    other = shutil.copytree(pair.directory, tmp_path / "other")
    settings = json.loads((other / "processor_config.json").read_text())
    settings["image_seq_len"] += 1
    (other / "processor_config.json").write_text(json.dumps(settings))
    wrong = VerlPolicy(replace(pair.config, engine=replace(pair.config.engine, policy=str(other))))
    served = VerlPolicy(pair.config)
    options = {"max_tokens": 16, "temperature": 1.0, "seed": 0}
    alone = await served.generate(*shown(pair.directory, 2), **options)
    together = await asyncio.gather(
        *(one.generate(*shown(directory, 2), **options) for one, directory in ((wrong, other), (served, pair.directory))),
        return_exceptions=True,
    )
    assert "lays images out as the transcript does not" in str(together[0])
    assert together[1].token_ids == alone.token_ids
