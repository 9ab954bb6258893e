"""What docs/scoring.md says of each kind holds: every row of its tables is an answer that is judged as the row says."""

import re
from pathlib import Path

import pytest
import yaml

from envs.scoring import Kind, Scoring, is_right

PAGE = Path(__file__).parents[3] / "docs/scoring.md"
OPTIONS = {"A": "cat", "B": "dog", "C": "red car", "D": "4"}
_CODE = re.compile(r"^(`+) ?(.*?) ?\1$")


def cell(text):
    """What a cell says, without the marks of code; `⏎` stands for a line break, and `\\|` for a bar."""
    text = text.strip()
    match = _CODE.match(text)
    return (match[2] if match else text).replace("⏎", "\n").replace("\\|", "|")


def rows():
    kind = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            kind = line[3:]
        elif line.startswith("| ") and line.endswith(("| yes |", "| no |")):
            settings, truth, answer, right = map(cell, re.split(r"(?<!\\)\|", line)[1:-1])
            record = {name: value for part in settings.split(";") if part for name, value in yaml.safe_load(part).items()}
            yield pytest.param(kind, record, truth, answer, right == "yes", id=f"{kind}: {answer} for {truth}")


@pytest.mark.parametrize(("kind", "settings", "truth", "answer", "right"), rows())
async def test_an_answer_is_judged_as_the_table_says(kind, settings, truth, answer, right):
    options = {"options": OPTIONS} if kind == "choice" else {}
    scoring = Scoring.from_mapping({"kind": kind, **options, **settings})
    assert await is_right("Q", answer, truth, scoring) is right


def test_every_rule_has_a_table():
    assert {row.values[0] for row in rows()} == {kind.value for kind in Kind} - {"judge", "rubric"}
