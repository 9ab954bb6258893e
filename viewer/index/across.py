"""Questions to an index that go across names: averages of a name, the tasks that two runs share, what tools do to a task.

Episodes that failed for lack of infrastructure are in no average.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from viewer.index.reading import first_place

NEEDS = {"needed": 1, "not_needed": 0}
EFFECTS = ("gained", "harmed", "either way", "never")
"""A task is right more often with tools (or their real outputs) than without, less often, equally often, or right in neither."""
COMPARE_SORTS = {
    "": lambda one: (-abs(_gap(one)), one.task_id),
    "difference": lambda one: (_gap(one), one.task_id),
    "-difference": lambda one: (-_gap(one), one.task_id),
}
_OF_ALL = "avg(calls) FILTER (WHERE NOT failed), avg(correct) FILTER (WHERE NOT failed)"


@dataclass(frozen=True, slots=True)
class Averages:
    """Of a name: numbers of episodes and groups, accuracy, calls per episode; by need (`NEEDS`) the accuracy and the share of
    episodes with a call. None is the mean of nothing."""

    episodes: int
    groups: int
    accuracy: float | None
    calls: float | None
    by_need: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True, slots=True)
class Side:
    """How a run met a task in one name."""

    name: str
    group_id: str
    episodes: int
    accuracy: float | None
    calls: float | None


@dataclass(frozen=True, slots=True)
class Shared:
    """A task that two runs met, with the place of an episode of it in the first one."""

    task_id: str
    place: int
    a: Side
    b: Side

    @property
    def difference(self) -> float | None:
        """The second run's accuracy minus the first one's."""
        return None if self.a.accuracy is None or self.b.accuracy is None else self.b.accuracy - self.a.accuracy


def averages(connection: sqlite3.Connection, first: int, last: int) -> Averages:
    """The averages of the names with keys from the `first` to the `last`."""
    parts = [
        f"avg(calls > 0) FILTER (WHERE NOT failed AND need = {need}), avg(correct) FILTER (WHERE NOT failed AND need = {need})"
        for need in NEEDS.values()
    ]
    select = f"SELECT count(*), count(DISTINCT grp), {_OF_ALL}, {', '.join(parts)} FROM facts WHERE place BETWEEN ? AND ?"
    episodes, groups, calls, accuracy, *of_need = connection.execute(select, (_range(first)[0], _range(last)[1])).fetchone()
    pairs = zip(of_need[::2], of_need[1::2], strict=True)
    by_need = {need: {"tool_use": use, "accuracy": right} for need, (use, right) in zip(NEEDS, pairs, strict=True)}
    return Averages(episodes, groups, accuracy, calls, by_need)


def met(connection: sqlite3.Connection, names: Mapping[int, str]) -> dict[str, tuple[int, Side]]:
    """Each task with the last of these names (by key, in order) in which it was met, and the place of its first episode there."""
    found: dict[str, tuple[int, Side]] = {}
    select = (
        "SELECT tasks.task_id, m.first, groups.group_id, m.n, m.calls, m.correct FROM (SELECT task, min(place) AS first, "
        "min(grp) AS grp, count(*) AS n, avg(calls) FILTER (WHERE NOT failed) AS calls, "
        "avg(correct) FILTER (WHERE NOT failed) AS correct FROM facts WHERE place BETWEEN ? AND ? GROUP BY task) AS m "
        "JOIN tasks ON tasks.id = m.task JOIN groups ON groups.id = m.grp"
    )
    for key, name in names.items():
        for task_id, first, group_id, episodes, calls, accuracy in connection.execute(select, _range(key)):
            found[task_id] = first, Side(name, group_id, episodes, accuracy, calls)
    return found


def shared_tasks(a: Mapping[str, tuple[int, Side]], b: Mapping[str, tuple[int, Side]]) -> list[Shared]:
    """The tasks that both met."""
    return [Shared(task_id, a[task_id][0], a[task_id][1], b[task_id][1]) for task_id in a.keys() & b.keys()]


def summary(shared: Sequence[Shared]) -> dict[str, Any]:
    """The means over the tasks that both runs were judged on, and for how many of them the second one is better, worse or equal."""
    judged = [(one, one.difference) for one in shared if one.difference is not None]
    gaps = [gap for _, gap in judged]
    sides = {side: [getattr(one, side) for one, _ in judged] for side in ("a", "b")}
    means = {
        side: {field: _mean([getattr(one, field) for one in of]) for field in ("accuracy", "calls")} for side, of in sides.items()
    }
    counts = {"better": sum(gap > 0 for gap in gaps), "worse": sum(gap < 0 for gap in gaps), "equal": gaps.count(0.0)}
    return {"judged": len(judged), **means, **counts}


def shared_json(one: Shared, question: str | None) -> dict[str, Any]:
    """A row of `/api/compare`."""
    sides = {"a": asdict(one.a), "b": asdict(one.b)}
    return {"task_id": one.task_id, "question": question, "difference": one.difference, **sides}


def effect_sql(full: int, changed: int, task_id: str | None = None) -> tuple[str, tuple[int | str, ...]]:
    """A query of columns `task` and `effect`, of which `EFFECTS` has the values: tasks of the name with the key `full`, which has
    tools and their outputs, and of `changed`, which lacks something; of one task if it is named."""
    right = "avg(correct) FILTER (WHERE NOT failed AND place BETWEEN ? AND ?)"
    gained, harmed, either, never = EFFECTS
    one = "" if task_id is None else "AND task = (SELECT id FROM tasks WHERE task_id = ?)"
    return (
        f"SELECT task, CASE WHEN w > o THEN '{gained}' WHEN w < o THEN '{harmed}' WHEN w > 0 THEN '{either}' ELSE '{never}' END "
        f"AS effect FROM (SELECT task, {right} AS w, {right} AS o FROM facts WHERE (place BETWEEN ? AND ? OR place BETWEEN ? AND ?)"
        f" {one} GROUP BY task) WHERE w IS NOT NULL AND o IS NOT NULL",
        (*(*_range(full), *_range(changed)) * 2, *(() if task_id is None else (task_id,))),
    )


def effects(connection: sqlite3.Connection, full: int, changed: int) -> dict[str, int]:
    """How many tasks each effect has."""
    sql, values = effect_sql(full, changed)
    found = dict(connection.execute(f"SELECT effect, count(*) FROM ({sql}) GROUP BY effect", values))
    return {effect: found[effect] for effect in EFFECTS if effect in found}


def effect_on(connection: sqlite3.Connection, full: int, changed: int, task_id: str) -> str | None:
    """The effect on one task; None if one of the two did not meet it."""
    sql, values = effect_sql(full, changed, task_id)
    found = connection.execute(f"SELECT effect FROM ({sql})", values).fetchone()
    return found[0] if found else None


def _range(key: int) -> tuple[int, int]:
    return first_place(key), first_place(key + 1) - 1


def _gap(one: Shared) -> float:
    return one.difference or 0.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
