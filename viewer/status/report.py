"""A run's standing as a page of text: its state, the view of `toolwise train`, what was measured, what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from evaluation.metric_lines import End
from viewer.status.figures import printable
from viewer.status.page import page, told_alarm, told_error
from viewer.status.reading import TAIL_BYTES, Standing, State

_MOST = 5


def told(standing: Standing, now: float) -> list[Text]:
    """The lines of the page; those with a reason may be long."""
    style = "bold" if standing.state.is_well else "bold red"
    lines = [Text.assemble(f"{printable(standing.run)}: ", (standing.state.value, style), f" · {standing.why}"), Text()]
    status = standing.status
    # How it ended stands in the line above; what it did then is of that moment.
    alive = standing.state in (State.starting, State.running)
    shown = {**status, "alarms": [], "errors": [], "state": standing.state.value if alive or status.get("doing") else None}
    lines += page(shown, now if alive else status.get("written", now))
    for title, entries in (
        ("measured on held-out tasks", [_told_record(record) for record in standing.evaluations]),
        ("alarms", [told_alarm(alarm) for alarm in status.get("alarms", [])[-_MOST:]]),
        ("last errors", [told_error(error) for error in status.get("errors", [])[-_MOST:]]),
    ):
        if entries:
            lines += [Text(), Text(f"{title}:", "bold"), *(Text(f"  {entry}") for entry in entries)]
    unread = [Text(standing.unread, "dim")] if standing.unread else []
    lines += [Text(), *unread, *_told_broken(standing.metrics())]
    return [*_without_gaps(lines), Text()]


def _told_broken(metrics: End) -> list[Text]:
    """A line about the lines of metrics.jsonl that are no records, if there are any."""
    parts = [f"{metrics.broken} {'line' if metrics.broken == 1 else 'lines'} unreadable"] if metrics.broken else []
    parts += ["the last line half-written"] if metrics.half else []
    where = "metrics.jsonl" if metrics.whole else f"the last {TAIL_BYTES >> 20} MiB of metrics.jsonl"
    return [Text(f"{where}: {', '.join(parts)}", "dim")] if parts else []


def _told_record(record: Mapping[str, Any]) -> str:
    label, episodes = printable(record["label"]), record["episodes"]
    if not isinstance(record["accuracy"], int | float):
        return f"{label}: no accuracy, of {episodes} episodes"
    low, high = record["ci95"] or (None, None)
    between = "" if low is None else f" ({low:.1%} to {high:.1%})"
    return f"{label:<14} {record['accuracy']:>6.1%}{between} of {episodes} episodes"


def _without_gaps(lines: list[Text]) -> list[Text]:
    """Without two empty lines in a row, or one at the end."""
    kept: list[Text] = []
    for line in lines:
        if line.plain or (kept and kept[-1].plain):
            kept.append(line)
    while kept and not kept[-1].plain:
        kept.pop()
    return kept
