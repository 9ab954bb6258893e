"""Questions of search: facts that only the profiles state, flags and photographs that the gallery names; and stated facts."""

from __future__ import annotations

import numpy as np
from PIL import Image

from envs.worlds.atlas.expert import AS_IT_IS, FLAG_TITLE, read
from envs.worlds.atlas.facts import FIGURES, NAMES, borders, highest_point, text_value, value
from envs.worlds.atlas.types import Draft, Materials, Template, pick

HIGHEST, NEIGHBOURS = "Elevation, highest point", "Land boundaries, border countries"
CAPITAL = "Capital, name"
_ASKED_UNITS = {
    "km^2": "in square kilometres",
    "km": "in kilometres",
    "m": "in metres",
    "percent": "in per cent",
    "usd": "in US dollars",
}


def figure_scoring(field: str) -> dict[str, object]:
    """How the answer to a figure is scored: within half a per cent, in the field's unit."""
    return {"kind": "number", "relative": 0.005, "unit": FIGURES[field].unit}


def unit_phrase(field: str) -> str:
    """The unit in which a question asks for a figure, in words after a comma; empty if it needs none."""
    words = _ASKED_UNITS.get(FIGURES[field].unit, "")
    return f", {words}" if words else ""


def shown_flag(flag: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The flag as a question shows it: its size and brightness differ from the gallery's."""
    scale, light = rng.uniform(0.6, 1.0), rng.uniform(0.9, 1.05)
    small = flag.resize((round(flag.width * scale), round(flag.height * scale)), Image.Resampling.LANCZOS)
    return Image.fromarray(np.clip(np.asarray(small) * light, 0, 255).astype(np.uint8))


def _figure(materials: Materials, rng: np.random.Generator) -> Draft | None:
    country, field = pick(rng, materials.countries), pick(rng, list(FIGURES))
    number = value(country, field)
    if number is None:
        return None
    question = f"What is the {FIGURES[field].words} of {country.name}, by the World Factbook{unit_phrase(field)}?"
    plan = {"answer": "value", "subjects": [{"name": country.name}], "figures": [[0, field]], "expression": AS_IT_IS}
    return Draft(question, str(number), plan, figure_scoring(field))


def _name(field: str, question: str) -> Template:
    def make(materials: Materials, rng: np.random.Generator) -> Draft | None:
        country = pick(rng, materials.countries)
        answer = text_value(country, field)
        if answer is None:
            return None
        plan = {"answer": "text", "subjects": [{"name": country.name}], "figures": [[0, field]], "read": "all"}
        return Draft(question.format(name=country.name), answer, plan)

    return Template(NAMES[field].replace(" ", "_"), "search", ("text_search",), make)


def _highest(how: str, question: str) -> Template:
    def make(materials: Materials, rng: np.random.Generator) -> Draft | None:
        country = pick(rng, materials.countries)
        text = country.fields.get(HIGHEST, "")
        if highest_point(text) is None:
            return None
        plan = {"answer": "text", "subjects": [{"name": country.name}], "figures": [[0, HIGHEST]], "read": how}
        scoring = {"kind": "number", "relative": 0.005, "unit": "m"} if how == "metres" else {}
        return Draft(question.format(name=country.name), str(read(how, text)), plan, scoring)

    return Template(f"highest_{how}", "search", ("text_search",), make)


def _border(materials: Materials, rng: np.random.Generator) -> Draft | None:
    country = pick(rng, materials.countries)
    lengths = borders(country.fields.get(NEIGHBOURS, ""))
    if not lengths:
        return None
    other = pick(rng, sorted(lengths))
    plan = {"answer": "text", "subjects": [{"name": country.name}], "figures": [[0, NEIGHBOURS]], "read": f"border with {other}"}
    question = (
        f"How long is the border of {country.name} with {other}, in kilometres, by the World Factbook's profile of {country.name}?"
    )
    return Draft(question, str(lengths[other]), plan, {"kind": "number", "relative": 0.005, "unit": "km"})


def _flag(materials: Materials, rng: np.random.Generator) -> Draft:
    name = pick(rng, list(materials.flags))
    flag = shown_flag(materials.flags[name], rng)
    plan = {"answer": "name", "subjects": [{"image": 1}]}
    return Draft("Whose flag is this?", name, plan, images=(flag,), searched=((flag, FLAG_TITLE + name),))


def _photograph(materials: Materials, rng: np.random.Generator) -> Draft:
    title = pick(rng, list(materials.photographs))
    whole = materials.photographs[title]
    width, height = (round(side * rng.uniform(0.75, 0.95)) for side in whole.size)
    left, top = int(rng.integers(whole.width - width + 1)), int(rng.integers(whole.height - height + 1))
    part = whole.crop((left, top, left + width, top + height))
    question = "Under which title does the gallery have the photograph that this is a part of?"
    return Draft(question, title, {"answer": "title"}, images=(part,), searched=((part, title),))


def _stated(materials: Materials, rng: np.random.Generator) -> Draft | None:
    country = pick(rng, materials.countries)
    capital, adjective = text_value(country, CAPITAL), text_value(country, "Nationality, adjective")
    if capital is None or adjective is None:
        return None
    question = f"The capital of {country.name} is {capital}, and what is from there is called {adjective}. What is the capital?"
    return Draft(question, capital, {"answer": "say", "say": capital})


TEMPLATES = (
    Template("figure", "search", ("text_search",), _figure),
    _name(CAPITAL, "What is the capital of {name}?"),
    _name("Nationality, adjective", "Which adjective does the World Factbook give for the nationality of {name}?"),
    _name("Internet country code", "What is the internet country code of {name}, with its dot?"),
    _highest("point", "What is the highest point of {name}, by the World Factbook?"),
    _highest("metres", "How high is the highest point of {name}, in metres, by the World Factbook?"),
    Template("border", "search", ("text_search",), _border),
    Template("flag", "search", ("image_search",), _flag),
    Template("photograph", "search", ("image_search",), _photograph),
    Template("capital_stated", "search", (), _stated),
)
