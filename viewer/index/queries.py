"""Questions to an index: filters, lists of episodes and tasks, counts by kind."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from viewer.index.across import EFFECTS, effect_sql
from viewer.index.names import FULL
from viewer.index.reading import first_place

MOST_ROWS = 200
MOST_ITEM_ROWS = 2000
LONGEST_QUERY = 1000
NEEDS = {"needed": 1, "not_needed": 0, "unknown": -1}
SORTS = {"": "place", "reward": "reward, place", "-reward": "reward DESC, place", "calls": "calls, place"}
SORTS |= {"-calls": "calls DESC, place", "tokens": "tokens, place", "-tokens": "tokens DESC, place"}
_SETS = (("ability", "abilities", "abilities"), ("tool", "tools", "tools"), ("status", "statuses", "tool_statuses"))
_YES_NO = {"yes": 1, "no": 0}
QUESTION = 200
"""Characters of a question that lists show."""


class BadFilter(ValueError):
    """A filter has a value that it cannot have; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on `facts`."""

    sql: str
    values: tuple[Any, ...]
    searches: bool = False


def where(parameters: Mapping[str, str], keys: Mapping[str, int]) -> Where:
    """The condition of a request's filters. `keys` are those of the run's names. Raises BadFilter."""
    parts: list[str] = []
    values: list[Any] = []

    def add(sql: str, *given: Any) -> None:
        parts.append(sql)
        values.extend(given)

    def given(name: str) -> str:
        text = parameters.get(name, "")
        if len(text) > LONGEST_QUERY:
            raise BadFilter(f"{name} is longer than {LONGEST_QUERY} characters")
        if "\0" in text:
            raise BadFilter(f"{name} holds a null character")
        return text

    if names := [name for name in parameters.get("name", "").split(",") if name]:
        ranges = [(first_place(keys[name]), first_place(keys[name] + 1) - 1) for name in names if name in keys]
        add("(" + (" OR ".join(["place BETWEEN ? AND ?"] * len(ranges)) or "0") + ")", *(end for one in ranges for end in one))
    if group := given("group"):
        add("grp IN (SELECT id FROM groups WHERE group_id = ?)", group)
    if task := given("task"):
        add("task = (SELECT id FROM tasks WHERE task_id = ?)", task)
    for name, column, kind in _SETS:
        if value := given(name):
            held = "SELECT 1 FROM json_each(words.value) WHERE json_each.value = ?"
            add(f"{column} IN (SELECT id FROM words WHERE kind = '{kind}' AND EXISTS ({held}))", value)
    if stop := given("stop"):
        add("stop = (SELECT id FROM words WHERE kind = 'stop' AND value = ?)", stop)
    if need := given("need"):
        add("need = ?", _choice("need", need, NEEDS))
    if used := given("used"):
        add("(calls > 0) = ?", _choice("used", used, _YES_NO))
    if correct := given("correct"):
        add("correct = ?", _choice("correct", correct, _YES_NO))
    for name, sign in (("reward_min", ">="), ("reward_max", "<=")):
        if text := given(name):
            add(f"reward {sign} ?", _number(name, text))
    if effect := given("effect"):
        add(*_effect(effect, keys))
    if query := given("q"):
        sql, searched = _searched(query)
        add(sql, *searched)
    return Where(" AND ".join(parts) or "1", tuple(values), bool(query))


def page(parameters: Mapping[str, str]) -> tuple[int, int]:
    """`offset` and `limit` of a request. Raises BadFilter."""
    offset = int(_number("offset", parameters.get("offset") or "0"))
    limit = int(_number("limit", parameters.get("limit") or "50"))
    if not 0 <= offset < 1 << 40 or not 0 < limit <= MOST_ROWS:
        raise BadFilter(f"offset is at least 0 and limit 1 to {MOST_ROWS}")
    return offset, limit


def episodes(connection: sqlite3.Connection, chosen: Where, sort: str, offset: int, limit: int, names: Mapping[int, str]) -> Any:
    """`total`, and the rows of one page."""
    order = SORTS.get(sort)
    if order is None:
        raise BadFilter(f"sort is {', '.join(name for name in SORTS if name)} or nothing")
    select = f"SELECT place FROM facts WHERE {chosen.sql} ORDER BY {order}"
    if chosen.searches:  # once: finding takes longer than passing all that is found
        found = connection.execute(select, chosen.values).fetchall()
        total, shown = len(found), found[offset : offset + limit]
    else:
        (total,) = connection.execute(f"SELECT count(*) FROM facts WHERE {chosen.sql}", chosen.values).fetchone()
        shown = connection.execute(f"{select} LIMIT ? OFFSET ?", (*chosen.values, limit, offset)).fetchall()
    places = [place for (place,) in shown]
    return {"total": total, "rows": rows(connection, places, names)}


def rows(connection: sqlite3.Connection, places: Sequence[int], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """The rows of the episodes at these places, in this order."""
    marks = ", ".join("?" * len(places))
    found = dict(connection.execute(f"SELECT place, row FROM rows WHERE place IN ({marks})", places).fetchall())
    return [{"name": _name(place, names), **json.loads(found[place])} for place in places if place in found]


def tasks(connection: sqlite3.Connection, chosen: Where, sort: str, offset: int, limit: int, names: Mapping[int, str]) -> Any:
    """`total`, and one page of groups with the statistics of those of their episodes that are chosen and have an outcome."""
    orders = {"": "first", "reward": "reward", "-reward": "reward DESC", "calls": "calls", "-calls": "calls DESC"}
    orders |= {"tokens": "tokens", "-tokens": "tokens DESC"}
    if sort not in orders:
        raise BadFilter(f"sort is {', '.join(name for name in orders if name)} or nothing")
    sums = (
        "min(place) AS first, count(*) AS episodes, sum(failed) AS failed, avg(correct) FILTER (WHERE NOT failed) AS accuracy, "
        "avg(reward) FILTER (WHERE NOT failed) AS reward, avg(reward * reward) FILTER (WHERE NOT failed) AS reward2, "
        "avg(calls) FILTER (WHERE NOT failed) AS calls, avg(calls * calls) FILTER (WHERE NOT failed) AS calls2, "
        "avg(tokens) AS tokens"
    )
    (total,) = connection.execute(f"SELECT count(DISTINCT grp) FROM facts WHERE {chosen.sql}", chosen.values).fetchone()
    select = (
        f"SELECT g.*, groups.group_id, substr(questions.text, 1, {QUESTION}), rows.row FROM "
        f"(SELECT grp, {sums} FROM facts WHERE {chosen.sql} GROUP BY grp ORDER BY {orders[sort]}, first LIMIT ? OFFSET ?) AS g "
        "JOIN groups ON groups.id = g.grp LEFT JOIN questions ON questions.id = groups.question "
        "JOIN rows ON rows.place = g.first"
    )
    found = connection.execute(select, (*chosen.values, limit, offset)).fetchall()
    return {"total": total, "rows": [_task(row, names) for row in found]}


def _task(row: Sequence[Any], names: Mapping[int, str]) -> dict[str, Any]:
    _, first, count, failed, accuracy, reward, reward2, calls, calls2, tokens, group_id, question, shown = row
    episode = json.loads(shown)
    return {
        "name": _name(first, names),
        "group_id": group_id,
        "task_id": episode["task_id"],
        "abilities": episode["abilities"],
        "needed_tools": episode["needed_tools"],
        "needs_tool": episode["needs_tool"],
        "episodes": count,
        "failed": failed,
        "accuracy": accuracy,
        "reward": {"mean": reward, "std": None if reward is None else max(0.0, reward2 - reward * reward) ** 0.5},
        "calls": {"mean": calls, "var": None if calls is None else max(0.0, calls2 - calls * calls)},
        "tokens": tokens,
        "question": question,
    }


def places(connection: sqlite3.Connection, chosen: Where, episode_id: str | None = None) -> list[int]:
    """The places of the chosen episodes, or of those of them with this id, in order of play."""
    select, values = f"SELECT place FROM facts WHERE {chosen.sql}", chosen.values
    if episode_id is not None:
        select, values = f"{select} AND place IN (SELECT place FROM rows WHERE episode_id = ?)", (*values, episode_id)
    return [place for (place,) in connection.execute(f"{select} ORDER BY place", values)]


def lines_of(connection: sqlite3.Connection, place: int) -> tuple[str, int, int, str]:
    """File, offset, length in bytes and episode id of an episode's lines. Raises LookupError."""
    select = "SELECT file, offset, length, episode_id FROM rows WHERE place = ?"
    if (found := connection.execute(select, (place,)).fetchone()) is None:
        raise LookupError("the episode is being read anew: ask again")
    return found


def question(connection: sqlite3.Connection, place: int) -> str | None:
    """The question of an episode; None if its tokens could not be read."""
    select = "SELECT text FROM questions JOIN facts ON facts.question = questions.id WHERE place = ?"
    found = connection.execute(select, (place,)).fetchone()
    return found[0] if found else None


def group_of(connection: sqlite3.Connection, place: int) -> list[dict[str, Any]]:
    """The rows of the episodes of this one's group that have an outcome."""
    select = (
        "SELECT rows.row FROM facts JOIN rows ON rows.place = facts.place "
        "WHERE grp = (SELECT grp FROM facts WHERE place = ?) AND NOT failed ORDER BY facts.place"
    )
    return [json.loads(row) for (row,) in connection.execute(select, (place,))]


def facets(connection: sqlite3.Connection, chosen: Where) -> dict[str, dict[str, int]]:
    """How many of the chosen episodes have each ability, tool, status of a call, way to end and need."""
    select = (
        f"SELECT abilities, tools, statuses, stop, need, correct, count(*) FROM facts WHERE {chosen.sql} GROUP BY 1, 2, 3, 4, 5, 6"
    )
    found = connection.execute(select, chosen.values).fetchall()
    words = dict(connection.execute("SELECT id, value FROM words"))
    kinds = ("abilities", "tools", "statuses", "stops", "need", "correct")
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    called = {number: name for name, number in NEEDS.items()}
    for *sets, stop, need, correct, count in found:
        for kind, number in zip(kinds, sets, strict=False):
            for value in json.loads(words[number]):
                counts[kind][value] += count
        counts["stops"][words[stop]] += count
        counts["need"][called[need]] += count
        counts["correct"]["yes" if correct else "no"] += count
    return {kind: dict(sorted(counter.items())) for kind, counter in counts.items()}


def _name(place: int, names: Mapping[int, str]) -> str:
    return names.get(place // first_place(1), "")


def _searched(query: str) -> tuple[str, tuple[Any, ...]]:
    """Episodes in whose texts, or in whose question, the query stands, whatever the case of its letters."""
    matched, values = "?", (_phrase(query),)
    if len(query) < 3:  # the index knows pieces of three characters: those that begin with the query
        if len(query) == 1 and query.isascii() and query.isalnum():
            raise BadFilter("q is at least two characters, or one that is no Latin letter or digit")
        quoted = """'"' || replace(term, '"', '""') || '"'"""
        matched = f"(SELECT coalesce(group_concat({quoted}, ' OR '), '\"\"') FROM {{pieces}} WHERE term >= ? AND term < ?)"
        folded = query.lower()
        values = folded, folded + "\U0010ffff"
    found, asked = (
        f"SELECT rowid FROM {table} WHERE {table} MATCH {matched.format(pieces=pieces)}"
        for table, pieces in (("texts", "text_pieces"), ("question_texts", "question_pieces"))
    )
    chains = f"place IN (SELECT episode FROM chains WHERE chains.place IN ({found}))"
    return f"(place IN ({found}) OR question IN ({asked}) OR {chains})", values * 3


def _effect(text: str, keys: Mapping[str, int]) -> tuple[Any, ...]:
    """Tasks with this effect of what a name lacks: the name and the effect, as in "without_tools:gained"."""
    name, _, effect = text.rpartition(":")
    if name not in keys or FULL not in keys or effect not in EFFECTS:
        raise BadFilter(f"effect is a name that lacks something and one of {', '.join(EFFECTS)}, as in without_tools:{EFFECTS[0]}")
    sql, values = effect_sql(keys[FULL], keys[name])
    return (f"task IN (SELECT task FROM ({sql}) WHERE effect = ?)", *values, effect)


def _phrase(text: str) -> str:
    """A text as FTS5 takes it: as it stands, no word of it an operator."""
    return '"' + text.replace('"', '""') + '"'


def _choice(name: str, text: str, choices: Mapping[str, int]) -> int:
    if text not in choices:
        raise BadFilter(f"{name} is {' or '.join(choices)}")
    return choices[text]


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadFilter(f"{name} is a number") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise BadFilter(f"{name} is a number")
    return value
