"""Do the sampler and the learner compute the same? Log-probabilities of real samples, side by side, and what both see of pictures.

The sampler plays conversations of several turns, with pictures in the question and of tools if the policy takes any; the learner
computes the log-probabilities of what was sampled. Then every picture is replaced by another of its size: both sides have to move,
and alike. A policy that is blind on one side trains on what it never saw, and no reward curve says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np

from envs.errors import InfrastructureError, UsageError
from envs.pictures import decode
from learner.batch import Batch, Example
from learner.experiment import Experiment
from learner.policy_check import check_policy
from learner.run import start_trainer
from learner.tolerance import TOLERANCES, arithmetic
from learner.trainer import Trainer
from rollout.cluster.connect import join, server_gpus
from rollout.cluster.fleet import Fleet
from rollout.config import RolloutConfig
from rollout.engines.registry import weights_dtype
from rollout.sequences import Sequences
from rollout.specs import group_specs
from rollout.tokens.chat_format import ChatFormat
from rollout.tokens.images import encoded_image
from starter.policies import find_policy

CONVERSATIONS = 8
ACTION_TOKENS = 32
_TURNS = 3
_SIZES = ((140, 196), (196, 140), (168, 168), (112, 224))
_REPLACEMENTS = 2  # the set of pictures that the sampler is never shown


class Probe(gymnasium.Env):
    """A conversation of three turns that goes on whatever the policy says. `pictures` is the set that they are drawn from; None
    shows none."""

    def __init__(self, pictures: int | None = None) -> None:
        self._set = pictures
        self._turn = self._seed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Two pictures and a question."""
        super().reset(seed=seed)
        self._turn, self._seed = 0, seed or 0
        return self._show(2, "What is to be seen here? Look closely, and say all that you can make out."), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Another picture, as of a tool."""
        self._turn += 1
        return self._show(1, f"Result {self._turn}: look at this as well."), 0.0, False, self._turn == _TURNS, {}

    def _show(self, count: int, text: str) -> dict[str, Any]:
        if self._set is None:
            return {"text": text, "images": ()}
        places = [self._seed + 10 * self._turn + place for place in range(count)]
        return {"text": text, "images": tuple(picture(place, self._set) for place in places)}


gymnasium.register("Probe-v0", entry_point="learner.parity:Probe")


def picture(seed: int, variant: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Coloured fields, uint8 of shape (height, width, 3); the size depends on the seed alone unless it is given."""
    height, width = size or _SIZES[seed % len(_SIZES)]
    fields = np.random.default_rng((seed, variant)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return fields[rows[:, None], columns[None, :]]


@dataclass(frozen=True, slots=True)
class Sight:
    """By how much log-probabilities change, at most, when the pictures are replaced: the sampler's and the learner's, and how far
    the two sides' changes are apart at the same tokens. `samples_differ` says that the sampler also drew other tokens."""

    sampler: float
    learner: float
    apart: float
    samples_differ: bool


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the learner's log-probabilities are from the sampler's over `tokens` sampled tokens. `sight` is None if the policy
    reads text only."""

    sequences: int
    tokens: int
    mean: float
    largest: float
    arithmetic: str
    sight: Sight | None

    @property
    def problems(self) -> list[str]:
        """What is wrong, in one line each; none if all is well."""
        allowed, found = TOLERANCES[self.arithmetic], []
        if not (self.mean <= allowed.mean and self.largest <= allowed.largest):
            found.append(f"sampler and learner disagree: in {self.arithmetic} they may be apart by {allowed}")
        if self.sight is not None:
            if not self.sight.samples_differ and self.sight.sampler < allowed.moves:
                found.append("the sampler is blind: it says the same whatever picture it is shown")
            if self.sight.learner < allowed.moves:
                found.append("the learner is blind: its log-probabilities stay when the pictures are replaced")
            if not found and self.sight.apart > max(allowed.largest if math.isfinite(allowed.largest) else 1.0, 2 * self.largest):
                found.append("sampler and learner see differently: they move apart when the pictures are replaced")
        return found

    def __str__(self) -> str:
        lines = [
            f"parity  {self.sequences} sequences, {self.tokens} sampled tokens, {self.arithmetic}: log-probabilities of sampler "
            f"and learner differ by {self.mean:.1e} on average, {self.largest:.1e} at most"
        ]
        if self.sight is None:
            lines.append("sight   the policy reads text only")
        else:
            others = " and samples other tokens" if self.sight.samples_differ else ""
            lines.append(
                f"sight   with other pictures the sampler moves by up to {self.sight.sampler:.1e}{others}, the learner by up to "
                f"{self.sight.learner:.1e}; where both can be compared they are {self.sight.apart:.1e} apart"
            )
        return "\n".join([*lines, *(f"problem: {problem}" for problem in self.problems)])


@dataclass(frozen=True, slots=True)
class Samples:
    """Conversations as the sampler played them, with some pictures and with others; `replaced` is empty for a policy that reads
    text only. `arithmetic` is that of both sides, a key of `TOLERANCES`."""

    shown: list[Example]
    replaced: list[Example]
    arithmetic: str


def measure(config: Experiment, say: Callable[[str], None] = lambda text: None) -> Parity:
    """The parity of the policy, engine and trainer of an experiment. The engine is closed before the trainer starts.

    Raises UsageError for settings that cannot be used, InfrastructureError if the sampler fails.
    """
    directory, learner = find_policy(config.policy), config.learner
    check_policy(directory, config.rollout.engine.max_model_len)
    rollout = short_rollout(config.rollout, directory)
    # One after the other on the same GPUs.
    join(rollout, max(rollout.gpus_per_worker, learner.workers * learner.gpus_per_worker - server_gpus(rollout)))
    say(f"sampling conversations with rollout.engine.kind={config.rollout.engine.kind}")
    samples = sample(config)
    say(f"computing their log-probabilities with learner.kind={learner.kind}")
    trainer = start_trainer(config, directory)
    try:
        return compare(samples, trainer)
    finally:
        trainer.shutdown()


def sample(config: Experiment) -> Samples:
    """Play conversations with the experiment's policy and engine. Ray must be running. Raises what `measure` raises."""
    directory = find_policy(config.policy)
    sees = ChatFormat.from_directory(directory).takes_images
    fleet = Fleet(short_rollout(config.rollout, directory))
    try:
        shown = _play(fleet, config.seed, 0 if sees else None)
        replaced = _play(fleet, config.seed, 1) if sees else []
    finally:
        fleet.shutdown()
    sampler = weights_dtype(replace(config.rollout.engine, policy=directory))
    return Samples(shown, replaced, arithmetic(sampler, config.learner.precision))


def compare(samples: Samples, trainer: Trainer) -> Parity:
    """The learner's log-probabilities against the sampler's. Raises UsageError if no picture had room."""
    sampled, sees = [*samples.shown, *samples.replaced], bool(samples.replaced)
    # What was sampled, and then the tokens of `shown` with pictures that they were not sampled from.
    batch = Batch.of([*sampled, *(_with_other_pictures(example) for example in samples.shown if sees)])
    log_probs, _ = trainer.log_probs(batch)
    parts = np.split(np.asarray(log_probs), np.cumsum([sum(example.lengths) for example in batch.examples_E])[:-1])
    pairs = list(zip((example.sequences for example in sampled), parts, strict=False))
    differences = np.concatenate([np.abs(part - of.logprobs_S)[of.loss_mask_S] for of, part in pairs])
    count = len(samples.shown)
    return Parity(
        sequences=sum(len(of) for of, _ in pairs),
        tokens=len(differences),
        mean=float(differences.mean()),
        largest=float(differences.max()),
        arithmetic=samples.arithmetic,
        sight=_sight(pairs[:count], pairs[count:], parts[len(sampled) :]) if sees else None,
    )


def short_rollout(rollout: RolloutConfig, directory: str) -> RolloutConfig:
    """One worker without sandboxes, which plays short conversations."""
    episode = rollout.episode
    return replace(
        rollout,
        engine=replace(rollout.engine, policy=directory),
        episode=replace(episode, max_action_tokens=min(ACTION_TOKENS, episode.max_action_tokens), system_prompt=None),
        workers=1,
        servers=1,  # on GPUs of its own: it has ended when the learner starts
        sandboxes_per_worker=0,
        sandbox_actors=0,
    )


def _play(fleet: Fleet, seed: int, pictures: int | None) -> list[Example]:
    """The conversations with one set of pictures; text, sizes and seeds are the same for all sets."""
    tasks = f"{__name__}:Probe-v0", {"pictures": pictures}
    groups = fleet.collect(group_specs("parity", tasks, groups=CONVERSATIONS, seed=seed))
    episodes = [episode for group in groups for episode in group.episodes]
    if failed := [episode for episode in episodes if not any(any(chain.loss_mask) for chain in episode.chains)]:
        raise InfrastructureError(f"nothing was sampled in a conversation: {failed[0].trajectory.error or 'no reason is known'}")
    return [Example.of(episode) for episode in episodes]


def _with_other_pictures(example: Example) -> Example:
    sequences: Sequences = example.sequences
    if not sequences.images:
        raise UsageError(
            "no picture had room in a conversation: raise rollout.episode.max_tokens (and rollout.engine.max_model_len) for "
            "pictures of some 200 x 200 pixels"
        )
    names, images = {}, {}
    for number, (name, png) in enumerate(sequences.images.items()):
        size = decode(png).size[::-1]
        other = encoded_image(picture(number, _REPLACEMENTS, size))
        names[name], images[other.sha256] = other.sha256, other.png
    images_N = [[names[name] for name in row] for row in sequences.images_N]
    return replace(example, sequences=replace(sequences, images_N=images_N, images=images))


def _sight(
    shown: Sequence[tuple[Sequences, np.ndarray]],
    replaced: Sequence[tuple[Sequences, np.ndarray]],
    others: Sequence[np.ndarray],
) -> Sight:
    """`others` are the learner's log-probabilities of what was sampled from the pictures `shown`, with other pictures."""
    sampler, apart, differ = 0.0, 0.0, False
    for (one, learner_one), (two, learner_two) in zip(shown, replaced, strict=True):
        # The tokens of the first turn, up to the first that differs, follow the same tokens.
        start = int(np.argmax(one.loss_mask_S))
        end = start + 1
        while end < min(len(one.tokens_S), len(two.tokens_S)) and one.loss_mask_S[end] and two.loss_mask_S[end]:
            if one.tokens_S[end - 1] != two.tokens_S[end - 1]:
                break
            end += 1
        place = slice(start, end)
        differ |= bool((one.tokens_S[place] != two.tokens_S[place]).any())
        moved = two.logprobs_S[place] - one.logprobs_S[place]
        sampler = max(sampler, float(np.abs(moved).max()))
        apart = max(apart, float(np.abs(moved - (learner_two[place] - learner_one[place])).max()))
    learner = max(float(np.abs(part - other)[one.loss_mask_S].max()) for (one, part), other in zip(shown, others, strict=True))
    return Sight(sampler, learner, apart, differ)
