"""A CPU platform for verl, which ships with accelerators only.

verl finds it through the entry-point group `verl.plugins` or `VERL_USE_EXTERNAL_MODULES=learner.verl.cpu_platform`. Importing it
only registers the name `cpu`; a process uses it if `VERL_PLATFORM=cpu` is set, so a GPU cluster never falls back to it silently.
"""

from __future__ import annotations

import os
from collections.abc import Generator
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
        return "CPU"

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {}

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
