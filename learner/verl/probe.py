"""Before anything is sampled: can the model be computed as the learner does it? It is asked itself, with two short sequences.

What a configuration does not say shows here: inputs that the model does not take, a mask or logits of another form, and layers in
which one sequence reaches the next.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from itertools import cycle, islice

import numpy as np

from envs.errors import ToolwiseError, UsageError
from learner.batch import Batch, Example
from learner.verl.model.loading import MACHINE, OF_MODELS
from rollout.sequences import Sequences
from rollout.tokens.image_layout import ImageLayout
from rollout.tokens.images import EncodedImage, encoded_image

log = logging.getLogger(__name__)

_TOKENS = 12
_SIZES = ((56, 84), (168, 56))
_APART, _APART_16_BITS = 1e-3, 0.3
"""How far log-probabilities may be apart on average. In 16 bits an expert rounds otherwise beside other tokens."""


def check(
    infer: Callable[[Batch], np.ndarray], name: str, precision: str, token_ids: Sequence[int], layout: ImageLayout | None
) -> None:
    """Raise UsageError if a policy cannot be computed, or if a sequence is not the same behind another one.

    `infer` gives the log-probabilities of all tokens of a batch, row after row; `token_ids` are some that the policy may sample;
    `layout` is that of its images, None for a policy that reads text only.
    """
    try:
        one, two = (infer(_batch(token_ids[start:], layout))[_TOKENS:] for start in (0, 1))
    except (ToolwiseError, *MACHINE):
        raise
    except OF_MODELS as error:
        log.warning("the policy %s could not be computed", name, exc_info=True)
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"the learner cannot compute policy={name}: {reason}: train another policy") from error
    apart = float(np.abs(one - two).mean())
    if math.isnan(apart):
        raise UsageError(f"the learner computes no numbers with policy={name} and learner.precision={precision}: write another one")
    if apart > (_APART if precision == "float32" else _APART_16_BITS):
        raise UsageError(
            f"policy={name} computes a sequence otherwise behind another one (by {apart:.1g} nats a token), so the learner cannot "
            "pack them: train another policy"
        )


def _batch(token_ids: Sequence[int], layout: ImageLayout | None) -> Batch:
    """A sequence of the first tokens, and one of always the same, with images if the policy takes any."""
    same = sorted(set(token_ids))[-1:] * _TOKENS
    images = [encoded_image(np.full((*size, 3), 255, dtype=np.uint8)) for size in _SIZES] if layout else []
    shown = [token for image in images for token in (*layout.run(*image.pixels.shape[:2]), same[0])] if layout else []
    return Batch.of([_example(list(islice(cycle(token_ids), _TOKENS)), []), _example([*same, *shown, *same], images)])


def _example(token_ids: list[int], images: list[EncodedImage]) -> Example:
    size = len(token_ids)
    sequences = Sequences(
        episode_id="probe",
        tokens_S=np.array(token_ids, dtype=np.int32),
        loss_mask_S=np.arange(size) > 0,
        logprobs_S=np.zeros(size, dtype=np.float32),
        lengths_N=np.array([size]),
        trained_N=np.array([size - 1]),
        images_N=[[image.sha256 for image in images]],
        images={image.sha256: image.png for image in images},
        temperature=1.0,
    )
    return Example(sequences, (size,), (size - 1,), "probe", 0.0, 1.0)
