"""`toolwise curate`: each question is put k times without tools and k times with them, and goes to the set that it is good for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from curation.plane import Plane, draw_plane
from curation.questions import DROPPED, SCHEMA, Questions, difference, row_of, written
from curation.report import Item, Report, words
from curation.selection import Destination, Reason, Thresholds, Tries, destination, is_hard
from envs.errors import ItemError, UsageError
from envs.runtime.atomic import write_file
from envs.runtime.progress import Progress
from rollout.collect import CollectConfig, Collector, tasks_of
from rollout.episode.environments import tool_names
from rollout.specs import variant
from rollout.types import Group, GroupSpec

WITH, WITHOUT = "with_tools", "without_tools"
_MOST_CELLS = 16


@dataclass
class CurateConfig(CollectConfig):
    """A pool of questions, the policy that is to be trained, and where the sets end."""

    group_size: int = 8
    """Answers to each question without tools, and as many with them."""

    thresholds: Thresholds = field(default_factory=Thresholds)

    ask_easy: bool = True
    """Also put questions with tools that are too easy without them. They are dropped either way, but the plane then shows whether
    tools help or harm there. false saves those episodes."""

    SPLIT: ClassVar[str] = "train"


@dataclass(frozen=True, slots=True)
class Curation:
    """What `curate` wrote: the report, and the groups without tools and with them, for a table of both."""

    report: Report
    without: list[Group]
    with_tools: list[Group]
    notes: list[str]


def curate(config: CurateConfig, policy_dir: str, progress: Progress) -> Curation:
    """Ask, decide, and write `rl.parquet`, `cold_start.parquet`, `dropped.parquet`, `plane.png`, `curation.json` and `curation.md`
    below `config.out`.

    `progress` shows how each part goes on. `policy_dir` is as for `rollout.collect.collect`. Raises UsageError for thresholds that
    are no shares and for tasks that have no tools or cannot say what they ask, and otherwise as `Collector`.
    """
    config.thresholds.check()
    tasks = tasks_of(config)
    tools = tool_names(*tasks)
    if not tools:
        raise UsageError(f"{config.tasks} has no tools, and questions are chosen by what tools add: write another tasks=")
    questions = Questions(tasks)
    try:
        with Collector(config, policy_dir) as collector:
            bare = variant(collector.specs, "without tools", without=list(tools))
            without = _collect(collector, WITHOUT, bare, progress)
            chosen = collector.specs if config.ask_easy else _hard(collector, without, config.thresholds)
            with_tools = _collect(collector, WITH, chosen, progress)
            notes, specs = collector.notes(), collector.specs
        items = _items(config, questions, specs, without, with_tools)
        report = Report(config, tools, tuple(_written(config, items, progress, len(specs))))
    finally:
        questions.close()
    out = Path(config.out)
    write_file(out / "plane.png", draw_plane(_plane(config, report.items)))
    write_file(out / "curation.json", report.to_json())
    write_file(out / "curation.md", report.to_markdown())
    return Curation(report, without, with_tools, notes)


def _collect(collector: Collector, name: str, specs: Sequence[GroupSpec], progress: Progress) -> list[Group]:
    with progress(name.replace("_", " "), sum(len(group.episodes) for group in specs)) as advance:
        return collector.collect(name, specs, advance)


def _hard(collector: Collector, without: Sequence[Group], thresholds: Thresholds) -> list[GroupSpec]:
    """The groups of questions that may be hard without tools, and those that were asked with tools before: with other thresholds
    or with ask_easy=true, in a command that this one goes on with."""
    begun = {episode.chains[0].group_id for episode in collector.store.read_unfinished(WITH)}
    pairs = zip(collector.specs, without, strict=True)
    return [spec for spec, group in pairs if spec.group_id in begun or is_hard(Tries.of(group.episodes), thresholds)]


def _items(
    config: CurateConfig, questions: Questions, specs: Sequence[GroupSpec], without: Sequence[Group], with_tools: Sequence[Group]
) -> Iterator[tuple[Item, dict[str, Any] | None]]:
    """Each question with its row, or None if it has none any more."""
    played = {group.group_id: group for group in with_tools}
    for place, (group, bare) in enumerate(zip(specs, without, strict=True)):
        spec, full = group.episodes[0], played.get(group.group_id)
        tries, tooled = Tries.of(bare.episodes), None if full is None else Tries.of(full.episodes)
        where, reason = destination(tries, tooled, config.thresholds)
        error = next((one.error for part in (bare, full) if part for one in part.episodes if one.error is not None), None)
        item = Item(group.group_id, (), "", tries, tooled, where, reason, error if reason in _WITH_ERROR else None)
        try:
            task_id, asked = questions.of(spec)
            row = row_of(asked, task_id, spec, config.tasks, place)
        except ItemError as failure:
            yield replace(item, destination=Destination.dropped, reason=Reason.unreadable, detail=str(failure)), None
            continue
        item = replace(item, task_id=task_id, abilities=asked.abilities, source=row["data_source"])
        if where is not Destination.dropped and (changed := difference(row, asked)) is not None:
            item = replace(item, destination=Destination.dropped, reason=Reason.unreadable, detail=changed)
        yield item, row | _measured(item)


_WITH_ERROR = (Reason.unplayed, Reason.failed)


def _measured(item: Item) -> dict[str, Any]:
    tooled = item.with_tools
    return {
        "pass_rate_without": item.without.rate,
        "pass_rate_with": None if tooled is None else tooled.rate,
        "num_without": item.without.answered,
        "num_with": 0 if tooled is None else tooled.answered,
        "tool_use": None if tooled is None else tooled.tool_use,
    }


def _written(
    config: CurateConfig, items: Iterable[tuple[Item, dict[str, Any] | None]], progress: Progress, count: int
) -> Iterator[Item]:
    """The items, as they are written to the file of their set."""
    with ExitStack() as files, progress("writing", count) as advance:
        rows = {place: files.enter_context(written(Path(config.out, f"{place}.parquet"), _schema(place))) for place in Destination}
        for number, (item, row) in enumerate(items, 1):
            if row is not None:
                reason = {"drop_reason": item.reason, "drop_detail": item.detail} if item.reason else {}
                rows[item.destination].add(row | reason)
            advance(number, "")
            yield item


def _schema(place: Destination) -> Any:
    return DROPPED if place is Destination.dropped else SCHEMA


def _plane(config: CurateConfig, items: Sequence[Item]) -> Plane:
    rates = [(item.without.rate, item.with_tools.rate if item.with_tools else None, item.destination) for item in items]
    points = [(low, high, str(place)) for low, high, place in rates if low is not None and high is not None]
    return Plane(
        points,
        {str(place): words(place) for place in Destination},
        min(config.group_size, _MOST_CELLS),
        f"{len(points):,} questions, {config.group_size} answers each way",
        "pass rate without tools",
        "pass rate with tools",
    )
