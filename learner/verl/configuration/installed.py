"""Whether what `learner.verl` names is installed: packages, and optimizers in them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from envs.errors import UsageError


def check_installed(model: Mapping[str, Any], optimizer: Mapping[str, Any]) -> None:
    """Raise UsageError if a package that these sections name is missing, or an optimizer is none or cannot be used."""
    module = optimizer.get("optimizer_impl") or "torch.optim"
    if module.partition(".")[0] == "bitsandbytes":
        raise UsageError(
            f"learner.verl.optimizer.optimizer_impl={module} takes no weights that FSDP2 has sharded: write torchao.optim, with "
            "optimizer=AdamW8bit"
        )
    packages = {
        "optimizer.optimizer_impl": optimizer.get("optimizer_impl"),
        "model.external_lib": model.get("external_lib"),
        "model.use_liger=true": "liger_kernel" if model.get("use_liger") else None,
        "model.lora_rank": "peft" if model.get("lora_rank") else None,
    }
    for path, needed in packages.items():
        if needed and find_spec(needed.partition(".")[0]) is None:
            raise UsageError(f"learner.verl.{path} needs the package {needed.partition('.')[0]}, which is not installed")
    if optimizer.keys() & {"optimizer_impl", "optimizer"}:
        _check_optimizer(module, optimizer.get("optimizer") or "AdamW")


def _check_optimizer(module: str, name: str) -> None:
    try:
        known = vars(import_module(module))
    except ImportError as error:
        raise UsageError(f"learner.verl.optimizer.optimizer_impl={module} cannot be imported: {error}") from error
    kinds = sorted(kind for kind, value in known.items() if isinstance(value, type) and not kind.startswith("_"))
    if name not in kinds:
        close = difflib.get_close_matches(name, kinds, 1)
        remedy = f"did you mean {close[0]}?" if close else f"write {' or '.join(kinds)}"
        raise UsageError(f"learner.verl.optimizer.optimizer={name}: {module} has no such optimizer: {remedy}")
