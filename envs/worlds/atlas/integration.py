"""Questions that need several tools: flags to name, figures to look up, and a result to compute from them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from envs.worlds.atlas.cards import FLAG_WIDTH, REDUCTION, backdrop, put
from envs.worlds.atlas.expert import AS_IT_IS, FLAG_TITLE
from envs.worlds.atlas.facts import FIGURES, text_value, value
from envs.worlds.atlas.perception import CELLS, place_words, with_cards
from envs.worlds.atlas.reasoning import AREA, GDP, POPULATION, ROUGHLY, knowing
from envs.worlds.atlas.search import CAPITAL, figure_scoring, shown_flag, unit_phrase
from envs.worlds.atlas.types import Draft, Materials, Template, compute, pick, pick_some

FOREST = "Land use, forest"
LOOK_UP, FLAG_LOOK_UP = ("text_search", "code"), ("image_search", "text_search")
ALL = ("image_search", "text_search", "code")


def _of_flag(name: str, fields: tuple[str, ...], expression: str, question: str) -> Template:
    """A question about a derived figure of a flag's country."""

    def make(materials: Materials, rng: np.random.Generator) -> Draft | None:
        found = pick(rng, [country for country in materials.countries if country.name in materials.flags])
        numbers = [value(found, field) for field in fields]
        if not all(numbers):
            return None
        flag = shown_flag(materials.flags[found.name], rng)
        plan = {
            "answer": "value",
            "subjects": [{"image": 1}],
            "figures": [[0, field] for field in fields],
            "expression": expression,
        }
        answer = f"{compute(expression.format(*numbers)):.6g}"
        return Draft(question, answer, plan, ROUGHLY, (flag,), searched=((flag, FLAG_TITLE + found.name),))

    return Template(name, "integration", ALL, make)


def _flag_figure(materials: Materials, rng: np.random.Generator) -> Draft | None:
    found, field = pick(rng, [one for one in materials.countries if one.name in materials.flags]), pick(rng, list(FIGURES))
    number = value(found, field)
    if number is None:
        return None
    flag = shown_flag(materials.flags[found.name], rng)
    plan = {"answer": "value", "subjects": [{"image": 1}], "figures": [[0, field]], "expression": AS_IT_IS}
    question = f"What is the {FIGURES[field].words} of the country with this flag, by the World Factbook{unit_phrase(field)}?"
    return Draft(question, str(number), plan, figure_scoring(field), (flag,), searched=((flag, FLAG_TITLE + found.name),))


def _flag_capital(materials: Materials, rng: np.random.Generator) -> Draft | None:
    found = pick(rng, [one for one in materials.countries if one.name in materials.flags])
    capital = text_value(found, CAPITAL)
    if capital is None:
        return None
    flag = shown_flag(materials.flags[found.name], rng)
    plan = {"answer": "text", "subjects": [{"image": 1}], "figures": [[0, CAPITAL]], "read": "all"}
    question = "What is the capital of the country with this flag?"
    return Draft(question, capital, plan, images=(flag,), searched=((flag, FLAG_TITLE + found.name),))


def _hanging_capital(materials: Materials, rng: np.random.Generator) -> Draft | None:
    found = pick(rng, [one for one in materials.countries if one.name in materials.flags])
    capital = text_value(found, CAPITAL)
    if capital is None:
        return None
    picture, cell = backdrop(pick(rng, list(materials.photographs.values()))), pick(rng, CELLS)
    whole = materials.flags[found.name]
    flag = whole.resize((FLAG_WIDTH, round(whole.height * FLAG_WIDTH / whole.width)))
    put(picture, flag, *cell, rng)
    plan = {"answer": "text", "subjects": [{"hanging": cell}], "figures": [[0, CAPITAL]], "read": "all"}
    question = f"A flag hangs on this photograph, in {place_words(*cell)}. What is the capital of the country whose flag it is?"
    return Draft(question, capital, plan, {}, (picture,), REDUCTION, searched=((flag, FLAG_TITLE + found.name),))


def _ratio(materials: Materials, rng: np.random.Generator) -> Draft | None:
    field = pick(rng, (AREA, POPULATION, GDP, "Coastline"))
    found = knowing(materials, rng, (field,), 2)
    if found is None:
        return None
    first, second = (value(country, field) or 0 for country in found)
    plan = {
        "answer": "value",
        "subjects": [{"name": country.name} for country in found],
        "figures": [[0, field], [1, field]],
        "expression": "{0} / {1}",
    }
    words = FIGURES[field].words
    question = f"How many times the {words} of {found[1].name} is that of {found[0].name}, by the World Factbook?"
    return Draft(question, f"{first / second:.6g}", plan, ROUGHLY)


def _together(materials: Materials, rng: np.random.Generator) -> Draft | None:
    field = pick(rng, (AREA, POPULATION, "Airports", "Railways, total"))
    found = knowing(materials, rng, (field,), 3)
    if found is None:
        return None
    plan = {
        "answer": "value",
        "subjects": [{"name": country.name} for country in found],
        "figures": [[place, field] for place in range(3)],
        "expression": "{0} + {1} + {2}",
    }
    names = ", ".join(country.name for country in found)
    question = f"What do these add up to, by the World Factbook{unit_phrase(field)}: the {FIGURES[field].words} of {names}?"
    answer = sum(value(country, field) or 0 for country in found)
    return Draft(question, str(answer), plan, figure_scoring(field))


def _ranked(name: str, fields: tuple[str, ...], expression: str, words: str) -> Template:
    """A question for three countries in the order of a derived figure."""

    def make(materials: Materials, rng: np.random.Generator) -> Draft | None:
        found = knowing(materials, rng, fields, 3)
        if found is None or any("," in country.name or " and " in country.name for country in found):
            return None
        derived = [compute(expression.format(*(value(country, field) for field in fields))) for country in found]
        ordered = sorted(derived)
        if any(small * 1.02 > large for small, large in pairwise(ordered)):
            return None
        plan = {
            "answer": "order",
            "subjects": [{"name": country.name} for country in found],
            "figures": [[place, field] for place in range(3) for field in fields],
            "expression": expression,
        }
        by_figure = [found[place].name for place in np.argsort(derived)[::-1]]
        names = ", ".join(country.name for country in found)
        question = f"Order these by {words}, by the World Factbook, the largest first: {names}."
        return Draft(question, ", ".join(by_figure), plan, {"kind": "list"})

    return Template(name, "integration", LOOK_UP, make)


def _two_flags(materials: Materials, rng: np.random.Generator) -> Draft | None:
    field = pick(rng, (POPULATION, AREA))
    there = [country for country in materials.countries if country.name in materials.flags and value(country, field)]
    found = pick_some(rng, there, 2)
    numbers = [value(country, field) or 0 for country in found]
    if max(numbers) < 1.02 * min(numbers):
        return None
    shown = tuple(shown_flag(materials.flags[country.name], rng) for country in found)
    plan = {
        "answer": "most",
        "subjects": [{"image": 1}, {"image": 2}],
        "figures": [[0, field], [1, field]],
        "expression": AS_IT_IS,
    }
    question = f"Which of the two countries with these flags has the larger {FIGURES[field].words}, by the World Factbook?"
    searched = tuple((flag, FLAG_TITLE + country.name) for flag, country in zip(shown, found, strict=True))
    return Draft(question, found[int(np.argmax(numbers))].name, plan, images=shown, searched=searched)


def _card_times(materials: Materials, rng: np.random.Generator) -> Draft | None:
    field = pick(rng, ("Airports", "Coastline", AREA))
    found, cell = knowing(materials, rng, (field,)), pick(rng, CELLS)
    if found is None:
        return None
    picture, number = with_cards(materials, rng, [cell])
    if number == "0":
        return None
    plan = {
        "answer": "value",
        "subjects": [{"name": found[0].name}],
        "figures": [[0, field]],
        "cards": [cell],
        "expression": "{card} * {0}",
    }
    question = (
        f"A small card with a handwritten digit lies on this photograph, in {place_words(*cell)}. What is that digit times the "
        f"{FIGURES[field].words} of {found[0].name}, by the World Factbook{unit_phrase(field)}?"
    )
    answer = str(int(number) * (value(found[0], field) or 0))
    return Draft(question, answer, plan, figure_scoring(field), (picture,), REDUCTION)


def _flag_stated(materials: Materials, rng: np.random.Generator) -> Draft | None:
    found = pick(rng, [one for one in materials.countries if one.name in materials.flags])
    capital = text_value(found, CAPITAL)
    if capital is None:
        return None
    flag = shown_flag(materials.flags[found.name], rng)
    question = f"This is the flag of {found.name}, whose capital is {capital}. What is the capital of the country with this flag?"
    return Draft(question, capital, {"answer": "say", "say": capital}, images=(flag,))


TEMPLATES = (
    Template("flag_figure", "integration", FLAG_LOOK_UP, _flag_figure),
    Template("flag_capital", "integration", FLAG_LOOK_UP, _flag_capital),
    Template("hanging_flag_capital", "integration", ALL, _hanging_capital),
    _of_flag(
        "flag_density",
        (POPULATION, AREA),
        "{0} / {1}",
        "How many people live on a square kilometre of the country with this flag: its total population by its total area, by the "
        "World Factbook?",
    ),
    _of_flag(
        "flag_per_head",
        (GDP, POPULATION),
        "{0} / {1}",
        "What is the GDP at the official exchange rate, divided by the total population, of the country with this flag, in US "
        "dollars, by the World Factbook?",
    ),
    _of_flag(
        "flag_forest",
        (AREA, FOREST),
        "{0} * {1} / 100",
        "How many square kilometres are the share of land under forest times the total area of the country with this flag, by the "
        "World Factbook?",
    ),
    Template("ratio", "integration", LOOK_UP, _ratio),
    Template("together", "integration", LOOK_UP, _together),
    _ranked("ranked_density", (POPULATION, AREA), "{0} / {1}", "total population divided by total area"),
    _ranked("ranked_per_head", (GDP, POPULATION), "{0} / {1}", "GDP at the official exchange rate divided by total population"),
    Template("two_flags", "integration", FLAG_LOOK_UP, _two_flags),
    Template("card_times", "integration", ALL[1:], _card_times),
    Template("flag_stated", "integration", (), _flag_stated),
)
