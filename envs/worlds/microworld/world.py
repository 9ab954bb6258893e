"""The built-in world as a source of tasks, and its searches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Condition

import numpy as np
from cachetools import cached

from envs.errors import UsageError
from envs.search.image.index import ImageIndex
from envs.search.text.index import TextIndex
from envs.types import SPLITS, Task
from envs.worlds.microworld import errands, integration, perception, reasoning, search
from envs.worlds.microworld.places import documents, gallery

_ERRANDS = "errands"
_MAKERS: dict[str, tuple[Callable[..., Task], Callable[..., Task]]] = {
    _ERRANDS: (errands.easy, errands.hard),
    "perception": (perception.easy, perception.hard),
    "reasoning": (reasoning.easy, reasoning.hard),
    "search": (search.easy, search.hard),
    "integration": (integration.easy, integration.hard),
}
ABILITIES = tuple(name for name in _MAKERS if name != _ERRANDS)


class Microworld:
    """A source of tasks: called with a random generator it draws one.

    `abilities` are drawn from in equal shares, `need` is the share of tasks that need a tool. Raises UsageError for an unknown
    split or ability.
    """

    def __init__(self, abilities: Sequence[str] = ABILITIES, split: str = "train", need: float = 0.5) -> None:
        if split not in SPLITS:
            raise UsageError(f"split is {split!r}: write one of {', '.join(SPLITS)}")
        unknown = sorted(set(abilities) - set(_MAKERS))
        if unknown or not abilities:
            raise UsageError(f"abilities has {unknown or 'nothing'}: write one or more of {', '.join(_MAKERS)}")
        if not 0 <= need <= 1:
            raise UsageError(f"need is {need}: write a share between 0 and 1")
        self.abilities, self.split, self.need = tuple(abilities), split, need

    def __call__(self, rng: np.random.Generator) -> Task:
        ability = self.abilities[int(rng.integers(len(self.abilities)))]
        return _cached_task(ability, bool(rng.random() < self.need), self.split, int(rng.integers(1 << 31)))


def make_task(ability: str, needs_tool: bool, split: str, seed: int) -> Task:
    """The task of a seed: same arguments, same task."""
    rng = np.random.default_rng([SPLITS.index(split), seed])
    task_id = f"{ability}-{'hard' if needs_tool else 'easy'}-{split}-{seed}"
    return _MAKERS[ability][needs_tool](rng, split, task_id)


# The rollouts of a group ask for the same task, one after another.
_cached_task = lru_cache(maxsize=256)(make_task)


# One thread builds it while others, whose environments start at the same time, wait.
@cached({}, condition=Condition())
def knowledge_base(difficulty: int = 1) -> TextIndex:
    """The index of the world's documents, built once per process. Raises UsageError for an unknown difficulty."""
    return TextIndex.build(documents(difficulty))


@cached({}, condition=Condition())
def emblems() -> ImageIndex:
    """The index of the world's gallery, built once per process."""
    return ImageIndex.build(gallery())
