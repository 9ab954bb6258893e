"""What the stages of a run need of whatever updates the policy, and the class that `learner.kind` names.

The axes are those of `learner.batch`: E episodes, N sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from envs.errors import UsageError
from envs.runtime.imports import find

if TYPE_CHECKING:
    import torch

    from learner.batch import Batch
    from rollout.cluster.weights import Weights
    from rollout.engines.verl.servers import Ranks
    from rollout.learned import LearnedFiles

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

    def supervised_step(self, batch: Batch, lr: float, per_sequence: bool = False) -> dict[str, float]:
        """One optimizer step on the negative log-likelihood of the sampled tokens; returns metrics, `train/loss` among them.

        It is the mean over all sampled tokens or, `per_sequence`, over sequences of each one's mean. The latter is asked for with
        cold_start.loss=sequence only: a trainer may do without the argument.
        """
        ...

    def policy_step(self, batch: Batch, advantages: np.ndarray, lr: float) -> dict[str, float]:
        """One policy update; returns metrics, named `actor/…`, and the distance to the sampler, named `rollout/…`.

        `advantages` has shape (E,), one for all sampled tokens of an episode.
        """
        ...

    def share_weights(self, dtype: str) -> Weights | Mapping[str, torch.Tensor]:
        """All weights, whole, under the names of a Hugging Face checkpoint, in the sampler's `dtype`, as in "bfloat16".

        A `Weights` is a handle of shared memory, made by `rollout.cluster.weights.Sender` in the process that has them. A trainer
        that has them in this process may return its state dict as it is, in any type: the fleet puts it into shared memory.
        """
        ...

    def save(self, directory: str, done: Callable[[], None]) -> None:
        """Write a checkpoint into an empty directory: `policy/` in the Hugging Face layout, and whatever else `load` needs.

        `directory` is a path or any URL that fsspec knows. It may be written in the background; the weights may change as soon as
        this returns. Once all is written, `done` is called, in this process or, since it can be pickled, in another.
        """
        ...

    def finish_saving(self) -> None:
        """Wait until the last `save` is written. Raises InfrastructureError if it could not be."""
        ...

    def load(self, directory: str) -> None:
        """Continue from a checkpoint of `save`."""
        ...

    def reset_optimizer(self) -> None:
        """Forget the optimizer's state, as when RL follows supervised training."""
        ...

    def shutdown(self) -> None:
        """Release what the trainer holds."""
        ...


@runtime_checkable
class HasRanks(Protocol):
    """A trainer whose processes can send their weights to verl's servers."""

    def ranks(self) -> Ranks:
        """The processes, and the class whose methods they offer."""
        ...


@runtime_checkable
class RecordsLearned(Protocol):
    """A trainer that writes what a policy step learns of each sequence; of others, `run_rl` writes the advantages."""

    def record(self, files: LearnedFiles) -> None:
        """Have the next policy step write it, in the background: on disk before the next checkpoint is there."""
        ...


def lacks(trainer: object) -> list[str]:
    """The methods of a trainer that a run calls and an object has not: `log_probs` is for `toolwise doctor` and tests."""
    called = [name for name in vars(Trainer) if not name.startswith("_") and name != "log_probs"]
    return [name for name in called if not callable(getattr(trainer, name, None))]


def checked_metrics(metrics: object, method: str) -> dict[str, float]:
    """What a step of a trainer returned, as plain numbers. Raises UsageError if it is something else."""
    if not isinstance(metrics, Mapping):
        raise UsageError(f"learner.kind: {method}() returned a {type(metrics).__name__}: return names and numbers")
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"learner.kind: {method}() returned {name}={value!r}: return names and numbers") from error
    return numbers


def checked_advantages(advantages: object, episodes: int) -> np.ndarray:
    """What `advantages` returned, as float32. Raises UsageError if it is not one finite number for each episode."""
    try:
        advantages_E = np.asarray(advantages, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"learner.kind: advantages() returned a {type(advantages).__name__}: return an array (E,)") from error
    if advantages_E.shape != (episodes,) or not np.isfinite(advantages_E).all():
        what = "what is no number" if advantages_E.shape == (episodes,) else f"the shape {advantages_E.shape}"
        raise UsageError(f"learner.kind: advantages() returned {what}: return a finite number for each of {episodes} episodes")
    return advantages_E


def checked_weights(weights: object) -> Any:
    """What `share_weights` returned. Raises UsageError if it is neither a handle nor a mapping of tensors."""
    handle = hasattr(weights, "tensors")
    if not handle and not (isinstance(weights, Mapping) and all(hasattr(tensor, "numel") for tensor in weights.values())):
        raise UsageError(f"learner.kind: share_weights() returned a {type(weights).__name__}: return names and PyTorch tensors")
    return weights


def ranks_of(trainer: Trainer) -> Ranks:
    """The processes of a trainer that feeds verl's servers. Raises UsageError if it cannot."""
    if not isinstance(trainer, HasRanks):
        raise UsageError("rollout.engine.kind=verl takes weights from learner.kind=verl, or from a class derived from it")
    return trainer.ranks()


def find_trainer(kind: str) -> Callable[..., Trainer]:
    """The class that `learner.kind` names. Raises UsageError if there is none."""
    return find("learner.kind", kind, TRAINERS)
