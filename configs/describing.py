"""What a command's settings are, with their values and meanings: each meaning is the docstring under the dataclass's field."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import cache
from typing import Any, get_args, get_type_hints

from omegaconf import OmegaConf

from configs import DIRECTORY, choices, compose
from configs.values import written
from envs.errors import UsageError

_COLUMN = 44
"""Where meanings begin; beside a setting that is longer, on the next line."""
_OF_LIST = ".[N]"
"""The end of the path of a list's entries, which have no names of their own to be written by."""


def described(name: str, schema: type, overrides: Sequence[str], parts: Sequence[str], width: int) -> str:
    """The settings of `schema` as lines `name=value  meaning` of at most `width` characters, a group under a heading.

    The values are those of command `name` with `overrides`; `parts` are the groups and settings to show, with or without what
    they are beneath; none shows all.
    Raises UsageError if an override is wrong, and for a part that is none.
    """
    entries = [*_choices(name), *_entries(compose(name, schema, overrides))]
    for part in parts:
        if not any(_within(path, part) for path, *_ in entries):
            close = difflib.get_close_matches(part, {name for path, *_ in entries for name in path.split(".")}, 3)
            groups = dict.fromkeys(path.partition(".")[0] for path, *_ in entries if "." in path)
            remedy = " or ".join(close) if close else ", ".join(groups) or "--help alone"
            raise UsageError(f"there is no setting {part!r}: write {remedy}")
    shown = [entry for entry in entries if not parts or any(_within(entry[0], part) for part in parts)]
    return "\n".join(_line(*entry, width=width) for entry in shown).strip("\n")


def _within(path: str, part: str) -> bool:
    """Whether a dotted path names `part`, or something beneath it: rl.steps names rl, steps and rl.steps."""
    return f".{part}." in f".{path}."


def _choices(name: str) -> Iterator[tuple[str, str | None, str]]:
    """The files of settings that a command may begin with."""
    composed: Any = OmegaConf.load(DIRECTORY / f"{name}.yaml")
    for default in composed.defaults:
        for group in default if OmegaConf.is_dict(default) else ():
            yield str(group), "NAME", f"Settings by name, from configs/{group}/: {', '.join(choices(str(group)))}."


def _entries(config: Any, prefix: str = "") -> Iterator[tuple[str, str | None, str]]:
    """(dotted path, value, meaning) of each setting of a dataclass, single ones before groups; a group's own value is None."""
    hints, meant = get_type_hints(type(config)), meanings(type(config))
    groups: list[tuple[str, Any, str]] = []
    for field in dataclasses.fields(config):
        value, path, meaning = getattr(config, field.name), f"{prefix}{field.name}", meant.get(field.name, "")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            groups.append((path, value, meaning or inspect.getdoc(type(value)) or ""))
            continue
        members = _members(hints[field.name])
        if not all(member in meaning for member in members):
            meaning += f" One of {', '.join(members)}."
        yield path, written(value, top=True), meaning.strip()
        *_, last = get_args(hints[field.name]) or (None,)
        entry = field.metadata.get("entry", last)  # of a list or a mapping
        if isinstance(entry, type) and dataclasses.is_dataclass(entry):
            groups.append((path + (".NAME" if isinstance(value, dict) else _OF_LIST), entry(), inspect.getdoc(entry) or ""))
    for path, group, meaning in groups:
        yield path, None, " ".join(meaning.split())
        yield from _entries(group, f"{path}.")


@cache
def meanings(schema: type) -> dict[str, str]:
    """The docstring of each field of a dataclass, by name; those of its bases count where it has none of its own."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                    found[name] = " ".join(meaning.split())
    return found


def _members(hint: Any) -> list[str]:
    """The values of an enumeration, or of a list of them."""
    options = get_args(hint) or (hint,)
    return [str(member.value) for option in options if isinstance(option, type) and issubclass(option, Enum) for member in option]


def _line(path: str, value: str | None, meaning: str, width: int) -> str:
    """A setting, or the heading of a group of them."""
    meaning = re.sub(r"`([^`]*)`", r"\1", meaning)
    _, _, name = path.partition(f"{_OF_LIST}.")
    if value is None:
        path = f"an entry of {path.removesuffix(_OF_LIST)}, {{name: value, …}}" if path.endswith(_OF_LIST) else path
        return "\n" + textwrap.fill(f"{path}: {meaning}" if meaning else path, width)
    left = f"  {name}: {value}" if name else f"  {path}={value}"
    indent = " " * _COLUMN
    lines = textwrap.wrap(meaning, width, initial_indent=indent, subsequent_indent=indent)
    if lines and len(left) < _COLUMN - 1:
        return "\n".join([left + lines[0][len(left) :], *lines[1:]])
    return "\n".join([left, *lines])
