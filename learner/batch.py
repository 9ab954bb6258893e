"""What one step of the learner takes: an index of sequences, whose tokens and images stay where they are until a rank needs them.

Axes, named once: E episodes; N sequences, one for each chain of an episode (N = E unless a chat template rewrites earlier turns).
Pure: no verl, no Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rollout.learned import Learned
from rollout.sequences import Sequences
from rollout.summary import EpisodeSummary
from rollout.types import Episode


@dataclass(frozen=True, slots=True)
class Example:
    """One episode to learn from: its outcome, the sizes of its sequences, and the sequences or a reference to them.

    `lengths` and `trained` count all tokens and the sampled ones of each sequence. `sequences` is a `Sequences`, or whatever the
    trainer can turn into one (Ray's ObjectRef).
    """

    sequences: Any
    lengths: tuple[int, ...]
    trained: tuple[int, ...]
    group_id: str
    reward: float
    temperature: float
    reward_parts: dict[str, float] = field(default_factory=dict)
    episode_id: str = ""

    @classmethod
    def of(cls, episode: Episode) -> Example:
        """The example of an episode that is at hand. Raises ValueError as `Sequences.of`."""
        sequences, first = Sequences.of(episode), episode.chains[0]
        lengths, trained = tuple(sequences.lengths_N.tolist()), tuple(sequences.trained_N.tolist())
        outcome = first.group_id, first.reward, first.temperature, first.reward_parts, first.episode_id
        return cls(sequences, lengths, trained, *outcome)

    @classmethod
    def summarised(cls, summary: EpisodeSummary) -> Example:
        """The example of an episode whose sequences are elsewhere."""
        sizes = summary.lengths, summary.trained
        outcome = summary.group_id, summary.reward, summary.temperature, summary.reward_parts, summary.episode_id
        return cls(summary.sequences, *sizes, *outcome)


@dataclass(frozen=True, slots=True)
class Batch:
    """The examples of one step, and the arrays over them.

    Row n is sequence `chains_N[n]` of example `episodes_N[n]`: `values_E[episodes_N]` gives every sequence its episode's value.
    `temperatures_N` are those that the sequences were sampled at.
    """

    examples_E: list[Example]
    episodes_N: np.ndarray
    chains_N: np.ndarray
    lengths_N: np.ndarray
    trained_N: np.ndarray
    temperatures_N: np.ndarray

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Batch:
        """The batch of some examples, in order. Raises ValueError if there are none."""
        if not examples:
            raise ValueError("a batch needs at least one episode")
        rows = [(index, chain) for index, example in enumerate(examples) for chain in range(len(example.lengths))]
        return cls(
            examples_E=list(examples),
            episodes_N=np.array([index for index, _ in rows], dtype=np.int64),
            chains_N=np.array([chain for _, chain in rows], dtype=np.int64),
            lengths_N=np.array([length for example in examples for length in example.lengths], dtype=np.int64),
            trained_N=np.array([trained for example in examples for trained in example.trained], dtype=np.int64),
            temperatures_N=np.array([examples[index].temperature for index, _ in rows], dtype=np.float32),
        )

    @classmethod
    def of_episodes(cls, episodes: Iterable[Episode]) -> Batch:
        """The batch of episodes that are at hand. Raises ValueError as `of` and `Example.of`."""
        return cls.of([Example.of(episode) for episode in episodes])

    @classmethod
    def of_summaries(cls, summaries: Iterable[EpisodeSummary]) -> Batch:
        """The batch of episodes whose sequences stay with the workers. Raises ValueError as `of`."""
        return cls.of([Example.summarised(summary) for summary in summaries])

    def __len__(self) -> int:
        return len(self.lengths_N)

    def learned(self, advantages_E: np.ndarray, rows: Iterable[int]) -> list[tuple[str, Learned]]:
        """The advantages of some rows, each with its group, as `LearnedFiles` take them."""
        found = []
        for row in rows:
            episode = self.episodes_N[row]
            example = self.examples_E[episode]
            one = Learned(example.episode_id, int(self.chains_N[row]), float(advantages_E[episode]))
            found.append((example.group_id, one))
        return found

    @property
    def trained_tokens(self) -> int:
        """Number of sampled tokens."""
        return int(self.trained_N.sum())

    @property
    def rewards_E(self) -> np.ndarray:
        """The reward of each episode."""
        return np.array([example.reward for example in self.examples_E], dtype=np.float32)

    @property
    def group_ids_E(self) -> list[str]:
        """The group of each episode."""
        return [example.group_id for example in self.examples_E]

    @property
    def tokens_E(self) -> np.ndarray:
        """How many tokens of each episode were sampled."""
        return np.array([sum(example.trained) for example in self.examples_E], dtype=np.int64)

    @property
    def parts_E(self) -> dict[str, np.ndarray]:
        """Each part of the reward that all episodes have."""
        parts_of = [example.reward_parts for example in self.examples_E]
        names = [name for name in parts_of[0] if all(name in parts for parts in parts_of)]
        return {name: np.array([parts[name] for parts in parts_of], dtype=np.float32) for name in names}
