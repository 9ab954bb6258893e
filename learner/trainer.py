"""What the stages of a run need of whatever updates the policy, and the class that `learner.kind` names.

The axes are those of `learner.batch`: E episodes, N sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from envs.runtime.imports import find

if TYPE_CHECKING:
    import torch

    from learner.batch import Batch

TRAINERS = {"verl": "learner.verl.trainer:VerlTrainer"}
"""The trainers that the project has, by the name that a user writes."""


class Trainer(Protocol):
    """A policy in training, constructed as `Class(policy_dir, config, seed=…, banned_token_ids=…)`.

    `policy_dir` is in the Hugging Face layout, `config` is a `LearnerConfig`, `seed` seeds all random numbers, and
    `banned_token_ids` are tokens that the sampler never draws: the trainer masks the same logits.
    """

    def advantages(self, batch: Batch) -> np.ndarray:
        """The advantage of each episode, shape (E,): its reward compared with the others', as of its group."""
        ...

    def refer_to(self, policy_dir: str) -> None:
        """Compare the policy with the one in that directory, if the objective compares it with a reference.

        Called before the first policy step, also of a resumed run.
        """
        ...

    def log_probs(self, batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
        """Log-probabilities (natural logarithm, at each sequence's temperature) and entropies of all sampled tokens.

        Both have one entry for every token of the batch's sequences, one after another, and are 0 at tokens that were not sampled.
        Entropies may be None.
        """
        ...

    def supervised_step(self, batch: Batch, lr: float) -> dict[str, float]:
        """One optimizer step on the negative log-likelihood of the sampled tokens; returns metrics, `train/loss` among them."""
        ...

    def policy_step(self, batch: Batch, advantages: np.ndarray, lr: float) -> dict[str, float]:
        """One policy update; returns metrics, named `actor/…`, and the distance to the sampler, named `rollout/…`.

        `advantages` has shape (E,), one for all sampled tokens of an episode.
        """
        ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All weights, whole, on CPU, under the names of a Hugging Face checkpoint."""
        ...

    def save(self, directory: Path) -> None:
        """Write a checkpoint into an empty directory: `policy/` in the Hugging Face layout, and whatever else `load` needs."""
        ...

    def load(self, directory: Path) -> None:
        """Continue from a checkpoint of `save`."""
        ...

    def reset_optimizer(self) -> None:
        """Forget the optimizer's state, as when RL follows supervised training."""
        ...

    def shutdown(self) -> None:
        """Release what the trainer holds."""
        ...


def find_trainer(kind: str) -> Callable[..., Trainer]:
    """The class that `learner.kind` names. Raises UsageError if there is none."""
    return find("learner.kind", kind, TRAINERS)
