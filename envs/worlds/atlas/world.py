"""Atlas as a source of tasks, read from the directory that `toolwise atlas` has built."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from envs.errors import UsageError
from envs.pictures import decode
from envs.scoring.types import Scoring
from envs.types import SPLITS, Task
from envs.worlds.atlas.expert import expert


class Atlas:
    """A source of tasks drawn uniformly, with replacement, from a split's questions, or those of one `ability`.

    Raises UsageError if nothing is built at `path`, or if the split or ability is unknown.
    """

    def __init__(self, path: str | Path, split: str = "train", ability: str | None = None) -> None:
        self.path = Path(path)
        if split not in SPLITS:
            raise UsageError(f"split is {split!r}: write one of {', '.join(SPLITS)}")
        rows = _questions(self.path, split)
        abilities = sorted({row["ability"] for row in rows})
        if ability is not None and ability not in abilities:
            raise UsageError(f"ability is {ability!r}: write one of {', '.join(abilities)}")
        self._split = split
        self._rows = [(number, row) for number, row in enumerate(rows) if ability in (None, row["ability"])]

    reads_files = True
    """See `ToolEnv`."""

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, rng: np.random.Generator) -> Task:
        return self.task(int(rng.integers(len(self))))

    def task(self, index: int) -> Task:
        """The task at `index`, counted from 0."""
        number, row = self._rows[index]
        images = tuple(self._image(name) for name in row["images"])
        reduction = row["reduction"]
        return Task(
            task_id=f"atlas-{row['template']}-{self._split}-{number}",
            question=row["question"],
            answer=row["answer"],
            abilities=(row["ability"],),
            source=f"atlas/{row['template']}",
            images=images,
            views=tuple(image.reduce(reduction) for image in images) if reduction > 1 else (),
            needed_tools=tuple(row["needed_tools"]),
            expert=expert(row["plan"]),
            scoring=Scoring.from_mapping(row["scoring"]),
        )

    def _image(self, name: str) -> Image.Image:
        return decode(self.path / name)


@lru_cache(maxsize=8)
def _questions(path: Path, split: str) -> list[dict[str, Any]]:
    file = path / f"questions_{split}.jsonl"
    if not file.is_file():
        raise UsageError(f"Atlas is not built at {path}: build it with `toolwise atlas out={path}`, or write +options.path=DIR")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
