"""The settings in which the referee sees a policy on the same items with the same seeds, and the episodes of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from envs.tools.outputs import BLANK, write_given
from evaluation.ablation import FULL, keep_outputs, variant
from evaluation.referee.outcomes import WITHOUT
from rollout.types import Episode, EpisodeSpec, Group, GroupSpec, episodes_of

FORMAT_ONLY, SWAPPED, RESULT_ONLY = "format only", "swapped", "result only"
VARIANTS = (FULL, WITHOUT, FORMAT_ONLY, SWAPPED, RESULT_ONLY)
"""All tools; none; a call shows nothing; it shows another item's output; none, but the question shows what the calls returned."""

PAIR = (FULL, WITHOUT)
"""What is enough to judge a policy that stands beside another."""

Run = Callable[[str, Sequence[GroupSpec]], list[Group]]
"""Runs the groups of a variant, by its name."""


def run_variants(
    run: Run, specs: Sequence[GroupSpec], tools: Sequence[str], directory: Path, names: Sequence[str] = VARIANTS
) -> dict[str, list[Group]]:
    """The groups of the settings `names`. What the tools returned is kept below `directory`, which every worker must see."""
    directory = directory.absolute()
    groups = {FULL: run(FULL, specs)}
    if SWAPPED in names:
        keep_outputs(groups[FULL], directory / "tool_outputs")
    makers: dict[str, Callable[[], list[GroupSpec]]] = {
        WITHOUT: lambda: variant(specs, WITHOUT, without=list(tools)),
        FORMAT_ONLY: lambda: variant(specs, FORMAT_ONLY, tool_outputs=BLANK),
        SWAPPED: lambda: variant(specs, SWAPPED, tool_outputs=str(directory / "tool_outputs")),
        RESULT_ONLY: lambda: result_only(specs, groups[FULL], tools, directory / "given_results"),
    }
    return groups | {name: run(name, make()) for name, make in makers.items() if name in names}


def result_only(specs: Sequence[GroupSpec], groups: Sequence[Group], tools: Sequence[str], directory: Path) -> list[GroupSpec]:
    """The same groups without tools; behind the question of each episode stands what its calls returned in `groups`.

    An episode that called nothing gets the question alone.
    """
    ended = {episode.chains[0].episode_id: episode for episode in episodes_of(groups)}

    def given(spec: EpisodeSpec) -> EpisodeSpec:
        file = _write(ended[spec.episode_id], directory)
        return spec if file is None else replace(spec, env_kwargs=spec.env_kwargs | {"given_results": str(file)})

    changed = [replace(group, episodes=tuple(map(given, group.episodes))) for group in specs]
    return variant(changed, RESULT_ONLY, without=list(tools))


def _write(episode: Episode, directory: Path) -> Path | None:
    """Write what an episode's calls returned; None if it called nothing."""
    turns = [turn for turn in episode.trajectory.turns if turn.tool_calls]
    if episode.failed or not turns:
        return None
    file = directory / f"{hashlib.sha256(episode.chains[0].episode_id.encode()).hexdigest()[:16]}.json"
    texts = [line for turn in turns if (line := _output(turn.observation))]
    write_given(file, texts, [episode.images[name] for turn in turns for name in turn.images])
    return file


def _output(observation: str) -> str:
    """An observation without the protocol's own lines around the output."""
    lines = observation.splitlines()
    return "\n".join(line for line in lines if line.strip() not in ("<tool_response>", "</tool_response>")).strip()
