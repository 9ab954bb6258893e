"""What `toolwise curate` says of a pool of questions: how many are in which set, by ability and source, and why others are not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from rich.table import Table

from curation.selection import MEANINGS, Destination, Reason, Tries
from curation.settings import CurateConfig

_MOST_NAMED = 20
_FAILURE = 0.1
_COLUMNS = ("set", "questions", "share", "right without", "right with", "uses a tool")


@dataclass(frozen=True, slots=True)
class Item:
    """One question: what it is, how it was answered, and where it went. `with_tools` is None if it was not asked so; `detail` says
    what was wrong with it, if something was."""

    task_id: str
    abilities: tuple[str, ...]
    source: str
    without: Tries
    with_tools: Tries | None
    destination: Destination
    reason: Reason | None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All questions of a pool, in order."""

    config: CurateConfig
    tools: tuple[str, ...]
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_reliable(self) -> bool:
        """Whether at most a tenth of the answers have no outcome."""
        tries = [one for item in self.items for one in (item.without, item.with_tools) if one is not None]
        missing = sum(sum(one.missing.values()) for one in tries)
        return missing <= _FAILURE * (missing + sum(one.answered for one in tries))

    def count(self, place: Destination) -> int:
        """How many questions went to a set."""
        return sum(item.destination is place for item in self.items)

    def reasons(self) -> Counter[Reason]:
        """How many questions were dropped, by the reason."""
        return Counter(item.reason for item in self.items if item.reason is not None)

    def to_json(self) -> str:
        """The content of `curation.json`."""
        config = self.config
        record = {
            "policy": config.policy,
            "tasks": config.tasks,
            "options": dict(config.options),
            "tools": list(self.tools),
            "seed": config.seed,
            "temperature": config.temperature,
            "samples": config.group_size,
            "thresholds": asdict(config.thresholds),
            "toolwise": version("toolwise"),
            "questions": len(self.items),
            "sets": {str(place): self.count(place) for place in Destination},
            "dropped_by_reason": {str(reason): count for reason, count in self.reasons().most_common()},
            "not_asked_with_tools": sum(item.with_tools is None for item in self.items),
            "answers": {
                "without_tools": _answers(item.without for item in self.items),
                "with_tools": _answers(item.with_tools for item in self.items if item.with_tools is not None),
            },
            "by_ability": _table(self._by(lambda item: item.abilities)),
            "notes": list(self.notes),
            "by_source": _table(self._by(lambda item: (item.source,))),
            "problems": [{"task": item.task_id, "reason": item.reason, "detail": item.detail} for item in self._problems()],
        }
        return json.dumps(record, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """The content of `curation.md`."""
        config, total = self.config, len(self.items)
        lines = [
            f"# {total:,} questions of {config.tasks}, put to {config.policy}",
            "",
            f"{config.group_size} answers to each without tools and {config.group_size} with them ({', '.join(self.tools)}), at "
            f"temperature {config.temperature:g}.",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"| {' | '.join('---' for _ in _COLUMNS)} |",
            *(f"| {' | '.join(self._row(place))} |" for place in Destination),
            "",
            "![pass rate without tools and with them](plane.png)",
            "",
        ]
        if reasons := self.reasons():
            lines += ["| dropped because | questions |", "| --- | --- |"]
            lines += [f"| {MEANINGS[reason]} | {count:,} |" for reason, count in reasons.most_common()] + [""]
        for name, rows in (("ability", self._by(lambda item: item.abilities)), ("source", self._by(lambda item: (item.source,)))):
            lines += [f"| {name} | RL | cold start | dropped |", "| --- | --- | --- | --- |"]
            for row, counts in rows.items():
                sets = " | ".join(f"{counts[place]:,}" for place in (Destination.rl, Destination.cold_start, Destination.dropped))
                lines.append(f"| {_cell(row)} | {sets} |")
            lines.append("")
        lines += self._gaps()
        return "\n".join(lines).rstrip() + "\n"

    def table(self) -> Table:
        """The sets in rows."""
        result = Table(title="The pool", title_justify="left")
        for name in _COLUMNS:
            result.add_column(name, justify="left" if name == "set" else "right")
        for place in Destination:
            result.add_row(*self._row(place))
        return result

    def warnings(self) -> list[str]:
        """A line for each thing that makes the sets poorer than the pool."""
        reasons = self.reasons()
        troubled = [(reason, reasons[reason]) for reason in _TROUBLE if reasons[reason]]
        first = {item.reason: item for item in reversed(self.items) if item.detail is not None}
        lines = [f"warning: {count} questions were dropped: {MEANINGS[reason]}" for reason, count in troubled]
        for place, (reason, _) in enumerate(troubled):
            if (named := first.get(reason)) is not None:
                lines[place] += f" (the first: {named.task_id}: {named.detail})"
        if (habit := self._habit()) > _FAILURE:
            lines.append(
                f"note: {habit:.0%} of the answers without tools tried to call one, which makes questions look harder than they "
                "are: curate with the policy as it is before it learns to call"
            )
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"note: {place}.parquet is empty" for place in (Destination.rl, Destination.cold_start) if not self.count(place)]
        return lines

    def _row(self, place: Destination) -> tuple[str, ...]:
        chosen = [item for item in self.items if item.destination is place]
        without, tooled = [item.without for item in chosen], [item.with_tools for item in chosen if item.with_tools]
        share = f"{100 * len(chosen) / max(1, len(self.items)):.1f} %"
        rates = (_mean(without, "right"), _mean(tooled, "right"), _mean(tooled, "calling"))
        return words(place), f"{len(chosen):,}", share, *rates

    def _habit(self) -> float:
        """The share of the answers without tools that tried to call one all the same."""
        answered = sum(item.without.answered for item in self.items)
        return sum(item.without.calling for item in self.items) / answered if answered else 0.0

    def _by(self, names: Callable[[Item], Iterable[str]]) -> dict[str, Counter[Destination]]:
        """How many questions went where, by names, of which a question may have several."""
        found: dict[str, Counter[Destination]] = {}
        for item in self.items:
            for name in names(item) or ("unknown",):
                found.setdefault(name or "unknown", Counter())[item.destination] += 1
        return dict(sorted(found.items()))

    def _problems(self) -> list[Item]:
        return [item for item in self.items if item.detail is not None][:_MOST_NAMED]

    def _gaps(self) -> list[str]:
        """What is missing from the figures."""
        unasked = sum(item.with_tools is None for item in self.items)
        lines = [f"Of the answers without tools {self._habit():.1%} tried to call one all the same.", ""] if self._habit() else []
        lines += [f"{unasked:,} questions were too easy to be asked with tools (ask_easy=false).", ""] if unasked else []
        for name, tries in (
            ("without tools", [item.without for item in self.items]),
            ("with tools", [item.with_tools for item in self.items if item.with_tools]),
        ):
            missing = _answers(tries)
            gaps = [f"{count:,} {word}" for word, count in missing.items() if count and word not in ("answered", "right")]
            lines += [f"Answers {name} that have no outcome: {', '.join(gaps)}.", ""] if gaps else []
        if named := self._problems():
            lines += ["| question | trouble |", "| --- | --- |", *(f"| {one.task_id} | {_cell(one.detail)} |" for one in named)]
        return lines


_TROUBLE = (Reason.unplayed, Reason.unjudged, Reason.failed, Reason.unreadable)


def words(place: Destination) -> str:
    """A set in words."""
    return {Destination.rl: "RL", Destination.cold_start: "cold start", Destination.dropped: "dropped"}[place]


def _answers(tries: Iterable[Tries]) -> dict[str, int]:
    """How many answers have an outcome, how many of those are right, and how many are missing by the reason."""
    found: Counter[str] = Counter()
    for one in tries:
        found.update({"answered": one.answered, "right": one.right} | {str(reason): n for reason, n in one.missing.items()})
    return {name: found[name] for name in ("answered", "right", *sorted(found.keys() - {"answered", "right"}))}


def _table(rows: Mapping[str, Counter[Destination]]) -> dict[str, dict[str, int]]:
    return {name: {str(place): counts[place] for place in Destination} for name, counts in rows.items()}


def _mean(tries: Iterable[Tries], what: str) -> str:
    """A share over all answers of some questions."""
    chosen = list(tries)
    answered = sum(one.answered for one in chosen)
    return f"{100 * sum(getattr(one, what) for one in chosen) / answered:.1f} %" if answered else "–"


def _cell(text: Any) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
