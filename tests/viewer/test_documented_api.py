"""docs/viewer.md names every route of the server with what it answers."""

import re
from pathlib import Path

import pytest
from shown import PIXEL, group

from viewer.index.queries import SORTS

PAGE = (Path(__file__).parents[2] / "docs/viewer.md").read_text()
SHA = "a" * 64
ROUTES = dict(re.findall(r"^\| `(/api/\S+)` \|.*\|(.*)\|$", PAGE, re.MULTILINE))
"""The routes and what they answer, as the page has it."""
PLACES = {"R": "demo", "G": "a", "E": "a-1", "T": "task-a", "SHA": SHA}
QUERY = {"/api/compare": {"a": "demo", "b": "demo"}, "/api/runs/R/episodes/E": {"tokens": "1"}}


@pytest.fixture
def shown(write_run, show):
    shown = show(write_run("demo", rl_000000=group("a", [0, 1], images=(SHA,)), episodes=group("b", [1])))
    shown.settled()
    return shown


def test_every_route_is_documented(shown):
    answered = {route.path for route in shown.client.app._app.routes if route.path.startswith("/api/")}
    filled = {"run": "R", "group:path": "G", "episode:path": "E", "task:path": "T", "sha": "SHA"}
    assert {re.sub(r"\{(.*?)\}", lambda name: filled[name[1]], path) for path in answered} == ROUTES.keys()


@pytest.mark.parametrize("path", [path for path in ROUTES if not path.endswith("SHA")])
def test_an_answer_has_the_fields_that_the_page_names(shown, path):
    place = re.sub(r"(?<=/)(R|G|E|T)\b", lambda letter: PLACES[letter[1]], path)
    answer = shown.get(place.removeprefix("/api/"), **QUERY.get(path, {}))
    known = {*answer, *(key for part in answer.values() for one in _parts(part) for key in one)}
    named = set(re.findall(r"`(\w+)`", ROUTES[path]))
    assert named <= known, f"{path} has {sorted(known)}"
    assert named & answer.keys()


def _parts(value):
    """The objects that a field holds."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [one for one in [value, *values] if isinstance(one, dict)]


def test_a_picture_is_a_png(shown):
    answer = shown.client.get(f"/api/runs/demo/images/{SHA}")
    assert (answer.headers["content-type"], answer.content) == ("image/png", PIXEL)


def test_the_filters_and_orders_that_the_page_names_are_taken(shown):
    listed = PAGE[PAGE.index("- Filters:") : PAGE.index("An error is")]
    chosen = {"name": "rl_000000", "group": "a", "task": "task-a", "ability": "faking", "tool": "code", "status": "ok", "q": "an"}
    chosen |= {"stop": "ANSWERED", "need": "needed", "used": "yes", "correct": "yes", "reward_min": 0, "reward_max": 1}
    assert {*chosen, "effect"} <= set(re.findall(r"`(\w+)`", listed))
    assert shown.get("runs/demo/episodes", **chosen)["total"] == 1
    for sort in {name.lstrip("-") for name in SORTS if name}:
        assert f"`{sort}`" in listed
