"""Before a policy is trained: what its files say that would make it another model on the learner than on the sampler.

Evaluations, which have no learner, do not ask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from envs.errors import UsageError

_BY_LENGTH = ("longrope", "su", "dynamic")
"""Rotary embeddings that transformers chooses by the longest sequence at hand, and vLLM once, by the longest that there may be."""


def check_policy(directory: str | Path, max_model_len: int) -> None:
    """Raise UsageError if the policy in `directory` cannot be trained: if it is quantised, if its positions depend on the length of
    a sequence within `max_model_len` tokens, or if transformers and vLLM would read other files."""
    config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    for part in _parts(config):
        if method := part.get("quantization_config") or part.get("compression_config"):
            name = method.get("quant_method", "unknown method") if isinstance(method, dict) else method
            raise UsageError(
                f"policy={directory} is quantised ({name}), which the learner cannot train: write the model that it was made of"
            )
        for rope in _ropes(part):
            most = rope.get("original_max_position_embeddings") or part.get("original_max_position_embeddings")
            most = most or part.get("max_position_embeddings")
            if (rope.get("rope_type") or rope.get("type")) in _BY_LENGTH and most and most < max_model_len:
                raise UsageError(
                    f"policy={directory} has other positions beyond {most} tokens, by rules that sampler and learner do not share: "
                    f"write rollout.engine.max_model_len={most}, and rollout.episode.max_tokens no larger"
                )

    if differ := sorted(_of_transformers(Path(directory)) ^ _of_vllm(Path(directory))):
        raise UsageError(
            f"policy={directory} has files of weights that sampler and learner do not both read: {', '.join(differ[:3])}: leave "
            "one set of weights there, with its model.safetensors.index.json if it has several files"
        )


def _of_transformers(directory: Path) -> set[str]:
    whole = directory / "model.safetensors"
    return {whole.name} if whole.is_file() else _of_vllm(directory)


def _of_vllm(directory: Path) -> set[str]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
    return {path.name for path in directory.glob("*.safetensors")}


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A configuration, and that of its language model."""
    yield config
    for value in config.values():
        if isinstance(value, dict) and "num_hidden_layers" in value:
            yield value


def _ropes(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The settings of rotary embeddings, in the newer or older form, of all layers or of each kind of them."""
    for value in (part.get("rope_parameters"), part.get("rope_scaling")):
        if isinstance(value, dict):
            yield value
            yield from (inner for inner in value.values() if isinstance(inner, dict))
