"""What the cold start learns from: demonstrations from files, from stored episodes or from the tasks' expert, mixed by weights; and
rehearsal of what the base knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from curation.forms import Form
from curation.recorded import read_demonstrations
from curation.stored import is_stored, named_by, read_episodes
from curation.verify import is_verified
from envs import resolve
from envs.errors import UsageError
from learner.experiment import EXPERT, ColdStartConfig, DemonstrationSource
from learner.training_run import TrainingRun
from rollout.specs import group_specs
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Episode, episodes_of

ATTEMPTS_PER_DEMONSTRATION = 4
UNKNOWN = "unknown"
"""The ability of a demonstration that names none."""


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """The fixed set. `weights` say how often each is drawn, relative to the others; None if all are drawn equally often."""

    episodes: list[Episode]
    weights: np.ndarray | None = None


def collect_demonstrations(training: TrainingRun) -> Demonstrations:
    """The fixed set: demonstrations from each of the sources, or verified episodes of the tasks' expert, whose code really ran.

    A run makes them once and reads them back when it is resumed. Raises UsageError if there are too few or the weights do not match
    them, DatasetError if a file cannot be used.
    """
    settings = training.config.cold_start
    if not settings.sources:
        path = settings.demonstrations_file
        source = DemonstrationSource(EXPERT if path is None else path, demonstrations=settings.demonstrations)
        pools = [_once(training, "demonstrations", source)]
    else:
        pools = [_once(training, f"demonstrations_{place}", source) for place, source in enumerate(settings.sources)]
    weights = mixture_weights(pools, settings)
    if settings.sources or settings.ability_weights:
        for line in _shares(pools, weights, settings):
            training.say(line)
    episodes = [episode for pool in pools for episode in pool]
    if weights is None:
        return Demonstrations(episodes)
    drawn = np.flatnonzero(weights)
    return Demonstrations([episodes[place] for place in drawn], weights[drawn])


def collect_rehearsal(training: TrainingRun) -> list[Episode]:
    """Verified expert episodes of the tasks that the base policy masters already, made once; empty if none are configured.

    Raises UsageError if no episode is verified.
    """
    settings = training.config.cold_start
    if "rehearsal" in training.store.names():
        return list(training.store.read("rehearsal"))
    if not settings.rehearsal_tasks or not settings.rehearsal_batch_size:
        return []
    # In the protocol that the policy is to speak: it would learn both otherwise.
    protocol = training.config.options.get("protocol")
    tasks = resolve(settings.rehearsal_tasks, {} if protocol is None else {"protocol": protocol})
    specs = group_specs("rehearsal", tasks, groups=settings.rehearsal, seed=training.config.seed, actor="expert")
    kept = [episode for episode in episodes_of(training.rollout(specs)) if is_verified(episode.trajectory)]
    if not kept:
        raise UsageError(
            f"no expert episode of cold_start.rehearsal_tasks={settings.rehearsal_tasks} was right: write null for none"
        )
    training.store.write("rehearsal", kept)
    return kept


def mixture_weights(pools: Sequence[Sequence[Episode]], settings: ColdStartConfig) -> np.ndarray | None:
    """The share of each demonstration, pool after pool; they add up to 1. None if no weight is set.

    A source has its weight's share of all, and an ability its weight's share within each source; what shares both is drawn equally
    often. Without weights of sources, or of abilities, a share is what there is of it. The weight of several abilities together is
    the product of theirs. Raises UsageError for a source or an ability without a weight if others have one, for an ability that no
    demonstration has, and if nothing is left.
    """
    given = [source.weight for source in settings.sources]
    if all(weight is None for weight in given) and not settings.ability_weights:
        return None
    if any(weight is None for weight in given) and any(weight is not None for weight in given):
        raise UsageError("cold_start.sources: write a weight for each source, or for none")
    _check_abilities(pools, settings.ability_weights)
    of_source = [float(weight) if weight is not None else len(pool) for weight, pool in zip(given or [None], pools, strict=True)]
    parts = []
    for weight, pool in zip(of_source, pools, strict=True):
        counts = Counter(map(_abilities, pool))
        of_ability = {names: _weight(names, settings.ability_weights, count) for names, count in counts.items()}
        total = sum(of_ability.values())
        each = [of_ability[names] / counts[names] for names in map(_abilities, pool)]
        parts.append(weight * np.array(each) / total if total else np.zeros(len(pool)))
    weights = np.concatenate(parts)
    if not weights.sum():
        raise UsageError("cold_start: all weights are 0, so that there is nothing to learn from: write one above 0")
    return weights / weights.sum()


def draw_weighted(weights: np.ndarray, count: int, *, seed: int, first: int) -> list[int]:
    """The places of `count` items, from the place `first` on in an endless sequence of epochs, each as long as there are items.

    In an epoch an item comes as often as its share of `weights` says, rounded up or down at random (systematic sampling, Madow
    1949), in random order. What an epoch holds depends on (`seed`, epoch, weights) alone. Raises ValueError if there are no items.
    """
    if not len(weights):
        raise ValueError("there is nothing to draw from")
    size = len(weights)
    epochs = {epoch: _epoch(weights, seed, epoch) for epoch in {place // size for place in range(first, first + count)}}
    return [int(epochs[place // size][place % size]) for place in range(first, first + count)]


def _epoch(weights: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*b"mixture", epoch)))
    ends = np.cumsum(weights) / np.sum(weights) * len(weights)
    ends[-1] = len(weights)  # whatever the rounding
    chosen = np.searchsorted(ends, np.arange(len(weights)) + rng.random(), side="right")
    return rng.permutation(chosen)


def _once(training: TrainingRun, name: str, source: DemonstrationSource) -> list[Episode]:
    """The demonstrations of a source, made and stored unless the run has them already."""
    if name not in training.store.names():
        training.store.write(name, _made(training, name, source))
    return list(training.store.read(name))


def _made(training: TrainingRun, name: str, source: DemonstrationSource) -> list[Episode]:
    settings, seed = training.config.cold_start, training.config.seed
    if source.path == EXPERT:
        return _played(training, name, source.demonstrations or settings.demonstrations)
    chat = ChatFormat.from_directory(training.policy_dir)
    path, form = named_by(source.path), Form.of(training.tasks("train"))
    if is_stored(path):
        episodes, left_out = read_episodes(path, chat, count=source.demonstrations, seed=seed, form=form)
        if left_out:
            training.say(f"{source.path}: {left_out} episodes are no verified demonstrations and are left out")
        return episodes
    return read_demonstrations(
        path,
        chat,
        training.config.rollout.episode,
        count=source.demonstrations,
        seed=seed,
        malformed=settings.malformed,
        form=form,
    )


def _played(training: TrainingRun, name: str, wanted: int) -> list[Episode]:
    """Verified episodes of the tasks' expert."""
    kept: list[Episode] = []
    for attempt in range(ATTEMPTS_PER_DEMONSTRATION):
        specs = group_specs(
            name,
            training.tasks("train"),
            groups=wanted,
            seed=training.config.seed,
            step=attempt,
            actor="expert",
            rows=training.rows("train"),
            first=attempt * wanted,
        )
        kept += [episode for episode in episodes_of(training.rollout(specs)) if is_verified(episode.trajectory)]
        if len(kept) >= wanted:
            return kept[:wanted]
    raise UsageError(
        f"the expert gave {len(kept)} verified demonstrations of {wanted}: "
        "lower cold_start.demonstrations, or correct the expert of the tasks"
    )


def _abilities(episode: Episode) -> tuple[str, ...]:
    return episode.chains[0].abilities or (UNKNOWN,)


def _weight(names: tuple[str, ...], weights: Mapping[str, float], count: int) -> float:
    return prod(weights[name] for name in names) if weights else count


def _check_abilities(pools: Iterable[Iterable[Episode]], weights: Mapping[str, float]) -> None:
    """Raise UsageError unless each ability has a weight, and each weight an ability, if there are weights."""
    there = {name for pool in pools for episode in pool for name in _abilities(episode)}
    if weights and (missing := sorted(there - weights.keys())):
        raise UsageError(f"cold_start.ability_weights has no weight for {', '.join(missing)}: write one, 0 to leave an ability out")
    if unknown := sorted(weights.keys() - there):
        raise UsageError(
            f"cold_start.ability_weights has {', '.join(unknown)}, and no demonstration is of that ability: the abilities are "
            f"{', '.join(sorted(there))}"
        )


def _shares(pools: Sequence[Sequence[Episode]], weights: np.ndarray | None, settings: ColdStartConfig) -> list[str]:
    """A line for each source: how many demonstrations of which ability, and their shares of what is drawn."""
    count = sum(map(len, pools))
    shares = np.full(count, 1 / count) if weights is None else weights
    lines, begin = [], 0
    for source, pool in zip(settings.sources or [DemonstrationSource()], pools, strict=True):
        of_pool = shares[begin : begin + len(pool)]
        by_ability: dict[str, list[float]] = {}
        for episode, share in zip(pool, of_pool, strict=True):
            by_ability.setdefault("+".join(_abilities(episode)), []).append(share)
        told = ", ".join(f"{name} {len(part)} ({sum(part):.1%})" for name, part in sorted(by_ability.items()))
        lines.append(f"demonstrations from {source.path}: {len(pool)}, {of_pool.sum():.1%} of what is drawn: {told}")
        begin += len(pool)
    return lines
