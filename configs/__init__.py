"""Composes a command's settings: the dataclass's defaults, then a YAML choice, then `key=value` from the command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

from configs.elsewhere import here
from configs.values import check_numbers, default_of, expanded, hint_of, read_value, wrong
from envs.errors import UsageError
from envs.runtime.saved_settings import saved_settings

DIRECTORY = Path(__file__).parent
CHOICES = ("experiment", "topology")
"""Groups of files of settings, of which a command may name one each."""
OWN_SUFFIXES = (".yaml", ".yml")
"""How the name of a choice ends that is a file of the user's own."""
RETIRED = (
    ("learner", "attention"),
    ("learner", "banned_token_ids"),
    ("learner", "packed"),
    ("learner", "seed"),
    ("rollout", "backend"),
)
"""Settings that a `config.yaml` of an earlier version may hold and that no longer exist."""


def compose[T](name: str, schema: type[T], overrides: Sequence[str]) -> T:
    """The settings of command `name` as an instance of its dataclass. Raises UsageError if an override is wrong."""
    given = _read(schema, overrides)
    chosen = tuple(_choice(schema, *text.split("=", 1)) for text in overrides if text.partition("=")[0] in CHOICES)
    return _instance(deepcopy(_chosen(name, schema, chosen)), schema, given)


def _choice(schema: type, group: str, name: str) -> tuple[str, str, str | None]:
    """Group and name of a choice, and the text of the file if it is one of the user's own. Raises UsageError if that is wrong."""
    if not name.endswith(OWN_SUFFIXES):
        return group, name, None
    path = Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
        settings = OmegaConf.create(text)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UsageError(f"{group}={name}: {' '.join(str(error).split())}") from error
    if not isinstance(settings, DictConfig):
        raise UsageError(f"{group}={name}: write a setting a line, as in seed: 1")
    settings.pop("defaults", None)
    try:
        _check(_structured(schema), [f"+{path}=" for path in _paths(settings)])
    except UsageError as error:
        raise UsageError(f"{group}={name}: {error}") from None
    return group, name, text


@cache
def _chosen(command: str, schema: type, chosen: tuple[tuple[str, str, str | None], ...]) -> DictConfig:
    """The settings of a command with those of the files that are `chosen`, to be copied and not changed: Hydra takes its time."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema)
    for group, _, text in chosen:
        if text is not None:
            store.store(group=group, name="own", node=OmegaConf.create(text), package="_global_")
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(DIRECTORY)):
            return hydra_compose(
                config_name=command, overrides=[f"{group}={name if text is None else 'own'}" for group, name, text in chosen]
            )
    except (HydraException, OmegaConfBaseException) as error:
        line = _line(error)
        for group, name, _ in chosen:
            line = line.replace(f"'{group}/own'", name)
        raise UsageError(line) from error


def compose_again[T](saved: Path, schema: type[T], overrides: Sequence[str], of_run: Mapping[str, Any] | None = None) -> T:
    """The settings that a run began with (its `config.yaml`), with `overrides` applied. Raises UsageError if one is wrong, or
    if `saved` cannot be read.

    `of_run` is for another command than the one that wrote `saved`: it takes over the tasks of the run's test split and its
    `rollout`, and has these settings in place of the defaults of `schema`.
    """
    given = _read(schema, overrides)
    begun: Any = saved_settings(saved)
    try:
        for part, name in RETIRED:
            if part in begun:
                begun[part].pop(name, None)
        if of_run is not None:
            options = {**(begun.get("options") or {}), **(OmegaConf.select(begun, "task_options.test") or {})}
            kept = {name: value for name, value in options.items() if value is not None}
            begun = {"tasks": begun.tasks, "options": kept, "rollout": begun.rollout, **of_run}
        config: Any = OmegaConf.merge(OmegaConf.structured(schema), begun)
    except OmegaConfBaseException as error:
        raise UsageError(f"{saved}: {' '.join(str(error).split())}") from error
    return _instance(config, schema, given)


@cache
def _structured(schema: type) -> DictConfig:
    """The settings of a dataclass with their defaults, to be read and not changed: made once, since it takes a while."""
    return OmegaConf.structured(schema)


def _read(schema: type, overrides: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Text and value of each setting that is given; of one given twice, the last. Raises UsageError if one cannot be read."""
    _check(_structured(schema), overrides)
    given: dict[str, tuple[str, Any]] = {}
    for override in overrides:
        key, _, text = override.partition("=")
        path = key.lstrip("+")
        if path in CHOICES:
            continue
        given[path] = text, read_value(path, text, hint_of(schema, path), default_of(schema, path))
    return given


def _instance[T](config: DictConfig, schema: type[T], given: Mapping[str, tuple[str, Any]]) -> T:
    """The configuration with what is `given`, as an instance of its dataclass. Raises UsageError if a value is wrong."""
    for path, (text, value) in given.items():
        hint = hint_of(schema, path)
        if is_dataclass(hint) and not isinstance(value, dict):
            names = ", ".join(field.name for field in fields(hint))
            raise UsageError(f"{path}={text}: it is a group of settings: write {path}.NAME=…, with NAME one of {names}")
        try:
            OmegaConf.update(config, path, value, force_add=True)
        except OmegaConfBaseException as error:
            if not isinstance(value, list | dict):
                raise wrong(path, text, hint) from error
            line = _line(error)
            raise UsageError(line if line.startswith(path) else f"{path}={text}: {line}") from error
    try:
        made = cast(T, OmegaConf.to_object(config))
    except InterpolationResolutionError as error:
        raise UsageError(f"{_line(error)}: write the name of a setting, as in ${{seed}}") from error
    except OmegaConfBaseException as error:
        raise UsageError(_line(error)) from error
    check_numbers(made)
    return expanded(made)


def _line(error: Exception) -> str:
    """An error of Hydra's or OmegaConf's as one line that begins with the setting."""
    cause, _, key = str(error.__cause__ or error).partition("full_key:")
    prefix = f"{key.split()[0]}: " if key.split() else ""
    return prefix + " ".join(cause.split())


def choices(group: str = "experiment") -> list[str]:
    """Names of the YAML choices in a group, and in folders of it, as in `dynamics/no_tools`."""
    directory = DIRECTORY / group
    return sorted(path.relative_to(directory).with_suffix("").as_posix() for path in directory.rglob("*.yaml"))


def _check(schema: DictConfig, overrides: Sequence[str]) -> None:
    """Raise UsageError, with the nearest existing setting, if an override names none."""
    known, free_paths = _paths(schema), _free(schema)
    for override in overrides:
        key, separator, value = override.partition("=")
        bare = key.lstrip("+")
        free = any(bare.startswith(f"{path}.") for path in free_paths)
        if not separator:
            hint = f", as in run={override}" if "run" in known and "/" in override else ""
            raise UsageError(f"cannot read {override!r}: write key=value{hint}")
        if key in CHOICES:
            if value not in choices(key) and not value.endswith(OWN_SUFFIXES):
                raise UsageError(f"there is no {key} {value!r}: write one of {', '.join(choices(key))}, or your own FILE.yaml")
        elif free and key == bare and bare not in known:
            raise UsageError(f"{key} has no default to override: write +{override}")
        elif not free and bare not in known:
            raise UsageError(f"unknown setting {bare!r}: {_remedy(bare, known, free_paths)}")


def _remedy(path: str, known: Sequence[str], free: Sequence[str]) -> str:
    """What to write in place of a `path` that names no setting."""
    if close := here(path, known, free) or _nearest(path, [name for name in known if not _beneath(name, known)]):
        return f"did you mean {' or '.join(f'{name}=…' for name in close)}?"
    group = path.rpartition(".")[0]
    while group and not _beneath(group, known):
        group = group.rpartition(".")[0]
    return f"settings{f' of {group}' if group else ''} are {', '.join(_beneath(group, known))}"


def _beneath(group: str, known: Sequence[str]) -> list[str]:
    """The names right beneath a group of settings, those of the top beneath an empty one."""
    prefix = f"{group}." if group else ""
    names = (path.removeprefix(prefix) for path in known if path.startswith(prefix))
    return [name for name in names if "." not in name]


def _nearest(path: str, known: Sequence[str]) -> list[str]:
    """The settings that a wrong `path` may mean: those whose last name is spelt most alike, else one that is as a whole."""
    leaf = path.rpartition(".")[2]
    alike = difflib.get_close_matches(leaf, {other.rpartition(".")[2] for other in known}, 1, 0.7)
    same = [other for other in known if other.rpartition(".")[2] in alike]
    return difflib.get_close_matches(path, same, 3, 0) or difflib.get_close_matches(path, known, 1, 0.8)


def _paths(node: Any, prefix: str = "") -> list[str]:
    """Every key of a configuration, dotted."""
    paths = []
    for key in node:
        path = f"{prefix}{key}"
        paths.append(path)
        known = OmegaConf.is_dict(node) and not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key)
        if known and OmegaConf.is_dict(node[key]):
            paths += _paths(node[key], f"{path}.")
    return paths


def _free(schema: DictConfig, prefix: str = "") -> list[str]:
    """Keys under which anything may be written: plain mappings, not dataclasses."""
    paths = []
    for key in schema:
        value = None if OmegaConf.is_missing(schema, key) else schema[key]
        if isinstance(value, DictConfig):
            path = f"{prefix}{key}"
            paths += [path] if OmegaConf.get_type(value) is dict else _free(value, f"{path}.")
    return paths
