"""How a policy uses its tools: metrics of the groups of one step. Pure NumPy.

Axes: N episodes, G groups. An episode of several chains counts once; episodes that still failed after their retries
(INFRASTRUCTURE) are left out everywhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluation.alarm import CollapseAlarm
from rollout.summary import EpisodeSummary
from rollout.types import Episode, Group, StopReason


def tool_use_metrics(
    groups: Sequence[Group[Episode]] | Sequence[Group[EpisodeSummary]],
    alarm: CollapseAlarm | None = None,
    tools: Sequence[str] = (),
) -> dict[str, float]:
    """All that is worth plotting of one step, under verl's names if it has one; by ability as well, under `ability/<name>/`.

    An episode of several abilities counts for each of them. `tools` are those that were offered: the frequency of one that nobody
    called is 0. `alarm` takes the step in and adds `tools/collapse_alarm` (0 or 1). docs/training.md says what each one means.
    Metrics that the step says nothing about are left out: a mean over no episodes has no value. Raises ValueError if no episode is
    left.
    """
    episodes_G = [[_summary(episode) for episode in group.sound] for group in groups if group.sound]
    if not episodes_G:
        raise ValueError("there is no episode to measure: every one of them failed for reasons of infrastructure")
    episodes = [episode for group in episodes_G for episode in group]
    offered = sorted({*tools, *(call.tool for episode in episodes for call in episode.calls)})
    metrics = _metrics(episodes_G, alarm, "", offered)
    for ability in sorted({name for episode in episodes for name in episode.abilities}):
        chosen_G = [[episode for episode in group if ability in episode.abilities] for group in episodes_G]
        part = _metrics([group for group in chosen_G if group], alarm, ability, offered)
        metrics |= {f"ability/{ability}/{name}": value for name, value in part.items()}
    if alarm is not None:
        metrics["tools/collapse_alarm"] = float(alarm.ringing)
    return metrics


def _summary(episode: Episode | EpisodeSummary) -> EpisodeSummary:
    return EpisodeSummary.of(episode) if isinstance(episode, Episode) else episode


def _metrics(
    episodes_G: Sequence[Sequence[EpisodeSummary]], alarm: CollapseAlarm | None, name: str, tools: Sequence[str]
) -> dict[str, float]:
    episodes = [episode for group in episodes_G for episode in group]
    calls_G = _values(episodes_G, lambda episode: episode.tool_calls)
    rewards_G = _values(episodes_G, lambda episode: episode.reward)
    used_G = [calls > 0 for calls in calls_G]
    calls_N, rewards_N, used_N = np.concatenate(calls_G), np.concatenate(rewards_G), np.concatenate(used_G)
    within, between = variance_parts(calls_G)
    metrics = _reward_parts(episodes) | {
        "critic/score/mean": rewards_N.mean(),
        "critic/score/max": rewards_N.max(),
        "critic/score/min": rewards_N.min(),
        # Sampled tokens alone: the policy does not write the observations.
        "response_length/mean": np.mean([episode.sampled_tokens for episode in episodes]),
        # The prompt, the actions, and the observations between them, as verl counts.
        "num_turns/mean": np.mean([2 * episode.turn_count for episode in episodes]),
        "tools/use": used_N.mean(),
        "tools/calls_per_episode/mean": calls_N.mean(),
        "tools/calls_per_episode/std": calls_N.std(),
        "tools/calls_per_episode/var": calls_N.var(),
        "tools/calls_per_episode/max": calls_N.max(),
        "tools/variance/within_group": within,
        "tools/variance/between_group": between,
        "tools/zero_variance_groups": np.mean([calls.var() == 0 for calls in calls_G]),
        "tools/repeat_rate": repeat_rate(episodes),
    }
    if sampled := sum(episode.sampled_tokens for episode in episodes):
        # Unbiased: E[-log p(token)] over the distribution that it is drawn from is that distribution's entropy.
        metrics["rollout/entropy"] = -sum(episode.log_prob for episode in episodes) / sampled
    if used_N.any():
        metrics["reward/with_tools"] = rewards_N[used_N].mean()
    if not used_N.all():
        metrics["reward/without_tools"] = rewards_N[~used_N].mean()
    advantage = tool_advantage(rewards_G, used_G)
    if advantage is not None:
        metrics["reward/tool_advantage"] = advantage
    for reason in StopReason:
        if reason is not StopReason.INFRASTRUCTURE:
            metrics[f"stop_reason/{reason.lower()}"] = np.mean([episode.stop_reason is reason for episode in episodes])
    metrics |= _by_need(episodes) | _by_tool(episodes, tools) | _code(episodes)
    first = [episode.first_call for episode in episodes if episode.first_call is not None]
    if first:
        metrics["tools/first_call_turn/mean"] = np.mean(first)
    tries, solved = tool_gain(episodes_G)
    if tries:
        metrics["tools/gain"] = solved / tries
        metrics["tools/gain_episodes"] = tries
    if alarm is not None:
        right = float(np.mean([episode.correct for episode in episodes]))
        needed = metrics.get("by_need/needed/tool_use")
        facts: dict[str, Any] = {"right": right, "offered": bool(tools), "needed": None if needed is None else float(needed)}
        rings = alarm.update(name, float(used_N.mean()), advantage, tries=tries, solved=solved, **facts)
        metrics["tools/collapse_alarm"] = float(rings)
    return {name: float(value) for name, value in metrics.items()}


def _values(episodes_G: Sequence[Sequence[EpisodeSummary]], value: Callable[[EpisodeSummary], float]) -> list[np.ndarray]:
    """One number for each episode, an array for each group."""
    return [np.array([value(episode) for episode in group], dtype=np.float64) for group in episodes_G]


def _reward_parts(episodes: Sequence[EpisodeSummary]) -> dict[str, Any]:
    """The mean of each part of the reward over the episodes that have it. Accuracy is one over all episodes if any has it: one that
    a deadline cut off, or whose question could not be put, has no parts and was not right."""
    parts = defaultdict(list)
    for episode in episodes:
        for name, value in episode.reward_parts.items():
            parts[name].append(value)
    if right := parts.get("accuracy"):
        right += [0.0] * (len(episodes) - len(right))
    return {f"reward/{name}": np.mean(values) for name, values in sorted(parts.items())}


def _by_tool(episodes: Sequence[EpisodeSummary], tools: Sequence[str]) -> dict[str, Any]:
    calls = defaultdict(list)
    users: dict[str, set[str]] = defaultdict(set)
    for episode in episodes:
        for call in episode.calls:
            calls[call.tool].append(call)
            users[call.tool].add(episode.episode_id)
    metrics: dict[str, Any] = {}
    for tool in tools:
        metrics[f"tools/{tool}/frequency"] = len(users[tool]) / len(episodes)
        if not calls[tool]:
            continue
        latency_s = np.array([call.latency_s for call in calls[tool]])
        metrics[f"tools/{tool}/error_rate"] = np.mean([call.status != "ok" for call in calls[tool]])
        metrics[f"tools/{tool}/latency_s/p50"] = np.percentile(latency_s, 50)
        metrics[f"tools/{tool}/latency_s/p99"] = np.percentile(latency_s, 99)
    failed = Counter(error for episode in episodes for error in episode.errors)
    metrics |= {f"tools/{tool}/errors/{kind}": count / len(calls[tool]) for (tool, kind), count in sorted(failed.items())}
    return metrics


def _by_need(episodes: Sequence[EpisodeSummary]) -> dict[str, Any]:
    """`by_need/…`: use and accuracy on the tasks that need a tool and on those that don't, as far as that is known."""
    metrics: dict[str, Any] = {}
    for name, need in (("needed", True), ("not_needed", False)):
        if chosen := [episode for episode in episodes if episode.needs_tool is need]:
            metrics[f"by_need/{name}/tool_use"] = np.mean([episode.tool_calls > 0 for episode in chosen])
            metrics[f"by_need/{name}/accuracy"] = np.mean([episode.correct for episode in chosen])
    return metrics


def _code(episodes: Sequence[EpisodeSummary]) -> dict[str, Any]:
    """Shares of the blocks of code: of all those that ran, of those that can be read those that compute nothing, and of those that
    ran those whose output was not used."""
    uses = [use for episode in episodes for use in episode.code]
    rates = {
        "runs": [use.ran for use in uses],
        "empty": [use.empty for use in uses if use.empty is not None],
        "unused": [use.unused for use in uses if use.unused is not None],
    }
    return {f"tools/code/{name}": np.mean(values) for name, values in rates.items() if values}


def tool_gain(episodes_G: Sequence[Sequence[EpisodeSummary]]) -> tuple[int, int]:
    """Over the groups that no episode without a call solved: how many episodes called a tool, and how many of those were right.

    Their ratio is what calls are worth where nothing else helps: near 0, RL has no reason to keep them.
    """
    hard = [group for group in episodes_G if not any(episode.correct and not episode.tool_calls for episode in group)]
    callers = [episode for group in hard for episode in group if episode.tool_calls]
    return len(callers), sum(episode.correct for episode in callers)


def variance_parts(values_G: Sequence[np.ndarray]) -> tuple[float, float]:
    """The variance within groups and the one between them, which add up to the variance of all values.

    Law of total variance, Var X = E[Var(X | G)] + Var(E[X | G]) (Casella and Berger, Statistical Inference, theorem 4.4.7), with
    population variances and each group weighted by its size: Σ n_g/N · Var_g and Σ n_g/N · (mean_g − mean)².
    """
    values_N = np.concatenate(values_G)
    weights_G = np.array([len(values) for values in values_G]) / len(values_N)
    within = weights_G @ np.array([values.var() for values in values_G])
    between = weights_G @ (np.array([values.mean() for values in values_G]) - values_N.mean()) ** 2
    return float(within), float(between)


def repeat_rate(episodes: Sequence[EpisodeSummary]) -> float:
    """Share of tool calls that equal an earlier one of the same episode, in tool and arguments; 0 without calls."""
    calls = sum(episode.tool_calls for episode in episodes)
    return sum(episode.repeated_calls for episode in episodes) / calls if calls else 0.0


def tool_advantage(rewards_G: Sequence[np.ndarray], used_G: Sequence[np.ndarray]) -> float | None:
    """Reward of episodes with a tool call minus that of episodes without, in the mean over the groups that have both.

    Within a group the task is the same, so that hard tasks, which call for tools and score low, do not blur the comparison. None if
    no group has both: across tasks the difference says which tasks are hard, not what calls are worth. `used_G` are booleans.
    """
    contrasts = [
        rewards[used].mean() - rewards[~used].mean()
        for rewards, used in zip(rewards_G, used_G, strict=True)
        if used.any() and not used.all()
    ]
    return float(np.mean(contrasts)) if contrasts else None
