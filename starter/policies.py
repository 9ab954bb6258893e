"""Finds the directory of the policy that the setting `policy=` names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from envs.errors import UsageError
from envs.runtime.regular_file import open_file

STARTERS = {"starter": Path(__file__).parent / "microworld", "starter_mixture": Path(__file__).parent / "mixture"}
"""The policies that the project ships, by the name that a user writes."""
_SMOLLM2 = "runs/smollm2"
_MERGE = "merge the two (peft's merge_and_unload) and save them as one directory"


def find_policy(policy: str) -> str:
    """The absolute directory of a policy in the Hugging Face layout. Raises UsageError, with what to write instead, if there is no
    model in it."""
    path = STARTERS.get(policy) or Path(policy).expanduser()
    if not (path / "config.json").is_file():
        raise UsageError(f"policy={policy}: {_remedy(policy, path)}")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        known, foreign = "model_type" in config, "AutoConfig" in (config.get("auto_map") or {})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"policy={policy}: {path}/config.json cannot be read: {' '.join(str(error).split())}") from error
    if not known:
        raise UsageError(f"policy={policy}: {path}/config.json names no model_type: write a directory in the Hugging Face layout")
    if foreign and not _in_transformers(config["model_type"]):
        raise UsageError(
            f"policy={policy}: {config['model_type']} is none of transformers' models but code in {path} (trust_remote_code), "
            "which is never run: write another policy"
        )
    if (path / "adapter_config.json").is_file():
        # transformers would take the adapter and its own model, vLLM the one that lies here.
        raise UsageError(f"policy={policy}: {path} holds an adapter beside a model: {_MERGE}, or take adapter_config.json out")
    return str(path.absolute())


def _in_transformers(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING  # imported late: it takes seconds

    return model_type in CONFIG_MAPPING


def policies_of(run: Path, settings: Mapping[str, Any]) -> Iterator[str]:
    """The absolute directories of policies in whose tokens the episodes of a run may be, the likeliest first: its checkpoints, what
    `settings`, those of its `config.yaml`, name as `policy` and `tokenizer`, and what `evaluation.json` says was evaluated.

    A relative name is looked for from here, from the run, and from the directory that holds the directory of runs.
    """
    for path in sorted(run.glob("checkpoints/*/policy")):
        yield from _found(str(path))
    for name in (settings.get("policy"), settings.get("tokenizer"), *_evaluated(run)):
        if isinstance(name, str) and name and "\0" not in name:
            for place in (name, str(run / name), str(run.absolute().parent.parent / name)):
                yield from _found(place)


def _found(policy: str) -> Iterator[str]:
    with suppress(UsageError, OSError, ValueError):
        yield find_policy(policy)


def _evaluated(run: Path) -> list[Any]:
    try:
        with open_file(run / "evaluation.json") as file:
            records = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return []
    return [record.get("policy") for record in records if isinstance(record, dict)] if isinstance(records, list) else []


def _remedy(policy: str, path: Path) -> str:
    """What is at `path` instead of a model, and what to write."""
    if "://" in policy:
        return "a policy is read from a local directory: copy it to one and write that"
    if path.suffix == ".gguf":
        return "a GGUF file holds no model in the Hugging Face layout: write the directory of the one that it was made of"
    if path.is_file():
        return f"it is a file: write its directory, policy={path.parent}"
    if (path / "adapter_config.json").is_file():
        return f"it holds an adapter without its model: {_MERGE}"
    if shards := sorted(path.glob("**/model_world_size_*_rank_0.pt")):
        return (
            f"it holds verl's sharded checkpoint: python -m verl.model_merger merge --backend fsdp --local_dir {shards[-1].parent} "
            "--target_dir DIR, and write policy=DIR"
        )
    if inner := sorted(path.glob("policy/config.json")) or sorted(path.glob("checkpoints/*/policy/config.json")):
        return f"there is no model in {path} itself; write policy={inner[-1].parent}"
    if not path.exists() and policy.rstrip("/") == _SMOLLM2:
        return "there is no such directory yet: run make smollm2, which fetches 93 MB"
    if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", policy):
        return f"there is no such directory; a model of the Hugging Face Hub is fetched by hf download {policy} --local-dir DIR"
    return f"there is no model in {path}; write policy={' or '.join(STARTERS)}, or a directory with a config.json"
