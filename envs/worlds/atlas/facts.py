"""Figures and names in the profiles, read strictly: a text in any other than the one plain form is not asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from envs.worlds.atlas.sources import Country

_SCALES = {"": 1, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DATED = r"(?: \((?:\d{4}(?: est\.)?|landlocked)\))?"  # remarks that may follow a figure without changing it


@dataclass(frozen=True, slots=True)
class Figure:
    """A numeric field: its name in a question, its unit as pint names it, and the text before and after the number.

    `after` is a regular expression.
    """

    words: str
    unit: str
    before: str = ""
    after: str = ""


_RATE = r"/1,000 population"

FIGURES: dict[str, Figure] = {
    "Area, total": Figure("total area", "km^2", after=" sq km"),
    "Area, land": Figure("land area", "km^2", after=" sq km"),
    "Irrigated land": Figure("irrigated land", "km^2", after=" sq km"),
    "Coastline": Figure("coastline", "km", after=" km"),
    "Land boundaries, total": Figure("total land boundary", "km", after=" km"),
    "Railways, total": Figure("total railway length", "km", after=" km"),
    "Elevation, mean elevation": Figure("mean elevation", "m", after=" m"),
    "Population, total": Figure("total population", "person"),
    "Population, male": Figure("male population", "person"),
    "Population, female": Figure("female population", "person"),
    "Birth rate": Figure("birth rate per 1,000 people", "", after=f" births{_RATE}"),
    "Death rate": Figure("death rate per 1,000 people", "", after=f" deaths{_RATE}"),
    "Total fertility rate": Figure("total fertility rate", "", after=" children born/woman"),
    "Median age, total": Figure("median age", "year", after=" years"),
    "Life expectancy at birth, total population": Figure("life expectancy at birth", "year", after=" years"),
    "Population growth rate": Figure("population growth rate", "percent", after="%"),
    "Urbanization, urban population": Figure("urban share of the population", "percent", after="% of total population"),
    "Land use, forest": Figure("share of land under forest", "percent", after="%"),
    "GDP (official exchange rate)": Figure("GDP at the official exchange rate", "usd", before=r"\$"),
    "Real GDP per capita 2024": Figure("real GDP per capita of 2024", "usd", before=r"\$"),
    "Exports 2023": Figure("exports of 2023", "usd", before=r"\$"),
    "Imports 2023": Figure("imports of 2023", "usd", before=r"\$"),
    "Electricity, consumption": Figure("yearly electricity consumption", "kWh", after=" kWh"),
    "Airports": Figure("number of airports", ""),
}
"""The fields that are asked for as numbers."""

NAMES: dict[str, str] = {
    "Capital, name": "capital",
    "Nationality, adjective": "adjective of nationality",
    "Internet country code": "internet country code",
}
"""The fields that are asked for as words; `name_in` accepts a text that is a name and nothing else."""


def figure(field: str, text: str) -> float | int | None:
    """The number in a field's text, in the field's unit; None if the text is not in the plain form."""
    kind = FIGURES[field]
    pattern = rf"{kind.before}(-?\d{{1,3}}(?:,\d{{3}})*|-?\d+)(\.\d+)?(?: ({'|'.join(filter(None, _SCALES))}))?{kind.after}{_DATED}"
    match = re.fullmatch(pattern, text)
    if match is None:
        return None
    whole, decimals, scale = match.group(1).replace(",", ""), match.group(2) or "", _SCALES[match.group(3) or ""]
    exact = Decimal(whole + decimals) * scale
    return int(exact) if exact == exact.to_integral_value() else float(exact)


def name_in(text: str) -> str | None:
    """The text itself if it is one plain name, like "Sao Tome" or ".st"; None otherwise."""
    return text if re.fullmatch(r"\.[a-z]{2}|[^\W\d_][^\W\d_' .-]*(?:['. -]+[^\W\d_]+)*", text) and " or " not in text else None


def highest_point(text: str) -> tuple[str, int] | None:
    """Name and metres above the sea of "Mount Kenya 5,199 m"; None for any other form."""
    match = re.fullmatch(r"([^\d;,()]+?) (\d{1,3}(?:,\d{3})*) m", text)
    return (match.group(1), int(match.group(2).replace(",", ""))) if match else None


def borders(text: str) -> dict[str, int] | None:
    """Kilometres of border by neighbour of "Andorra 63 km; France 646 km"; None for any other form."""
    found = {}
    for part in text.split("; "):
        match = re.fullmatch(r"([^\d;,()]+) (\d{1,3}(?:,\d{3})*) km", part)
        if match is None:
            return None
        found[match.group(1)] = int(match.group(2).replace(",", ""))
    return found


def value(country: Country, field: str) -> float | int | None:
    """`figure` of a country; None also if its profile has no such field."""
    return figure(field, country.fields.get(field, ""))


def text_value(country: Country, field: str) -> str | None:
    """`name_in` of a country; None also if its profile has no such field."""
    return name_in(country.fields.get(field, ""))
