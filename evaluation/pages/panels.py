"""Which metrics of a run stand in which plot. A plot whose metrics the run did not record is not drawn, and is named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.pages.curves import Curve, Mark, curves, short_number
from evaluation.pages.document import Plot
from evaluation.pages.history import Line, matching, names, series, steps
from evaluation.pages.marks import Format
from evaluation.pages.plots import percent

_MOST = 6  # curves of a plot, as many as there are colours
_SHARE = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot of some metrics: `named` ones by what the legend calls them, and those that match one of the `patterns`, whose group
    names them. `share` means that all are shares from 0 to 1; `spread` is the standard deviation of the first, its band; `factors`
    are what metrics are multiplied by, by their names."""

    title: str
    named: Mapping[str, str]
    patterns: tuple[str, ...] = ()
    caption: str = ""
    share: bool = False
    log: bool = False
    spread: str = ""
    form: Format | None = None
    factors: Mapping[str, float] = field(default_factory=dict)


RL_PANELS = (
    Panel("Reward", {"mean": "critic/score/mean", "with a call": "reward/with_tools", "without": "reward/without_tools"}),
    Panel("Accuracy by ability", {"all": "reward/accuracy"}, (r"ability/(.+)/reward/accuracy",), share=True),
    Panel(
        "Tool calls per episode",
        {"mean": "tools/calls_per_episode/mean"},
        caption="The band is one standard deviation to each side, over the episodes of a step.",
        spread="tools/calls_per_episode/std",
    ),
    Panel("Tool calls per episode, by ability", {}, (r"ability/(.+)/tools/calls_per_episode/mean",)),
    Panel(
        "Use of tools by need",
        {"needed": "by_need/needed/tool_use", "not needed": "by_need/not_needed/tool_use", "all": "tools/use"},
        caption="The share of episodes with at least one call, on tasks that need a tool, on those that do not, and on all.",
        share=True,
    ),
    Panel("Accuracy by need", {"needed": "by_need/needed/accuracy", "not needed": "by_need/not_needed/accuracy"}, share=True),
    Panel("Tool mix", {}, (r"tools/([^/]+)/frequency",), "The share of episodes that call a tool.", share=True),
    Panel("Failed calls", {}, (r"tools/([^/]+)/error_rate",), "The share of a tool's calls that failed.", share=True),
    Panel(
        "What code blocks are worth",
        {"run without an error": "tools/code/runs", "compute nothing": "tools/code/empty", "output unused": "tools/code/unused"},
        caption="Shares of the code blocks.",
        share=True,
    ),
    Panel(
        "Variance of calls",
        {"within groups": "tools/variance/within_group", "between groups": "tools/variance/between_group"},
        caption="Within the episodes of one task, and between tasks.",
    ),
    Panel("Parts of the reward", {}, (r"reward/(?!with_tools|without_tools|tool_advantage|accuracy)(.+)",)),
    Panel("Gain of calls", {"calls that help": "tools/gain"}, caption="On tasks that no episode solved without.", share=True),
    Panel("Length", {"sampled tokens": "response_length/mean"}, form=short_number),
    Panel(
        "Turns",
        {"turns": "num_turns/mean", "first call": "tools/first_call_turn/mean"},
        caption="The model's turns in an episode, and the number of the one with the first call.",
        factors={"num_turns/mean": 0.5},  # verl counts the prompt and the observations between them too
    ),
    Panel("How episodes ended", {}, (r"stop_reason/(.+)",), share=True),
    Panel(
        "Sampler against learner",
        {"mean": "rollout/logprob_gap", "largest": "rollout/logprob_gap_max"},
        caption="How far the log-probabilities of the same tokens are apart.",
        log=True,
    ),
    Panel("Staleness", {}, (r"(?:rollout|data|tools|staleness)/(.*stale.*|.*version_lag.*)",), "Policy versions."),
    Panel("Seconds of a step", {"step": "timing_s/step"}, (r"timing_s/(?!step|generate|tool|telemetry)(.+)",)),
    Panel(
        "Seconds of an episode",
        {"generating": "timing_s/generate", "waiting for tools": "timing_s/tool"},
        (r"tools/(.+)/latency_s/p99",),
        "Means over episodes; of each tool the 99th percentile of a call.",
    ),
    Panel(
        "Entropy",
        {"of what was sampled": "rollout/entropy", "of what was learned from": "actor/entropy"},
        caption="A token's mean.",
    ),
    Panel("Gradient norm", {"norm": "actor/grad_norm"}),
    Panel("Learning rate", {"rate": "actor/lr"}, form=short_number),
    Panel("Policy update", {"KL": "actor/ppo_kl", "clipped": "actor/pg_clipfrac", "loss": "actor/pg_loss"}, form=short_number),
    Panel("Groups that vary in nothing", {"calls": "tools/zero_variance_groups"}, share=True),
    Panel("Memory", {"of the CPU": "perf/cpu_memory_used_gb", "of the GPU": "perf/max_memory_allocated_gb"}, caption="GiB."),
)

SFT_PANELS = (
    Panel("Loss", {"loss": "train/loss"}),
    Panel("Gradient norm", {"norm": "train/grad_norm"}),
    Panel("Learning rate", {"rate": "train/lr"}, form=short_number),
)


def drawn(panels: Sequence[Panel], lines: Sequence[Line], noted: Sequence[Mark] = ()) -> tuple[list[Plot], list[str], list[str]]:
    """The plots of a stage's lines; the titles of those that the run has no metrics for; and its metrics that no plot shows."""
    known, plots, absent, used = names(lines), [], [], set()
    for panel in panels:
        metrics = _metrics(panel, known)
        used |= {*metrics.values(), panel.spread}
        if metrics:
            plots.append(_plot(panel, metrics, lines, noted))
        else:
            absent.append(panel.title)
    return plots, absent, [name for name in known if name not in used]


def _metrics(panel: Panel, known: Sequence[str]) -> dict[str, str]:
    """The metrics of a panel that are there, by what the legend calls them."""
    named = {title: name for title, name in panel.named.items() if name in known}
    for pattern in panel.patterns:
        found = matching([name for name in known if name.startswith("ability/") == pattern.startswith("ability/")], pattern)
        named |= {title: name for title, name in found.items() if title not in named and name not in named.values()}
    return named


def _plot(panel: Panel, metrics: Mapping[str, str], lines: Sequence[Line], noted: Sequence[Mark]) -> Plot:
    at, content = steps(lines), []
    shown = dict(list(metrics.items())[:_MOST])
    for title, name in shown.items():
        factor = panel.factors.get(name, 1.0)
        values = [factor * value for value in series(lines, name)]
        low = high = None
        if panel.spread and not content:
            deviations = series(lines, panel.spread)
            low = [max(0.0, value - one) for value, one in zip(values, deviations, strict=True)]
            high = [value + one for value, one in zip(values, deviations, strict=True)]
        content.append(Curve(title, at, values, low, high))
    left = [title for title in metrics if title not in shown]
    caption = f"{panel.caption} Not drawn: {', '.join(left)}." if left else panel.caption
    form = panel.form or (percent if panel.share else short_number)
    bounds = _SHARE if panel.share and all(-1e-9 <= v <= 1 + 1e-9 for c in content for v in c.values if math.isfinite(v)) else None
    return curves(panel.title, content, caption.strip(), form=form, log=panel.log, bounds=bounds, noted=noted)
