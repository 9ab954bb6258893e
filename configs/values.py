"""Reads the value of one `key=value` as the type that the setting has, writes one, and checks the range of numbers and `out`.

A text is taken as it stands: Hydra's grammar, in which `=`, `,`, brackets and letters of other scripts have to be quoted, reads
only what is no text. A value that is quoted as a whole, or that escapes such a character with a backslash, is read as Hydra does.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shlex
import tempfile
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from envs.errors import UsageError

_QUOTED = re.compile(r"""(["']).*\1""", re.DOTALL)
_PLAIN = re.compile(r"[\w./:@%+-]+")
_NO_TEXT = re.compile(r"[-+]?[\d.][\d.e_+-]*|true|false|null|none|[-+]?(?:nan|inf)", re.IGNORECASE)
_SPECIAL, _ESCAPE = re.compile(r"([][(){}=,: ])"), r"\\\1"
_ESCAPED = re.compile(r"\\[][(){}=,: ]")
_PLAIN_LIST = re.compile(r"\[[^][{}\"'\\]*\]")
_KINDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}

_LEAST: dict[str, float] = dict.fromkeys(
    (
        "seed",
        "rehearsal",
        "warmup_steps",
        "patience",
        "image_cache_bytes",
        "sandboxes_per_worker",
        "sandbox_actors",
        "servers",
        "worker_niceness",
        "port",
    ),
    0,
) | {"entropy_coefficient": -math.inf}
"""The least value of a number, by the setting's name. Of the others, a whole number is at least 1, a time in seconds (`…_s`) is
more than 0, and any other number is at least 0."""
_MOST: dict[str, float] = {
    "seed": 2**31 - 1,
    "port": 2**16 - 1,
    "gpu_memory_utilization": 1,
    "adam_beta1": 1,
    "adam_beta2": 1,
    "min_learning_rate_ratio": 1,
    "learning_rate_factor": 1,
}

_PATHS = frozenset(
    {
        *("out", "policy", "tokenizer", "student", "harness", "tasks", "data", "run", "compare", "path", "dir"),
        *("demonstrations_file", "prompt", "corpus", "gallery", "flags", "file", "index", "model", "text_search", "image_search"),
        "lora_adapter_path",
    }
)
"""Settings that may be a path, by name; all others are taken as they stand."""


def hint_of(schema: type, path: str) -> Any:
    """The type of the setting at a dotted `path` of a dataclass; `Any` for what stands in a plain mapping."""
    hint: Any = schema
    for name in path.split("."):
        if not dataclasses.is_dataclass(hint):
            return Any
        hint = get_type_hints(hint).get(name, Any)
    return hint


def default_of(schema: type, path: str) -> Any:
    """The default of the setting at a dotted `path` of a dataclass; None for what stands in a plain mapping."""
    value: Any = schema()
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def kind_of(hint: Any) -> str:
    """What to write for a setting of this type."""
    options = _options(hint)
    if len(options) > 1:
        return " or ".join(kind_of(option) if option is not type(None) else "null" for option in options)
    (hint,) = options
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(str(member.value) for member in hint)
    if get_origin(hint) is list:
        return "a list, as in [a,b]"
    return _KINDS.get(hint, "name: value pairs, as in {name: value}")


def read_value(key: str, text: str, hint: Any, default: Any = None) -> Any:
    """The value that `text` is for a setting of the type `hint`. Raises UsageError with what to write instead."""
    options = _options(hint)
    if not text.strip() and hint is not Any and default not in (None, ""):
        raise UsageError(f"{key}= has no value: write {kind_of(hint)}, or leave {key}= out")
    if "${" in text and not re.search(r"\$\{[\w.:,]+\}", text):
        raise UsageError(f"{key}={text}: ${{ begins the name of another setting, as in ${{seed}}: choose a value without it")
    if str in options and not _QUOTED.fullmatch(text) and not _ESCAPED.search(text):
        return None if type(None) in options and text.lower() == "null" else text
    if hint == list[str] and _PLAIN_LIST.fullmatch(text):
        return [part.strip() for part in text[1:-1].split(",") if part.strip()]
    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
        if not override.is_sweep_override() and (get_origin(hint) is not list or isinstance(override.value(), list)):
            return override.value()
    except HydraException:
        pass
    if str in options:
        return text
    if get_origin(hint) is list and not text.startswith("["):
        raise UsageError(f"{key}={text}: write a list, as in {key}=[{text}]")
    if not text.startswith(("[", "{")):
        if hint is Any:
            return text
        raise wrong(key, text, hint)
    try:
        return json.loads(text)
    except ValueError:
        remedy = f"""quote each text that holds = , : ( ) [ ] {{ }} or quotes, as in {key}='["a=b"]'"""
        raise UsageError(f"{key}={text}: cannot read it: {remedy}") from None


def wrong(key: str, text: str, hint: Any) -> UsageError:
    """The error for a value that is not of the setting's type."""
    return UsageError(f"{key}={text}: write {kind_of(hint)}")


def options_text(options: Mapping[str, Any]) -> str:
    """What gives an environment these options on a shell's command line, each with a space behind it."""
    return "".join(f"{shlex.quote(f'+options.{name}={written(value, top=True)}')} " for name, value in options.items())


def written(value: Any, *, top: bool = False) -> str:
    """What stands for a value behind `=`, or within a list or a mapping unless it is at the `top`: `read_value` reads it back."""
    if isinstance(value, Enum):
        value = value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_SPECIAL.sub(_ESCAPE, str(name))}: {written(part)}' for name, part in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    plain = isinstance(value, str) and (top or _PLAIN.fullmatch(value)) and not _NO_TEXT.fullmatch(value)
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


def check_numbers(config: Any) -> None:
    """Raise UsageError for the first number in `config`, an instance of a dataclass, that is out of its range."""
    for path, value in _numbers(config):
        name = path.rpartition(".")[2]
        least = _LEAST.get(name, 1 if isinstance(value, int) else 0)
        most = _MOST.get(name, math.inf)
        positive = name.endswith("_s")
        shown = f"{path}={value:g}" if isinstance(value, float) else f"{path}={value}"
        if value < least or (positive and value == 0) or math.isnan(value):
            raise UsageError(f"{shown}: write {'more than' if positive else 'at least'} {least:g}")
        if value > most:
            raise UsageError(f"{shown}: write at most {most:.0f}")
        if math.isinf(value) and not positive:
            raise UsageError(f"{shown}: write a number")


def check_out(out: str) -> None:
    """Raise UsageError if `out` cannot be a directory that is written to."""
    path = Path(out).absolute()
    try:
        place = next(parent for parent in (path, *path.parents) if parent.exists() or parent.is_symlink())
    except OSError as error:
        raise UsageError(f"out={out}: there can be no such directory ({error.strerror}): write another") from None
    if place.is_symlink() and not place.exists():
        raise UsageError(f"out={out}: {place} is a link to {place.readlink()}, which is not there: make it, or write another")
    if not place.is_dir():
        raise UsageError(f"out={out}: {place} is a file: write a directory")
    try:
        os.rmdir(tempfile.mkdtemp(dir=place))  # not os.access: root may do anything, but not in /proc
    except OSError as error:
        raise UsageError(f"out={out}: {place} cannot be written to ({error.strerror}): write another directory") from None


def _numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{path}.")
        elif isinstance(value, list):
            yield from ((path, item) for item in value if isinstance(item, float))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, float(value) if float in _options(hints[field.name]) else value


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def expanded(value: Any, name: str = "") -> Any:
    """The settings with the user's home directory in place of `~` where a path is or begins with `~/`, as in `out=~/runs`: a shell
    leaves most of them alone. `name` is the setting's; a dataclass, a list or a mapping is changed in place."""
    if isinstance(value, str):
        return os.path.expanduser(value) if name in _PATHS and (value == "~" or value.startswith("~/")) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            object.__setattr__(value, field.name, expanded(getattr(value, field.name), field.name))
    elif isinstance(value, dict):
        value.update({key: expanded(one, str(key)) for key, one in value.items()})
    elif isinstance(value, list):
        value[:] = [expanded(one, name) for one in value]
    return value
