"""`toolwise curate`: each question is put k times without tools and k times with them, and goes to the set that it is good for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from curation.plane import Plane, draw_plane
from curation.questions import DROPPED, SCHEMA, Questions, difference, row_of, written
from curation.report import Item, Report, words
from curation.selection import Destination, Reason, Tries, destination, is_hard
from curation.settings import CurateConfig
from envs.errors import ItemError, UsageError
from envs.runtime.atomic import write_file
from envs.runtime.progress import Advance, Progress
from rollout.collect import Collector, tasks_of
from rollout.episode.environments import tool_names
from rollout.specs import variant
from rollout.types import GroupSpec

QUESTIONS_AT_A_TIME = 256
_MOST_CELLS = 16


def curate(config: CurateConfig, policy_dir: str, progress: Progress) -> Report:
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
            specs, answers = collector.specs, _answers(config, collector, tools, progress)
            notes = tuple(collector.notes())
        items = _items(config, questions, specs, answers)
        report = Report(config, tools, tuple(_written(config, items, progress, len(specs))), notes)
    finally:
        questions.close()
    out = Path(config.out)
    write_file(out / "plane.png", draw_plane(_plane(config, report.items)))
    write_file(out / "curation.json", report.to_json())
    write_file(out / "curation.md", report.to_markdown())
    return report


Answers = tuple[Tries, Tries | None]
"""How a question was answered without tools, and with them if it was asked so."""


def _answers(config: CurateConfig, collector: Collector, tools: Sequence[str], progress: Progress) -> list[Answers]:
    """How each question was answered, in order. A pool's answers do not fit into memory: they are counted part by part."""
    found: list[Answers] = []
    size = 2 * config.group_size
    with progress("answers", size * len(collector.specs)) as advance:
        for begin in range(0, len(collector.specs), QUESTIONS_AT_A_TIME):
            part = collector.specs[begin : begin + QUESTIONS_AT_A_TIME]
            name = f"answers_{begin // QUESTIONS_AT_A_TIME:05d}"
            found += _part(config, collector, tools, name, part, partial(_counted, advance, size * begin))
            advance(size * len(found), "")
    return found


def _part(
    config: CurateConfig, collector: Collector, tools: Sequence[str], name: str, specs: Sequence[GroupSpec], advance: Advance
) -> list[Answers]:
    """The answers to some of the questions, kept as `trajectories/<name>`."""
    bare = variant(specs, "without tools", without=tools)
    asked = specs
    if not config.ask_easy:
        without = collector.collect(name, bare, advance, keep_others=True)
        hard = {
            spec.group_id
            for spec, group in zip(specs, without, strict=True)
            if is_hard(Tries.of(group.episodes), config.thresholds)
        }
        # Those that were asked with tools before stay: by the command that this one goes on with, with other settings.
        begun = {trajectory.group_id for trajectory in collector.store.trajectories(name)}
        asked = [spec for spec in specs if spec.group_id in hard | begun]
    groups = {group.group_id: Tries.of(group.episodes) for group in collector.collect(name, [*bare, *asked], advance)}
    return [(groups[one.group_id], groups.get(spec.group_id)) for one, spec in zip(bare, specs, strict=True)]


def _counted(advance: Advance, before: int, done: int, text: str) -> None:
    advance(before + done, text)


def _items(
    config: CurateConfig, questions: Questions, specs: Sequence[GroupSpec], answers: Sequence[Answers]
) -> Iterator[tuple[Item, dict[str, Any] | None]]:
    """Each question with its row, or None if it has none any more."""
    for place, (group, (without, tooled)) in enumerate(zip(specs, answers, strict=True)):
        where, reason = destination(without, tooled, config.thresholds)
        error = next((tries.error for tries in (without, tooled) if tries and tries.error), None)
        item = Item(group.group_id, (), "", without, tooled, where, reason, error if reason in _WITH_ERROR else None)
        try:
            task_id, asked = questions.of(group.episodes[0])
            row = row_of(asked, task_id, group.episodes[0], config.tasks, place)
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
