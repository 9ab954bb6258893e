"""Who is judged, in which settings: the policy, the checkpoints of its run, and an untrained policy with instructions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from envs.errors import UsageError
from envs.runtime.saved_settings import saved_settings

BASE, HARNESS = "base", "harness"
_STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True, slots=True)
class Party:
    """A policy and the settings in which it is seen. `main`: the one that is judged. `instructed`: its system prompt is the
    protocol's instructions. `checkpoint`: it is one of those over which MED is computed."""

    label: str
    policy: str
    variants: tuple[str, ...]
    main: bool = False
    instructed: bool = False
    checkpoint: bool = False
    model: str = ""


def run_policies(run: str, chosen: Sequence[str] = ()) -> dict[str, str]:
    """The policies of a training run by name, in order: what it began with as "base", its cold start, then `step_N` by N.

    `chosen` names others, or fewer, of its checkpoints. Raises UsageError if there is no run, or no such checkpoint, or if its
    settings cannot be read.
    """
    saved = Path(run, "config.yaml")
    if not saved.is_file():
        raise UsageError(f"run={run}: there is no config.yaml in it: write the directory of a run of `toolwise train`")
    settings = saved_settings(saved)
    if OmegaConf.select(settings, "stages") is None:
        raise UsageError(f"run={run}: it is no run of `toolwise train`: write the directory of one")
    directory = Path(OmegaConf.select(settings, "checkpoint.dir") or Path(run, "checkpoints"))
    there = {path.parent.parent.name: str(path.parent) for path in directory.glob("*/policy/config.json")}
    steps = sorted((name for name in there if _STEP.fullmatch(name)), key=lambda name: int(name.removeprefix("step_")))
    known = {BASE: str(OmegaConf.select(settings, "policy")), **there}
    names = list(chosen) or [BASE, *(["cold_start"] if "cold_start" in there else []), *steps]
    if missing := [name for name in names if name not in known]:
        raise UsageError(f"checkpoints names {missing[0]}, which {run} does not hold: write some of {', '.join(known)}")
    if names == [BASE]:
        if chosen:
            raise UsageError(f"checkpoints=[{BASE}]: that is no checkpoint: write one of {run} beside it, or policy={known[BASE]}")
        raise UsageError(f"run={run}: it has no checkpoint yet: wait for one, or evaluate its policy={known[BASE]}")
    return {name: known[name] for name in names}


def announcement(parties: Sequence[Party], tasks: int, samples: int) -> list[str]:
    """What will be run, in lines, with the number of episodes of all and of each party; nothing if that is one setting alone."""
    if len(parties) == 1 == len(parties[0].variants):
        return []
    parts = [
        f"  {party.label}: {len(party.variants)} × {tasks * samples} = {len(party.variants) * tasks * samples} episodes "
        f"({', '.join(party.variants)})"
        for party in parties
    ]
    total = sum(len(party.variants) for party in parties) * tasks * samples
    return [f"{total} episodes in all, on the same {tasks} tasks with the same seeds:", *parts]
