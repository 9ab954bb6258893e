"""What a step of RL learned of each sequence: `learned/<name>.parquet`, for the sequences in `trajectories/<name>`.

Several ranks write a *shard* each, `<name>.w<8 hexadecimal digits>.parquet`, and the shards of a name are read as one, as those of
trajectories are. A file appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from envs.runtime.atomic import replaced_file


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned of one sequence, the chain `chain` of an episode.

    `advantage` is None if the sequence was not learned from. If its tokens have different advantages it is their mean, and
    `advantages` has them, one for each sampled token in order: 0 at those that a rejection left out. `log_probs` are those of the
    policy that the step began with, at the temperature of sampling: natural logarithms, one for each sampled token in order, None
    if the step did not compute them.
    """

    episode_id: str
    chain: int
    advantage: float | None
    advantages: np.ndarray | None = None
    log_probs: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class LearnedFiles:
    """Where a step's `Learned` are written. `first` and `names` are the names of the step and of each of its groups, as in
    `trajectories/`; `directory` is absolute, since this is sent to the learner's ranks. `others` are sequences that no rank
    computes, with the group of each."""

    directory: Path
    first: str
    names: Mapping[str, str]
    others: tuple[tuple[str, Learned], ...] = ()

    @classmethod
    def of(cls, run_directory: str | Path, first: str, names: Mapping[str, str]) -> Self:
        """The files of a step in a run directory."""
        return cls(Path(run_directory).absolute() / "learned", first, names)

    def with_others(self, others: Iterable[tuple[str, Learned]]) -> Self:
        """The same with more sequences that no rank computes."""
        return replace(self, others=(*self.others, *others))

    def clear(self) -> None:
        """Remove what an earlier attempt at the step wrote, by however many ranks and in however many draws."""
        for begin in ("", "."):  # a hidden one was being written when a kill came
            for path in self.directory.glob(f"{begin}{self.first}[._]*"):
                path.unlink(missing_ok=True)

    def write(self, sequences: Iterable[tuple[str, Learned]], rank: int = 0, ranks: int = 1) -> None:
        """Write a rank's sequences, each with its group; the first rank writes the `others` as well. Raises OSError."""
        of_names: dict[str, list[Learned]] = {}
        for group, sequence in (*sequences, *(self.others if rank == 0 else ())):
            of_names.setdefault(self.names[group], []).append(sequence)
        for name, members in of_names.items():
            _write(self.directory / (f"{name}.parquet" if ranks == 1 else f"{name}.w{rank:08x}.parquet"), members)


def read_learned(run_directory: str | Path, name: str) -> Iterator[Learned]:
    """The sequences of a name, as far as they are written."""
    import pyarrow.parquet as pq

    for path in learned_paths(run_directory, name):
        columns = pq.ParquetFile(path).read().to_pydict()
        for episode_id, chain, advantage, *lists in zip(*(columns[column] for column in _COLUMNS), strict=True):
            yield Learned(episode_id, chain, advantage, *(None if one is None else np.array(one, np.float32) for one in lists))


_COLUMNS = ("episode_id", "chain", "advantage", "advantages", "log_probs")


def learned_paths(run_directory: str | Path, name: str) -> list[Path]:
    """The files of a name: one, or its shards; none if nothing is written."""
    directory = Path(run_directory) / "learned"
    return sorted([*directory.glob(f"{name}.parquet"), *directory.glob(f"{name}.w{'[0-9a-f]' * 8}.parquet")])


def _write(path: Path, sequences: list[Learned]) -> None:
    import pyarrow as pa  # it takes a moment
    import pyarrow.parquet as pq

    list_type = pa.list_(pa.float32())
    types = (pa.string(), pa.int32(), pa.float32(), list_type, list_type)
    columns = [pa.array([getattr(one, name) for one in sequences], of) for name, of in zip(_COLUMNS, types, strict=True)]
    table = pa.Table.from_arrays(columns, names=list(_COLUMNS))
    with replaced_file(path) as unfinished:
        # Without dictionaries: log-probabilities hardly repeat.
        pq.write_table(table, unfinished, compression="zstd", use_dictionary=["episode_id"])
