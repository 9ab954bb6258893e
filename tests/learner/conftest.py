"""A starter policy with random weights, and a maker of episodes that need no rollout."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from rollout.types import Episode, StopReason, Trajectory
from starter.policy import build

IMAGE_TOKENS = 16  # of a picture of 112 x 112 pixels


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory):
    return build(tmp_path_factory.mktemp("policy"), seed=0)


@pytest.fixture(scope="session")
def processor(policy_dir):
    return AutoProcessor.from_pretrained(policy_dir)


@pytest.fixture(scope="session")
def picture():
    """A picture of noise as PNG bytes, drawn from a seed."""

    def make(seed):
        pixels = np.random.default_rng(seed).integers(0, 255, (112, 112, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def make_episode(processor):
    """An episode of random bytes: a prompt with the first image; then for each further image an action and the image; an answer."""
    start, pad, end = processor.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"])

    def make(images=(), seed=0, group="group", reward=0.0, temperature=1.0, image_tokens=IMAGE_TOKENS, prompt=8):
        rng = np.random.default_rng(seed)
        token_ids, loss_mask = [], []

        def add(tokens, sampled):
            token_ids.extend(tokens)
            loss_mask.extend([int(sampled)] * len(tokens))

        def text(length):
            return rng.integers(0, 200, length).tolist()

        add(text(prompt), False)
        prompt_length = len(token_ids)
        for index in range(len(images)):
            if index:
                add(text(5), True)
            add([start, *[pad] * image_tokens, end, *text(3)], False)
            if not index:
                prompt_length = len(token_ids)
        add(text(int(rng.integers(4, 9))), True)
        names = [hashlib.sha256(image).hexdigest() for image in images]
        trajectory = Trajectory(
            episode_id=f"episode-{seed}",
            task_id="task",
            group_id=group,
            abilities=("perception",),
            source="test",
            seed=seed,
            token_ids=token_ids,
            loss_mask=loss_mask,
            logprobs=[-1.5 * sampled for sampled in loss_mask],
            versions=[sampled - 1 for sampled in loss_mask],
            prompt_length=prompt_length,
            images=names,
            turns=[],
            reward=reward,
            reward_parts={},
            answer=None,
            stop_reason=StopReason.ANSWERED,
            temperature=temperature,
        )
        return Episode((trajectory,), dict(zip(names, images, strict=True)))

    return make
