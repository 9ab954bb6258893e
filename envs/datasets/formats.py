"""Reads the question of a row in any form of the field. `docs/questions.md` has the table of what is read.

The question is a conversation (OpenAI's `messages`, ShareGPT's `conversations`, verl's and TRL's `prompt`) or a text; the truth a
column, or what the assistant says last. A row whose meaning is not understood is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from envs.datasets.choices import Options, chosen, inline_options, options_of, own_labels, shown
from envs.datasets.columns import NAMES, Renames, absent, cleaned, first, number, parsed, plain, require_understood, text
from envs.datasets.conversations import PLACEHOLDER, Asked, asked, conversation, referenced, settled, with_pictures
from envs.datasets.pictures import listed, row_pictures
from envs.datasets.truths import Truth, is_latex, is_mathematical, reward_model, truth
from envs.datasets.types import Question
from envs.errors import RowError
from envs.pictures import Source, named
from envs.scoring.types import EXACT, MAX_ANSWER_CHARACTERS, Kind, Scoring

LABELS = ("perception", "reasoning", "search")
"""RealX-Bench's labels. A question may have several and counts for each; with all three it also counts as integration."""

ENVIRONMENTS: dict[str, tuple[str, ...] | None] = {"deepeyes_v2": None, "code_toolbox_lingyi_v1": ("code",)}
"""The tools behind an `env_name` of DeepEyesV2's files; None for all."""

_ABILITIES = {"reason": "reasoning", "integrated": "integration"}
_JUDGED = ("model", "llm", "judge")
"""The values of verl's `reward_model.style` that ask for a judge."""


def question(row: Mapping[str, Any], folder: Path, tools: frozenset[str] | None = None, columns: Renames = ()) -> Question:
    """The question of a row, whose paths are relative to `folder` and which may name only `tools`, None for any.

    `columns` are those of `envs.datasets.columns.renames`. Raises RowError, which says what to write instead, if the row cannot be
    used.
    """
    row = cleaned(row, columns)
    said = _asked(row)
    pictures = _pictures(row, said, folder)
    require_understood(row, bool(pictures))
    given_options = options_of(row)
    found = truth(row, said.reply, bool(given_options))
    options = given_options or _inline(said.text, found)
    scoring, answer = _scored(row, found, options)
    if len(answer) >= MAX_ANSWER_CHARACTERS and scoring.kind not in (Kind.JUDGE, Kind.RUBRIC):
        raise RowError(
            f"the answer has {len(answer)} characters, and an answer of {MAX_ANSWER_CHARACTERS} or more scores 0: "
            'write a shorter one, or "scoring": {"kind": "judge"}'
        )
    before = "".join(f"{line}\n" for line in _background(row, said.text))
    lines = [before + said.text, *shown(given_options or scoring.options, said.text)]
    unit = text(row.get("unit"))
    if unit and plain(unit) not in plain(said.text):
        lines.append(f"(Unit: {unit})")
    source = first(row, "source")
    return Question(
        settled("\n".join(lines), len(pictures), len(before)),
        answer,
        _abilities(row),
        text(source[1]) if source else _extra(row, "data_source"),
        pictures,
        needed_tools=_tools(row.get("needed_tools"), "needed_tools", tools),
        tools=_allowed(row, tools),
        scoring=replace(scoring, options=tuple((letter, referenced(option)) for letter, option in scoring.options)),
        system=said.system,
        views=_views(row, pictures, folder),
    )


def _inline(asked_text: str, found: Truth) -> Options:
    """The options in a question's own text if all right answers are among them."""
    options = inline_options(asked_text)
    try:
        for one in (found.value, *found.accepted):
            chosen(one, options)
    except RowError:
        return ()
    return options


def _background(row: Mapping[str, Any], asked_text: str) -> list[str]:
    """What a question is asked about, unless its own text has it."""
    lines = []
    for name in (name for name in NAMES["hint"] if name in row):
        if not isinstance(row[name], str | int | float):
            raise RowError(f"{name} is no text: write a text, or columns={{{name}: null}} to leave it out")
        if text(row[name]) not in asked_text:
            lines.append(text(row[name]))
    return lines


def _asked(row: Mapping[str, Any]) -> Asked:
    """What a row asks, as a conversation or as a text."""
    messages = conversation(row)
    names = [name for name in NAMES["question"] if name in row and not (messages and isinstance(parsed(row[name]), list))]
    for name in names:
        if not isinstance(row[name], str | int | float):
            raise RowError(f"{name} is {str(row[name])[:60]!r}: write a text, or a list of messages")
    texts = {name: text(row[name]) for name in names}
    lifted = {name: with_pictures(written) for name, written in texts.items()}
    texts = {name: written for name, (written, _) in lifted.items()}
    said = asked(messages) if messages else None
    if said is None and not texts:
        raise RowError(
            "there is no question; every row needs a question and an answer, "
            "or write columns={question: NAME} if it is called otherwise"
        )
    # Of texts that hold each other, a prompt with instructions and the bare question say, the longest is asked.
    main_name = "the messages" if said is not None else max(texts, key=lambda name: len(texts[name]))
    main = said.text if said is not None else texts[main_name]
    for name, other in texts.items():
        short, long = sorted((plain(PLACEHOLDER.sub("", main)), plain(PLACEHOLDER.sub("", other))), key=len)
        if short not in long:
            raise RowError(
                f"{name} asks something other than {main_name}: write columns={{question: {name}}} to ask it, "
                f"or columns={{{name}: null}} to leave it out"
            )
    if said is None:
        main = f"{main}\n{text(row['input'])}" if "input" in row else main
        system = next((text(row[name]) for name in NAMES["system"] if name in row), "")
        if not PLACEHOLDER.sub("", main).strip():
            raise RowError("there is no question beside its images; write one")
        count = sum(not (match["number"] or match["other"]) for match in PLACEHOLDER.finditer(main))
        said = Asked(main, system, lifted[main_name][1], own_placeholders=count, placeholders=count)
    return said


def _pictures(row: Mapping[str, Any], said: Asked, folder: Path) -> tuple[Source, ...]:
    """The pictures of the question. Those of a conversation's later messages are a tool's."""
    own = tuple(named(picture, folder) for picture in said.pictures)
    given = row_pictures(row, folder)
    if own and given and own != given:
        raise RowError("the messages have other pictures than the columns: write columns={images: null}, or no image parts")
    if own or said.placeholders == said.own_placeholders:
        return own or given
    if said.placeholders != len(given):
        raise RowError(f"the conversation has {said.placeholders} placeholders <image>, and there are {len(given)} images")
    return given[: said.own_placeholders]


def _views(row: Mapping[str, Any], pictures: tuple[Source, ...], folder: Path) -> tuple[Source, ...]:
    """The smaller copies of the pictures that the policy is shown in their place, one for each; () if it is shown the pictures."""
    views = tuple(named(value, folder) for value in listed(row["image_views"])) if "image_views" in row else ()
    if len(views) not in (0, len(pictures)):
        raise RowError(f"image_views has {len(views)} pictures, and there are {len(pictures)} images: write one for each, or none")
    return views


def _scored(row: Mapping[str, Any], found: Truth, options: Options) -> tuple[Scoring, str]:
    """The rule of a row and the answer in the form that the rule compares: `scoring`, else what the row's other columns ask for."""
    stated = _stated_scoring(row, options)
    answer = ", ".join(map(str, found.value)) if isinstance(found.value, list) else text(found.value)
    if stated is not None and stated.kind is not Kind.CHOICE:
        return replace(stated, accepted=tuple(dict.fromkeys((*stated.accepted, *found.accepted)))), answer
    style = text(reward_model(row).get("style")).lower()
    if style and not style.startswith("rule") and style not in _JUDGED:
        raise RowError(f"reward_model.style is {style!r}: write rule, or {' or '.join(_JUDGED)}")
    if stated is None and style in _JUDGED:
        return Scoring(Kind.JUDGE, accepted=found.accepted), answer
    if options or (stated is not None and stated.options):
        options = stated.options if stated is not None and stated.options else options
        given = first(row, "options")
        labels = own_labels(row)
        letter, accepted = chosen(found.value, options, given[0] if given else "", labels)
        more = tuple(chosen(one, options, labels=labels)[0] for one in found.accepted)
        return Scoring(Kind.CHOICE, accepted=(*accepted, *more), options=options), letter
    return _by_form(row, found, answer, style), answer


def _by_form(row: Mapping[str, Any], found: Truth, answer: str, style: str) -> Scoring:
    form, unit = text(row.get("answer_type")).lower(), text(row.get("unit"))
    if form in ("integer", "float", "number", "int", "numeric") or unit:
        precision = number(row.get("precision"))
        absolute = 0.5 * 10.0**-precision * (1 + 1e-9) if form == "float" and precision is not None else EXACT.absolute
        return Scoring(Kind.NUMBER, found.accepted, absolute=absolute, unit=unit)
    if form == "list":
        return Scoring(Kind.LIST, found.accepted)
    if "<AND>" in answer:  # MM-Vet
        raise RowError('the answer has several parts joined by <AND>: write "scoring": {"kind": "judge"}, or "list" and commas')
    if "<OR>" in answer:
        raise RowError("the answer has several right answers joined by <OR>: write a list of them")
    names = [style, _extra(row, "data_source") or "", *(text(row.get(name)) for name in ("data_source", "source", "ability"))]
    if found.kind is Kind.MATH or is_latex(answer) or any(map(is_mathematical, names)):
        return Scoring(Kind.MATH, found.accepted)
    return Scoring(found.kind or Kind.EXACT, found.accepted) if found.kind or found.accepted else EXACT


def _stated_scoring(row: Mapping[str, Any], options: Options) -> Scoring | None:
    """The column `scoring`: a mapping, one in JSON text, or the name of a kind."""
    if "scoring" not in row:
        return None
    given = parsed(row["scoring"])
    try:
        given = {"kind": given.strip().lower()} if isinstance(given, str) else dict(given)
        given = {name: value for name, value in given.items() if value is not None}
        if given.get("kind") == Kind.CHOICE and not given.get("options"):
            given["options"] = options
        return Scoring.from_mapping(given)
    except (ValueError, TypeError, AttributeError) as error:
        raise RowError(f"the scoring cannot be used ({error})") from None


def _abilities(row: Mapping[str, Any]) -> tuple[str, ...]:
    given = first(row, "ability")
    ability = given[1] if given else None
    labels = [str(label) for label in ability] if isinstance(ability, list | tuple) else []
    labels = labels or [label for label in LABELS if text(row.get(label)).lower() in ("true", "1", "yes")]
    if labels:
        return (*labels, *(["integration"] if set(LABELS) <= set(labels) and "integration" not in labels else []))
    if ability is None:
        ability = row.get("data_source")
    return (_ABILITIES.get(str(ability), str(ability)) if ability is not None else "other",)


def _allowed(row: Mapping[str, Any], known: frozenset[str] | None) -> tuple[str, ...] | None:
    """The tools that a row allows: those behind an `env_name`, or `tools`, unless those are declarations of functions."""
    environment = row.get("env_name")
    if environment is not None:
        if environment not in ENVIRONMENTS:
            raise RowError(f"there is no env_name {environment!r}; write one of {', '.join(ENVIRONMENTS)}")
        return ENVIRONMENTS[environment]
    given = parsed(row.get("tools"))
    declared = isinstance(given, list | tuple) and any(isinstance(tool, Mapping) for tool in given)
    return None if declared else _tools(given, "tools", known)


def _tools(names: Any, column: str, known: frozenset[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    given = [names] if isinstance(names, str) else names
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise RowError(f"{column} is {names!r}: write a list of the names of tools")
    if known is not None and (unknown := [name for name in given if name not in known]):
        raise RowError(f"{column} has {unknown[0]!r}, and there is no such tool; write some of {', '.join(sorted(known))}")
    return tuple(given)


def _extra(row: Mapping[str, Any], name: str) -> str | None:
    """A value of verl's `extra_info`; None if there is none."""
    extra = parsed(row.get("extra_info"))
    value = extra.get(name) if isinstance(extra, Mapping) else None
    return None if absent(value) else re.sub(r"\s+", " ", text(value))
