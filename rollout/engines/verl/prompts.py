"""Prompts with images as verl's servers take them, the client's half: `prompt_check` is the servers'.

    transcript                        request                                            vLLM
    …, the run of an image, …  ──▶    …, one placeholder, … + the image + a digest  ──▶  …, the run of its own processor, …

Given token ids and pictures, vLLM puts the run of an image in place of a placeholder. verl passes prompts on as they are, but for
the Qwen-VL families, whose runs it would join itself. So every family is sent joined, and the digest of what the transcript holds
goes along: vLLM samples nothing behind a prompt of which its own processor makes something else.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import Any

from rollout.tokens.image_layout import ImageLayout, join_runs
from rollout.tokens.images import EncodedImage

DIGEST, REFUSAL = "toolwise_prompt_digest", "toolwise_refusal_token_id"
"""Where the servers find, in vLLM's `extra_args` of a request, the digest of its prompt and the token that refuses it."""


def digest(token_ids: Sequence[int]) -> str:
    """What tells one sequence of tokens from others."""
    return hashlib.blake2b(array("q", token_ids).tobytes(), digest_size=16).hexdigest()


class Prompts:
    """The prompts of a policy whose images are laid out as `layout` says, None for one that reads text only.

    The placeholder of images, which nobody may sample, is the token by which a server refuses a prompt.
    """

    def __init__(self, layout: ImageLayout | None) -> None:
        self._layout = layout

    def joined(self, token_ids: Sequence[int], images: Sequence[EncodedImage]) -> list[int]:
        """A prompt with one placeholder for each image. Raises ValueError if its placeholders are not those of `images`."""
        if self._layout is None:
            if images:
                raise ValueError("this policy takes no images")
            return list(token_ids)
        runs = [self._layout.run(*image.pixels.shape[:2]) for image in images]
        return join_runs(token_ids, runs, self._layout.token_id)

    def checked(self, token_ids: Sequence[int], images: Sequence[EncodedImage]) -> dict[str, Any]:
        """The sampling parameters with which a server refuses any prompt but this whole one. Text reaches the model as it is."""
        if self._layout is None or not images:
            return {}
        refusal = self._layout.token_id
        return {"extra_args": {DIGEST: digest(token_ids), REFUSAL: refusal}, "stop_token_ids": [refusal]}

    def refused(self, sampled: Sequence[int]) -> bool:
        """Whether what came back is a server's refusal."""
        return self._layout is not None and self._layout.token_id in sampled
