"""A learner that is given blank pictures, as if its images had been dropped on the way."""

from dataclasses import replace

import numpy as np

from envs.pictures import decode
from learner.batch import Batch
from learner.verl.trainer import VerlTrainer
from rollout.tokens.images import encoded_image


def blinded(example):
    """The example with a white picture in place of each of its own."""
    sequences, names, images = example.sequences, {}, {}
    for name, png in sequences.images.items():
        white = encoded_image(np.full((*decode(png).size[::-1], 3), 255, np.uint8))
        names[name], images[white.sha256] = white.sha256, white.png
    images_N = [[names[name] for name in row] for row in sequences.images_N]
    return replace(example, sequences=replace(sequences, images_N=images_N, images=images))


class Blind(VerlTrainer):
    """For `learner.kind=blind:Blind`."""

    drops_images = True

    def log_probs(self, batch, with_entropy=True):
        if not self.drops_images:
            return super().log_probs(batch, with_entropy)
        return super().log_probs(Batch.of([blinded(example) for example in batch.examples_E]), with_entropy)
