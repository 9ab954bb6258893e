"""A run's `status.json` as a few lines of text of a steady height."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.text import Text

from viewer.status.figures import ASCII_BLOCKS, BLOCKS, bar, clock, duration, elapsed, printable, sparkline

WIDTH = 79
"""No line is longer: one that a narrower window broke in two could not be drawn over."""

_LABEL = 15
_SPARK = 40
_BAR = 24


def _percent(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def _number(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f}"


class _Row(NamedTuple):
    label: str
    metric: str
    shown: Callable[[float], str]
    beside: str | None = None


ROWS = (
    _Row("loss", "train/loss", _number(3)),
    _Row("reward", "critic/score/mean", _number(3)),
    _Row("accuracy", "reward/accuracy", _percent),
    _Row("calls / episode", "tools/calls_per_episode/mean", _number(2), "tools/calls_per_episode/var"),
    _Row("used if needed", "by_need/needed/tool_use", _percent),
    _Row("if not needed", "by_need/not_needed/tool_use", _percent),
)
"""The curves, by the metrics that they show; `beside` is a variance."""

_ALIVE = ("starting", "running")
_PER_EPISODE = ("generate", "tool")


class Look(NamedTuple):
    """How a page is drawn: how many characters wide, and whether with ASCII alone."""

    width: int = WIDTH
    ascii_only: bool = False


def page(status: Mapping[str, Any], now: float, look: Look = Look()) -> list[Text]:  # noqa: B008  it is immutable
    """Stage and pace, curves, timing, workers, the newest alarm and the newest error. `status` is that of a `RunStatus`, or as
    much of it as is known."""
    lines = [*_stage(status, now, look), Text(), *_curves(status, look), *_timing(status), *_workers(status), *_troubles(status)]
    return [_cut(line, look) for line in lines]


def _stage(status: Mapping[str, Any], now: float, look: Look) -> list[Text]:
    """Three lines while the run goes on, whatever it does."""
    stage, state = status.get("stage"), status.get("state")
    lines: list[Text] = []
    if stage:
        step, of = stage.get("step"), stage.get("of") or 0
        head = Text.assemble((printable(stage["name"]), "bold"), f"  {'?' if step is None else step} of {of}  ")
        if step is not None and of:
            head.append(bar(step / of, _BAR, *(("=", "-") if look.ascii_only else ())), "cyan")
            head.append(f"  {step / of:.0%}")
        lines = [head, Text(_pace(status, stage, now), "dim")]
    elif state in _ALIVE:
        lines = [Text("starting" if state == "starting" else "between stages", "bold"), _since(status, now)]
    doing = " · ".join(_doing(status, now))
    if state in _ALIVE:
        lines.append(Text(f"now: {doing or '…'}"))
    elif state is not None:
        after = f" after {elapsed(status['written'] - status['began'])}" if "began" in status else ""
        lines.append(Text.assemble((state, "bold"), after, f", in: {doing}" if doing else ""))
    return lines


def _since(status: Mapping[str, Any], now: float) -> Text:
    return Text(f"{elapsed(now - status['began'])} so far" if "began" in status else "", "dim")


def _doing(status: Mapping[str, Any], now: float) -> list[str]:
    parts = []
    if doing := status.get("doing"):
        parts.append(f"{printable(doing['what'])} for {elapsed(now - doing['began'])}")
    if episodes := status.get("episodes"):
        counts = f"{episodes['finished']} of {episodes['of']} episodes ended"
        parts.append(f"{counts}, {episodes['running']} running, {episodes['waiting']} waiting")
    if status.get("state") == "starting" and not parts:
        parts.append("workers, sandboxes and learner start")
    return parts


def _pace(status: Mapping[str, Any], stage: Mapping[str, Any], now: float) -> str:
    parts = [f"{elapsed(now - stage['began'])} so far"] if stage.get("began") else []
    if (seconds := status.get("timing_s", {}).get("step")) is not None:
        parts.insert(0, f"{duration(seconds)} a step")
    if (left := stage.get("seconds_left")) is not None:
        parts.append(f"about {elapsed(left)} to go" if left else "nearly done")
    return " · ".join(parts)


def _curves(status: Mapping[str, Any], look: Look) -> list[Text]:
    curves, metrics, earlier = (status.get(name, {}) for name in ("curves", "metrics", "earlier"))
    lines = []
    for row in ROWS:
        if not curves.get(row.metric):
            continue
        width = max(8, min(_SPARK, look.width - _LABEL - 20))
        line = Text(f"{row.label:<{_LABEL}} ", "dim")
        drawn = sparkline(curves[row.metric], width, ASCII_BLOCKS if look.ascii_only else BLOCKS)
        line.append(f"{drawn:<{width}}", "cyan")
        if row.metric in metrics:
            line.append(f"  {row.shown(metrics[row.metric]):>7}", "bold")
        elif row.metric in earlier:  # the last step has no such value; a curve's numbers may be means
            line.append(f"  {row.shown(earlier[row.metric]):>7}", "bold").append("  earlier", "dim")
        if row.beside in metrics:
            line.append(f"  var {row.shown(metrics[row.beside])}", "dim")
        lines.append(line)
    return [*lines, Text()] if lines else []


def _timing(status: Mapping[str, Any]) -> list[Text]:
    timing = {name: value for name, value in status.get("timing_s", {}).items() if math.isfinite(value)}
    parts = sorted((name for name in timing if name not in ("step", *_PER_EPISODE)), key=lambda name: -timing[name])
    if not parts:
        return []
    text = " · ".join(f"{printable(name)} {duration(timing[name])}" for name in parts)
    lines = [_labelled("last step", text)]
    if each := " · ".join(f"{name} {duration(timing[name])}" for name in _PER_EPISODE if name in timing):
        lines.append(_labelled("an episode", each))
    return lines


def _workers(status: Mapping[str, Any]) -> list[Text]:
    parts = []
    if workers := status.get("workers"):
        parts = [f"{workers['ready']} of {workers['wanted']} ready", f"{workers['replaced']} replaced"]
        parts.append(f"{status.get('failures', {}).get('episode', 0)} attempts failed")
    if "policy_version" in status:
        parts.append(f"policy {status['policy_version']}")
    lines = [_labelled("workers", " · ".join(parts))] if parts else []
    if counts := status.get("sandboxes"):
        parts = [
            f"{counts['open']} open",
            f"{counts['free']} free",
            f"{counts['waiting']} waiting",
            f"{counts['restarts']} restarts",
        ]
        if counts["answered"] < counts["pools"]:
            parts.append(f"{counts['answered']} of {counts['pools']} answer")
        lines.append(_labelled("sandboxes", " · ".join(parts)))
    if staleness := status.get("staleness"):
        lines.append(_labelled("staleness", " · ".join(f"{printable(name)} {value:.3g}" for name, value in staleness.items())))
    return lines


def _troubles(status: Mapping[str, Any]) -> list[Text]:
    lines = []
    if alarms := status.get("alarms"):
        lines.append(_labelled("alarm", told_alarm(alarms[-1]), "red"))
    if errors := status.get("errors"):
        lines.append(_labelled("last error", told_error(errors[-1]), "yellow"))
    return lines


def told_alarm(alarm: Mapping[str, Any]) -> str:
    """An alarm in one line."""
    return f"{clock(alarm['time'])} {printable(alarm['text'])}"


def told_error(error: Mapping[str, Any]) -> str:
    """A failure in one line."""
    times = f" {error['times']} times" if error.get("times", 1) > 1 else ""
    return f"{clock(error['time'])}{times} {'an attempt: ' if error['kind'] == 'episode' else ''}{printable(error['reason'])}"


def _labelled(label: str, text: str, style: str = "") -> Text:
    return Text.assemble((f"{label:<{_LABEL}} ", "dim"), (text, style))


def _cut(line: Text, look: Look) -> Text:
    line.truncate(min(look.width, WIDTH), overflow="crop" if look.ascii_only else "ellipsis")
    line.no_wrap = True
    return line


def joined(lines: Sequence[Text]) -> Text:
    """Lines as one text."""
    return Text("\n", no_wrap=True).join(lines)
