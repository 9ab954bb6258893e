"""Whether the files of questions hold out what a run is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from envs import questions_of
from envs.types import SPLITS
from learner.experiment import Experiment

_TRAIN = "train"
_NAMED = 3


def doubts(config: Experiment) -> Iterator[str]:
    """What a person should know of the rows that each split asks, in one line each: those of a file that only this split asks and
    that it leaves out, and those of held-out splits that are trained on. Raises what `Experiment.tasks_of` raises."""
    files = {split: data for split in SPLITS if (data := questions_of(*config.tasks_of(split))) is not None}
    paths = [data.path for data in files.values()]
    for split, data in files.items():
        if paths.count(data.path) == 1 and len(data) < data.usable:
            yield (
                f"{split} asks {len(data)} of {data.usable} rows of {data.path}, and no other split asks the rest: "
                f"task_options.{split}.split=null asks all"
            )
    if _TRAIN not in files:
        return
    trained = files.pop(_TRAIN)
    for split, data in files.items():
        if shared := data.asked_by(trained):
            yield f"{len(shared)} of {len(data)} questions of {split} are trained on as well: {_rows(shared)} of {data.path}"


def _rows(numbers: Sequence[int]) -> str:
    more = ", …" if len(numbers) > _NAMED else ""
    return f"row{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:_NAMED]))}{more}"
