"""Questions that state the figures to compute with: those that only compare figures need no tool, the others need code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from envs.worlds.atlas.facts import FIGURES, value
from envs.worlds.atlas.sources import Country
from envs.worlds.atlas.types import Draft, Materials, Template, compute, pick, pick_some

POPULATION, AREA, LAND, MEN, GDP = (
    "Population, total",
    "Area, total",
    "Area, land",
    "Population, male",
    "GDP (official exchange rate)",
)
ROUGHLY = {"kind": "number", "relative": 0.01}
_COMPARED = (AREA, "Coastline", POPULATION, "Median age, total", "Airports", "Irrigated land")
_UNITS = {"km^2": " km²", "percent": " %", "usd": " US dollars", "person": " people", "year": " years", "": ""}


def figure_text(field: str, number: float) -> str:
    """A figure as a question states it."""
    unit = FIGURES[field].unit
    return f"{number:,}{_UNITS.get(unit, f' {unit}')}"


def knowing(materials: Materials, rng: np.random.Generator, fields: tuple[str, ...], count: int = 1) -> list[Country] | None:
    """`count` different countries whose profiles give all the fields, none of them 0; None if there are too few."""
    good = [country for country in materials.countries if all(value(country, field) for field in fields)]
    return pick_some(rng, good, count) if len(good) >= count else None


def _formula(name: str, fields: tuple[str, ...], expression: str, question: str) -> Template:
    """A question about one country; `question` and `expression` have placeholders for its figures."""

    def make(materials: Materials, rng: np.random.Generator) -> Draft | None:
        found = knowing(materials, rng, fields)
        if found is None:
            return None
        numbers = [value(found[0], field) or 0 for field in fields]
        computed = expression.format(*numbers)
        stated = [figure_text(field, number) for field, number in zip(fields, numbers, strict=True)]
        return Draft(
            question.format(*stated, name=found[0].name),
            f"{compute(computed):.6g}",
            {"answer": "value", "expression": computed},
            ROUGHLY,
        )

    return Template(name, "reasoning", ("code",), make)


def _growth(materials: Materials, rng: np.random.Generator) -> Draft | None:
    found = knowing(materials, rng, (POPULATION, "Population growth rate"))
    if found is None:
        return None
    people, rate = (value(found[0], field) or 0 for field in (POPULATION, "Population growth rate"))
    years = int(rng.integers(5, 40))
    expression = f"{people} * (1 + {rate} / 100) ** {years}"
    question = (
        f"{found[0].name} has {people:,} people, and their number grows by {rate} % a year. How many are they after {years} years?"
    )
    return Draft(question, f"{compute(expression):.0f}", {"answer": "value", "expression": expression}, ROUGHLY)


def _mean(materials: Materials, rng: np.random.Generator) -> Draft | None:
    field = pick(rng, _COMPARED)
    found = knowing(materials, rng, (field,), 5)
    if found is None:
        return None
    numbers = [value(country, field) or 0 for country in found]
    expression = f"({' + '.join(map(str, numbers))}) / 5"
    stated = ", ".join(f"{country.name} {figure_text(field, number)}" for country, number in zip(found, numbers, strict=True))
    question = f"The {FIGURES[field].words} of five countries: {stated}. What is the mean? Answer with the number alone."
    return Draft(question, f"{compute(expression):.6g}", {"answer": "value", "expression": expression}, ROUGHLY)


def _larger(count: int) -> Callable[[Materials, np.random.Generator], Draft | None]:
    def make(materials: Materials, rng: np.random.Generator) -> Draft | None:
        field = pick(rng, _COMPARED)
        found = knowing(materials, rng, (field,), count)
        numbers = [] if found is None else [value(country, field) or 0 for country in found]
        if found is None or len(set(numbers)) < count:
            return None
        stated = ", ".join(f"{country.name} {figure_text(field, number)}" for country, number in zip(found, numbers, strict=True))
        best = found[int(np.argmax(numbers))].name
        question = f"The {FIGURES[field].words}: {stated}. Which of these countries has the largest figure?"
        return Draft(question, best, {"answer": "say", "say": best})

    return make


def _airports(materials: Materials, rng: np.random.Generator) -> Draft | None:
    found = knowing(materials, rng, ("Airports",), 2)
    if found is None:
        return None
    first, second = (int(value(country, "Airports") or 0) for country in found)
    if first + second > 99:
        return None
    question = f"{found[0].name} has {first} airports and {found[1].name} has {second}. How many have they together?"
    return Draft(question, str(first + second), {"answer": "say", "say": str(first + second)})


TEMPLATES = (
    _formula(
        "density_stated", (POPULATION, AREA), "{0} / {1}", "{name} has {0} on {1}. How many people are that per square kilometre?"
    ),
    _formula("men_stated", (MEN, POPULATION), "100 * {0} / {1}", "Of the {1} of {name}, {0} are male. How many per cent?"),
    _formula(
        "per_head_stated", (GDP, POPULATION), "{0} / {1}", "{name} has a GDP of {0} and {1}. How many dollars are that a head?"
    ),
    _formula("land_stated", (LAND, AREA), "100 * {0} / {1}", "Of the {1} of {name}, {0} are land. How many per cent?"),
    Template("growth_stated", "reasoning", ("code",), _growth),
    Template("mean_stated", "reasoning", ("code",), _mean),
    Template("larger_of_two", "reasoning", (), _larger(2)),
    Template("largest_of_four", "reasoning", (), _larger(4)),
    Template("airports_together", "reasoning", (), _airports),
)
