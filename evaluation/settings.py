"""Settings of `toolwise evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field

from rollout.collect import CollectConfig


@dataclass
class EvaluateConfig(CollectConfig):
    """An evaluation: episodes of one policy on held-out tasks, and the records of them."""

    ablate: str = "none"
    """none; tools (or true): the same tasks without each tool and without any; outputs: with their outputs blanked or swapped."""

    data: str = ""
    """With tasks=bench:NAME, the user's copy of the benchmark's file; `evaluation/protocols` says what else that fixes."""

    bench: str = ""
    """The benchmark that tasks=bench:NAME named, once its settings are fixed. It is not for a user to write."""

    data_sha256: str = ""
    """The hash of its file at the beginning, so that a resumed evaluation does not mix two files. It is not for a user to write."""

    compare: list[str] = field(default_factory=list)
    """Two directories that `evaluate` wrote, to be compared item by item; nothing is rolled out then."""

    referee: bool = False
    """Judge whether tools were worth it: the same tasks and seeds with all tools, without any, with calls that show nothing or
    another task's output, and without tools but with the results in the question."""

    harness: str = ""
    """With `referee`: an untrained policy, written like `policy`, to stand beside it, with the protocol's instructions as its
    system prompt. With `run`, what the run began with, unless another is named; "none" leaves it out."""

    harness_model: str = ""
    """The name by which the endpoint of `harness` knows its model."""

    run: str = ""
    """The directory of a training run, whose last checkpoint takes the place of `policy`. Its tasks and its `rollout` settings
    are taken over, unless others are written."""

    med: bool = False
    """With `run`: its checkpoints on the same tasks with and without tools: what each gained intrinsically, by tools, and by harm
    that went away."""

    checkpoints: list[str] = field(default_factory=list)
    """With `run`: those to take, in this order, as in [base,step_50]. Empty: base, cold_start, and each step_N that there is."""


@dataclass
class ReportConfig:
    """A page about what a directory holds."""

    run: str = "runs/demo"
    """The directory of `toolwise train`, also of one that is running or broke off, or of `toolwise evaluate`."""

    out: str = ""
    """The directory for the page, `report.html` or `evaluation.html`; empty: the run's own."""


@dataclass
class FiguresConfig:
    """The pictures of the documents, and the tables of `docs/results.md`."""

    runs: str = "runs"
    """The directory with the runs. Those of an experiment are called `<experiment>_<seed>`."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """The seeds of each experiment. One that is missing is named, with the command that makes it."""

    episode: str = "demo"
    """The run of which an episode is shown: `episode.png`."""

    study: str = "study"
    """The experiment whose seeds are shown one by one, beside cold start and control: `study.svg`."""

    pictures: dict[str, list[str]] = field(
        default_factory=lambda: {
            "cold_start": ["with_cold_start", "weak_cold_start", "weak_rollback", "no_cold_start"],
            "tools": ["with_cold_start", "no_tools"],
            "calls": ["with_cold_start", "free_calls", "call_bonus"],
            "rewards": ["with_cold_start", "free_calls", "reward_necessity", "reward_benefit", "reward_cost"],
        }
    )
    """Experiments that are compared, by the name of the picture, `dynamics_<name>.svg`, and of the table."""

    abilities: str = "four_abilities"
    """The experiment that is shown by ability: `dynamics_abilities.svg`."""

    demonstrations: list[int] = field(default_factory=lambda: [24, 96, 384, 4096])
    """The numbers of demonstrations of the experiments `demonstrations_<number>`: `dynamics_demonstrations.svg`."""

    out: str = "docs/images"
    """The directory that the pictures are written into."""
