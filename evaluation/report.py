"""What a person reads of records: the table of a command, `evaluation.md`, and warnings about episodes that are not in them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from evaluation.types import EvaluationRecord, Results

_WARNING, _FAILURE = 0.01, 0.1
_NEEDS = {
    "needed": ("  accuracy if a tool is needed", "  used a tool if one is needed"),
    "not_needed": ("  accuracy if none is needed", "  used a tool if none is needed"),
}
_REALX = ("perception", "reasoning", "search", "integration")  # in RealX-Bench's order


def markdown(records: Sequence[EvaluationRecord]) -> str:
    """RealX-Bench's form: a row for each record, the accuracy in percent on all tasks and by ability, and calls per episode."""
    present = {ability for record in records for ability in record.by_ability}
    abilities = [*(name for name in _REALX if name in present), *sorted(present - set(_REALX))]
    header = ["", "all", *abilities, "calls per episode", "episodes", "not played", "not judged", "left out"]
    rows = []
    for record in records:
        parts = [record, *(record.by_ability.get(ability) for ability in abilities)]
        calls = f"{record.calls_per_episode.mean:.2f}"
        counts = map(str, (record.episodes, record.unplayed, record.unjudged, record.left_out))
        rows.append([record.label, *map(_accuracy_text, parts), calls, *counts])
    lines = [header, ["---"] * len(header), *rows]
    text = table_lines(lines)
    named = [f"- {record.label}: {record.tasks}\n" for record in records if "protocol" in record.settings]
    named += [f"- {line}\n" for record in records for line in _named(record)]
    warned = [f"{line}\n" for line in warnings(records)]
    return text + "".join([*(["\n"] if warned else []), *warned, *(["\n"] if named else []), *named])


def table_lines(lines: Sequence[Sequence[str]]) -> str:
    """The rows of a table in Markdown; a bar within a cell would end it, and is escaped."""
    return "".join(f"| {' | '.join(cell.replace('|', '\\|') for cell in line)} |\n" for line in lines)


def _named(record: EvaluationRecord) -> list[str]:
    """The tasks that are left out or were not played, with the reasons, as far as the record names them."""
    more = record.left_out + record.unplayed - len(record.problems)
    named = [f"{record.label}: {problem.task}: {problem.reason}" for problem in record.problems]
    return [*named, *([f"{record.label}: and {more} more"] if more else [])]


def warnings(records: Sequence[EvaluationRecord]) -> list[str]:
    """A line for each record of which more than 1 % of the episodes are left out, were not played or not judged."""
    lines = []
    for record in records:
        if record.problem_share > _WARNING:
            parts = [
                f"{record.left_out} are left out, since they failed for infrastructure reasons" if record.left_out else "",
                f"{record.unplayed} could not be put to the policy and count as wrong" if record.unplayed else "",
                f"{record.unjudged} got no verdict of the judge and count as wrong" if record.unjudged else "",
            ]
            first = record.problems[0] if record.problems else None
            example = f" ({first.task}: {first.reason})" if first else ""
            told = "; ".join(part for part in parts if part)
            lines.append(f"warning: {record.label}: of {record.dispatched} episodes, {told}{example}")
    return lines


def is_reliable(records: Sequence[EvaluationRecord]) -> bool:
    """Whether no record has more than 10 % of its episodes left out, not played or not judged."""
    return all(record.problem_share <= _FAILURE for record in records)


def table(records: Sequence[EvaluationRecord]) -> Table:
    """The records side by side, a column each: all tasks together, then each ability. If no record knows of a task whether it needs
    a tool, there are no rows by need."""
    named = dict.fromkeys(record.tasks for record in records if "protocol" in record.settings)
    result = Table(title=", ".join(named) or "Held-out tasks", title_justify="left")
    result.add_column("")
    for record in records:
        of = f" of {record.dispatched}" if record.left_out else ""
        result.add_column(f"{record.label}\n({record.episodes}{of} episodes)", justify="right")
    abilities = sorted({ability for record in records for ability in record.by_ability})
    # The only ability of all tasks would say all once more.
    everywhere = all({part.episodes for part in record.by_ability.values()} == {record.episodes} for record in records)
    everything = f"all ({abilities.pop()})" if len(abilities) == 1 and everywhere else "all"
    for ability in (None, *abilities):
        parts = [record if ability is None else record.by_ability.get(ability) for record in records]
        result.add_section()
        # A number that is the same everywhere stands once, so that four records fit into 132 columns.
        counts = {part.episodes for part in parts if part is not None} if ability else set()
        same = f" ({counts.pop()} episodes)" if len(counts) == 1 else ""
        accuracies = (_accuracy_text(part, counted=bool(counts)) for part in parts)
        result.add_row(f"[bold]{ability or everything}[/bold]{same}: accuracy (95 %)", *accuracies)
        known = {need: names for need, names in _NEEDS.items() if any(part and need in part.by_need for part in parts)}
        for need, (name, _) in known.items():
            result.add_row(name, *(_by_need_text(part, need, "accuracy") for part in parts))
        result.add_row("  calls per episode: mean (variance)", *map(_calls_text, parts))
        for need, (_, name) in known.items():
            result.add_row(name, *(_by_need_text(part, need, "tool_use") for part in parts))
    if any(record.unplayed or record.left_out or record.unjudged for record in records):
        result.add_section()
        result.add_row("not played: counted as wrong", *(str(record.unplayed) for record in records))
        result.add_row("no verdict of the judge: counted as wrong", *(str(record.unjudged) for record in records))
        result.add_row("left out: infrastructure failed", *(str(record.left_out) for record in records))
    return result


def _accuracy_text(results: Results | None, counted: bool = False) -> str:
    if results is None:
        return "–"
    low, high = results.ci95
    return f"{100 * results.accuracy:.1f} % ({100 * low:.1f}–{100 * high:.1f})" + (f" of {results.episodes}" if counted else "")


def _calls_text(results: Results | None) -> str:
    return "–" if results is None else f"{results.calls_per_episode.mean:.2f} ({results.calls_per_episode.var:.2f})"


def _by_need_text(results: Results | None, need: str, field: str) -> str:
    part = None if results is None else results.by_need.get(need)
    return "–" if part is None else f"{100 * getattr(part, field):.1f} % of {part.episodes}"
