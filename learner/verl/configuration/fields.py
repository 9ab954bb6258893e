"""Which settings verl's dataclasses have, read from its source: importing it takes seconds, a mistake is answered at once."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from envs.errors import UsageError

SECTIONS = {
    "engine": "FSDPEngineConfig",
    "model": "HFModelConfig",
    "optimizer": "FSDPOptimizerConfig",
    "actor": "FSDPActorConfig",
    "algorithm": "AlgoConfig",
}
"""verl's dataclass behind each section of `learner.verl`."""

SOURCES = (
    "base_config.py",
    "trainer/config/config.py",
    "trainer/config/algorithm.py",
    "utils/qat/core.py",
    "workers/config/engine.py",
    "workers/config/model.py",
    "workers/config/optimizer.py",
    "workers/config/actor.py",
)
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "a mapping"}


@dataclass(frozen=True)
class Field:
    """A field of one of verl's dataclasses: the names in its annotation, and whether null is its default."""

    types: frozenset[str]
    null: bool

    @property
    def group(self) -> str | None:
        """The dataclass that the field holds; None for a plain value."""
        return next((name for name in sorted(self.types) if name in _classes()), None)

    def takes(self, value: Any) -> bool:
        """Whether the annotation allows a plain value."""
        if "Any" in self.types:
            return True
        if value is None:
            return self.null or "Optional" in self.types or "None" in self.types
        allowed = {bool: {"bool"}, int: {"int", "float"}, list: {"list", "tuple"}}.get(type(value), {type(value).__name__})
        return bool(allowed & self.types)

    @property
    def kind(self) -> str:
        """What to write for a plain value."""
        return " or ".join(text for kind, text in _KINDS.items() if kind.__name__ in self.types) or "a list"


def check_names(section: str, given: Mapping[str, Any]) -> None:
    """Raise UsageError, with the nearest name, if verl's dataclass behind `section` lacks a field of `given`, or if a value is of
    another type."""
    _check(f"learner.verl.{section}", SECTIONS[section], given)


@cache
def fields_of(name: str) -> dict[str, Field]:
    """The fields of one of verl's dataclasses, those that it inherits first."""
    fields = {}
    for base in _classes()[name].bases:
        if isinstance(base, ast.Name) and base.id in _classes():
            fields |= fields_of(base.id)
    for node in _classes()[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            null = isinstance(node.value, ast.Constant) and node.value.value is None
            fields[node.target.id] = Field(frozenset(_names(node.annotation)), null)
    return fields


def flat(given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted path; a mapping comes before what it holds."""
    for name, value in given.items():
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")


def _check(path: str, class_name: str, given: Mapping[str, Any]) -> None:
    fields = fields_of(class_name)
    for name, value in given.items():
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1, 0.5)
            remedy = f"did you mean {close[0]}?" if close else f"write one of {', '.join(fields)}"
            raise UsageError(f"{path}.{name}: verl's {class_name} has no such setting: {remedy}")
        field = fields[name]
        if field.group and isinstance(value, Mapping):
            _check(f"{path}.{name}", field.group, value)
        elif field.group and value is not None:
            raise UsageError(f"{path}.{name}={value}: it is a group of settings: write {path}.{name}.NAME=…")
        elif not field.group and not field.takes(value):
            raise UsageError(f"{path}.{name}={value}: write {field.kind}")


@cache
def _classes() -> dict[str, ast.ClassDef]:
    spec = find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("learner.verl: the package verl is not installed")
    root = Path(spec.submodule_search_locations[0])
    trees = (ast.parse((root / source).read_text()) for source in SOURCES)
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def _names(annotation: ast.AST) -> Iterator[str]:
    """The types that an annotation allows, without those of what a list or a mapping holds."""
    match annotation:
        case ast.Name(id=name):
            yield name
        case ast.Constant(value=value):
            yield str(value)
        case ast.Subscript(value=ast.Name(id="Optional" | "Union" as name), slice=inner):
            yield name
            yield from _names(inner)
        case ast.Subscript(value=outer):
            yield from _names(outer)
        case ast.BinOp(left=left, right=right):
            yield from _names(left)
            yield from _names(right)
        case ast.Tuple(elts=elements):
            for element in elements:
                yield from _names(element)
