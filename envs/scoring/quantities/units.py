"""Units: the spellings that people use, read by pint, and currencies, each a dimension of its own."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pint import UnitRegistry

CURRENCY_SIGNS = {"$": "usd", "us$": "usd", "€": "eur", "£": "gbp", "¥": "jpy", "₹": "inr", "₩": "krw", "₽": "rub"}
CURRENCY_SIGNS |= {"c$": "cad", "ca$": "cad", "a$": "aud", "au$": "aud", "hk$": "hkd", "nt$": "twd", "rs": "inr", "rs.": "inr"}
_CURRENCIES = {
    "usd": ("dollar", "dollars", "us_dollar", "us_dollars", "美元", "美金", "bucks"),
    "eur": ("euro", "euros", "欧元"),
    "gbp": ("pound_sterling", "pounds_sterling", "british_pounds", "英镑"),
    "jpy": ("yen", "円", "日元"),
    "cny": ("rmb", "yuan", "元", "人民币", "块"),
    "inr": ("rupee", "rupees"),
    "krw": ("won", "원"),
    "rub": ("rouble", "rubles", "roubles", "ruble"),
    "cad": (),
    "aud": (),
    "hkd": (),
    "twd": (),
    "chf": ("swiss_franc", "swiss_francs"),
    "brl": ("reais",),
    "mxn": (),
    "sek": (),
}
CURRENCY_CODES = frozenset(_CURRENCIES)
_DOLLARS = {"usd": "us", "cad": "canadian", "aud": "australian", "hkd": "hong kong", "twd": "taiwan"}
_WORDS = {
    "m^2": "sqm qm 平方米 平米",
    "km^2": "sqkm 平方公里 平方千米",
    "ft^2": "sqft",
    "mi^2": "sqmi",
    "cm^2": "平方厘米",
    "m^3": "cbm 立方米",
    "cm^3": "cc ccm",
    "km/h": "kmh kph kmph kmhr 公里/小时 千米/小时",
    "m/s": "mps 米/秒",
    "kWh": "kwh",
    "kW": "kw 千瓦",
    "MW": "mw",
    "kHz": "khz",
    "MHz": "mhz",
    "GHz": "ghz",
    "Hz": "hz",
    "kg": "kgs kilo kilos 公斤 千克 кг",
    "lb": "lbs 磅",
    "year": "yo yrs y 年 岁 歲 歳 jahre jahren ans años",
    "month": "mos mo 个月 月",
    "hour": "hrs hr 小时 小時 時間 시간 stunden stunde heures heure horas",
    "minute": "mins min 分钟 分鐘 分 minuten",
    "second": "secs sec 秒 秒钟",
    "ft": "' 英尺",
    "inch": "\" '' in ins 英寸",
    "percent": "pct %",
    "degree": "° deg 度",
    "degC": "°c celsius centigrade 摄氏度",
    "degF": "°f fahrenheit 华氏度",
    "kelvin": "kelvin k",
    "km": "公里 千米 キロ キロメートル 킬로미터 км kilometer kilómetros kilomètres كم كيلومتر किमी",
    "m": "米 メートル 미터 м meter metros mètres",
    "cm": "厘米 公分 см",
    "mm": "毫米",
    "mile": "英里",
    "g": "克 г",
    "mg": "毫克",
    "tonne": "吨 噸",
    "liter": "升",
    "ml": "毫升",
    "day": "天 日 tage jours",
    "week": "周",
    "hectare": "公顷",
    "person": "人 名",
}
_SPELLINGS = {word: unit for unit, words in _WORDS.items() for word in words.split()} | {
    "sq m": "m^2",
    "sq km": "km^2",
    "sq ft": "ft^2",
    "sq mi": "mi^2",
    "sq in": "inch^2",
    "sq cm": "cm^2",
    "cu m": "m^3",
    "cu ft": "ft^3",
    "cu cm": "cm^3",
    "km hr": "km/h",
    "per cent": "percent",
    "deg c": "degC",
    "degrees celsius": "degC",
    "degree celsius": "degC",
    "degrees c": "degC",
    "degrees centigrade": "degC",
    "° c": "degC",
    "deg f": "degF",
    "degrees fahrenheit": "degF",
    "degree fahrenheit": "degF",
    "degrees f": "degF",
    "° f": "degF",
    "mile hour": "mph",
    **{f"{nation} dollar{ending}": code for code, nation in _DOLLARS.items() for ending in ("", "s")},
}
_TEMPERATURES = {"c": "degC", "f": "degF", "degree": "", "degrees": "", "°": "", "deg": "", "度": "", "k": "kelvin"}
_READABLE = re.compile(r"(?:[^\W\d_]|[ /*^·()%°.-]|(?<=[a-zA-Zµμ^-])[1-4])+")
_LONGEST = 40


def converted(value: Fraction, unit: str, target: str) -> Fraction | None:
    """The value in `target`; None if `unit` is unknown or of another dimension. Equal words need not be known."""
    if unit == target or not unit or _words(unit) == _words(target):
        return value
    if len(unit) > _LONGEST or len(target) > _LONGEST:
        return None
    source, destination = _read(unit, target), _read(target, target)
    if source is None or destination is None:
        return None
    if source == destination:
        return value
    try:
        if _is_data(_units().parse_units(source)) != _is_data(_units().parse_units(destination)):
            return None
        return Fraction(float(_units().Quantity(float(value), source).to(destination).magnitude))
    except Exception:  # pint may raise any error for any text; what it cannot read is not a unit
        return None


def is_unit(text: str) -> bool:
    """Whether a text is the name of a unit."""
    return len(text) <= _LONGEST and _read(text, "") is not None


def _is_data(unit: Any) -> bool:
    """Whether it is an amount of data, which pint has without dimension."""
    return "bit" in str(_units().get_root_units(unit)[1]).split()


def _words(unit: str) -> str:
    if len(unit) == 1:  # M is not m
        return unit
    words = unit.replace("_", " ").split()  # MW is not mW, Gb not GB, ms not m
    cased = [word if len(word) < 3 or not (word[1:].islower() or word.isupper()) else word.casefold().rstrip("s") for word in words]
    return "".join(cased)


def _read(unit: str, target: str) -> str | None:
    """The unit in pint's words."""
    registry = _units()
    lower = re.sub(r"\s+", " ", unit.casefold().replace("_", " ").replace(".", " ")).strip()
    try:
        if target and registry.Unit(target).dimensionality == registry.kelvin.dimensionality and lower in _TEMPERATURES:
            return _TEMPERATURES[lower] or target
        if (
            target
            and unit != "M"
            and lower in ("m", "min")
            and registry.Unit(target).dimensionality == registry.second.dimensionality
        ):
            return "minute"
    except Exception:  # a target that pint does not know
        pass
    names = [_SPELLINGS[lower]] if lower in _SPELLINGS and not (lower in ("k", "mw") and unit in ("K", "MW", "mW")) else []
    bytes_or_bits = re.fullmatch(r"[kKMGTP]i?[bB]", unit)
    names += [unit.replace("K", "k") if unit in ("KB", "Kb") else unit]
    names += [re.sub(r"(?<=[a-z])-(?=[a-z])", "*", unit)] if "-" in unit else []
    names += [unit.casefold()] if len(unit) > 1 and unit != "MM" and bytes_or_bits is None else []
    for name in names:
        name = _spelled(name)
        if not name or _READABLE.fullmatch(name) is None:
            continue
        try:
            parsed = registry.parse_units(name)
            if parsed.dimensionality or name in ("percent", "degree", "radian") or _is_data(parsed):
                return name
        except Exception:  # pint's parser may raise any error for any text
            continue
    return None


def _spelled(unit: str) -> str:
    """Square, cubic and "per" in symbols; km2 as km^2."""
    unit = re.sub(r"(?i)\bper cent\b", "percent", unit.strip())
    unit = re.sub(r"(?i)\b(?:square|sq\.?)\s+(\w+)", r"\1^2", unit)
    unit = re.sub(r"(?i)\b(?:cubic|cu\.?)\s+(\w+)", r"\1^3", unit)
    unit = re.sub(r"(?i)(\w+)\s+(?:squared|sq)\b", r"\1^2", unit)
    unit = re.sub(r"(?i)(\w+)\s+cubed\b", r"\1^3", unit)
    unit = re.sub(r"(?i)\s*\b(?:per|an|a|each|every)\s+|每", "/", unit)
    unit = re.sub(r"(?<=[a-zA-Zμ])([23])\b", r"^\1", unit.replace("·", "*").replace("µ", "μ"))

    def usual(found: re.Match[str]) -> str:
        return _SPELLINGS.get(found[0].casefold(), found[0]) if len(found[0]) > 1 and found[0] != "mW" else found[0]

    return re.sub(r"[^\W\d_]+", usual, unit)


@lru_cache(maxsize=1)
def _units() -> UnitRegistry:
    import pint  # takes a while, and few tasks have units

    registry = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    for code, names in _CURRENCIES.items():  # each is a dimension: currencies are not converted
        registry.define(" = ".join((code, f"[{code}]", code.upper(), *names)))
    registry.define("person = [person] = people = persons = inhabitants = residents = citizens")
    return registry
