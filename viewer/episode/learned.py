"""What the learner recorded of a step's episodes: `learned/<name>.parquet` in the run directory, or the shards of that name.

Columns: `episode_id`, `chain`, `advantage` (null if there is none), `log_probs` (the learner's, of the tokens that were sampled in
that chain, in order; null if they were not computed) and `advantages` (of the same tokens; null if one number holds for all).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.learned import learned_paths
from viewer.index.lines import number


@dataclass(frozen=True, slots=True)
class Learned:
    """Of one chain: its advantage, and log-probabilities and advantages of its sampled tokens; None if not recorded."""

    advantage: float | None
    log_probs: list[float | None] | None
    advantages: list[float | None] | None


def learned(run: Path, name: str, episode_id: str, problems: list[str]) -> dict[int, Learned]:
    """What is recorded of the chains of an episode, by their number. A file that cannot be read is one of the `problems`."""
    paths = learned_paths(run, name)
    if not paths:
        return {}
    import pyarrow
    from pyarrow import parquet

    found: dict[int, Learned] = {}
    for path in paths:
        try:
            rows = parquet.read_table(path, filters=[("episode_id", "=", episode_id)]).to_pylist()
            found |= {int(row["chain"]): _of(row) for row in rows}
        except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
            problems.append(f"learned/{path.name} cannot be read: {' '.join(str(error).split())[:500]}")
    return found


def _of(row: dict[str, Any]) -> Learned:
    return Learned(number(row.get("advantage")), _numbers(row.get("log_probs")), _numbers(row.get("advantages")))


def _numbers(values: Any) -> list[float | None] | None:
    return None if values is None else [number(value) for value in values]


def on_tokens(values: list[float | None] | None, mask: list[Any]) -> list[float | None] | None:
    """Values of the sampled tokens, put on all tokens of a chain: null on the others. None if their number is not that of the
    sampled tokens."""
    if values is None or len(values) != sum(1 for one in mask if one == 1):
        return None
    left = iter(values)
    return [next(left) if one == 1 else None for one in mask]
