"""Composes a command's settings: the dataclass's defaults, then a YAML choice, then `key=value` from the command line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from envs.errors import UsageError

DIRECTORY = Path(__file__).parent
RETIRED = (("learner", "banned_token_ids"), ("learner", "seed"), ("rollout", "backend"))
"""Settings that a `config.yaml` of an earlier version may hold and that no longer exist."""


def compose[T](name: str, schema: type[T], overrides: Sequence[str]) -> T:
    """The settings of command `name` as an instance of its dataclass. Raises UsageError if an override is wrong."""
    ConfigStore.instance().store(name="schema", node=schema)
    _check(OmegaConf.structured(schema), overrides)
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(DIRECTORY)):
            config = hydra_compose(config_name=name, overrides=list(overrides))
        return cast(T, OmegaConf.to_object(config))
    except (HydraException, OmegaConfBaseException) as error:
        cause, _, key = str(error.__cause__ or error).partition("full_key:")
        prefix = f"{key.split()[0]}: " if key.split() else ""
        raise UsageError(prefix + " ".join(cause.split())) from error


def compose_again[T](saved: Path, schema: type[T], overrides: Sequence[str]) -> T:
    """The settings that a run began with (its `config.yaml`), with `overrides` applied. Raises UsageError if one is wrong."""
    _check(OmegaConf.structured(schema), overrides)
    try:
        # Hydra's parser, as when the run was begun: YAML would read quotes and backslashes otherwise.
        parsed = OverridesParser.create().parse_overrides([text for text in overrides if not text.startswith("experiment=")])
        given = OmegaConf.create()
        for override in parsed:
            OmegaConf.update(given, override.key_or_group, override.value(), force_add=True)
        begun: Any = OmegaConf.load(saved)
        for part, name in RETIRED:
            if part in begun:
                begun[part].pop(name, None)
        return cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), begun, given)))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UsageError(f"{saved}: {' '.join(str(error).split())}") from error


def choices(group: str = "experiment") -> list[str]:
    """Names of the YAML choices in a group."""
    return sorted(path.stem for path in (DIRECTORY / group).glob("*.yaml"))


def _check(schema: DictConfig, overrides: Sequence[str]) -> None:
    """Raise UsageError, with the nearest existing setting, if an override names none."""
    known, free_paths = _paths(schema), _free(schema)
    for override in overrides:
        key, separator, value = override.partition("=")
        bare = key.lstrip("+~")
        free = any(bare.startswith(f"{path}.") for path in free_paths)
        if not separator:
            raise UsageError(f"cannot read {override!r}: write key=value")
        if key == "experiment":
            if value not in choices():
                raise UsageError(f"there is no experiment {value!r}: write one of {', '.join(choices())}")
        elif free and key == bare and bare not in known:
            raise UsageError(f"{key} has no default to override: write +{override}")
        elif not free and bare not in known:
            close = difflib.get_close_matches(bare, known, 1, 0.6)
            remedy = f"did you mean {close[0]}=…?" if close else f"settings are {', '.join(schema)}"
            raise UsageError(f"unknown setting {bare!r}: {remedy}")


def _paths(node: Any, prefix: str = "") -> list[str]:
    """Every key of a configuration, dotted."""
    paths = []
    for key in node:
        path = f"{prefix}{key}"
        paths.append(path)
        if OmegaConf.is_dict(node) and not OmegaConf.is_missing(node, key) and OmegaConf.is_dict(node[key]):
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
