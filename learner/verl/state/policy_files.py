"""The directory `policy/` of a checkpoint, in the Hugging Face layout: each rank writes some of the files, tensor by tensor.

No rank ever holds more of the model than one bucket: the tensors are read back from the checkpoint's shards.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from fsspec.core import url_to_fs
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from learner.verl.model.adapters import merged, merged_names, scalings
from learner.verl.state.checkpoints import WEIGHT, reader_of, weights

WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth")
FILE_BYTES = 5 * 10**9
"""A file of weights is no larger, unless one tensor is: the limit of the Hub's own tools."""

BUCKET_BYTES = 32 * 2**20
"""How much is read back at a time, unless one tensor is larger."""

# A rank reads on its own here, as it should. (The filter is set once: to set it around a call is not safe in a thread.)
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The names of dtypes in safetensors (https://huggingface.co/docs/safetensors/index#format)."""


@dataclass(frozen=True)
class Source:
    """Weights of the module, mostly one, and what they are in the policy's files, mostly one tensor under another name."""

    weights: dict[str, torch.Tensor]
    targets: dict[str, torch.Tensor]
    """Both by name, without data."""

    @property
    def file_bytes(self) -> int:
        """The bytes that it takes in a file."""
        return sum(tensor.nbytes for tensor in self.targets.values())

    @property
    def memory_bytes(self) -> int:
        """The bytes that its weights take in memory."""
        return sum(tensor.nbytes for tensor in self.weights.values())


class PolicyFiles:
    """Writes the policy of one module. `policy_dir` is the directory that it was loaded from, `dtype` that of the written weights:
    "auto" for the one that the directory's config.json names, else float32."""

    def __init__(self, module: PreTrainedModel, policy_dir: str | Path, dtype: str, *, tied: bool) -> None:
        self._module, self._policy_dir = module, Path(policy_dir)
        self._scalings = scalings(module)
        self._config = json.loads((self._policy_dir / "config.json").read_text())
        self._dtype_name = _own_dtype(self._config) if dtype == "auto" else dtype
        self._dtype = getattr(torch, self._dtype_name)
        self._found = _shapes(self._policy_dir)
        # Settled now: in the background, the sharded engine may be about to swap its parameters.
        self._files = _files(self._sources(set(module._tied_weights_keys or ()) if tied else set()))

    def __call__(self, training: str, policy: str, rank: int, ranks: int) -> None:
        """Write this rank's files into `policy`; `training` holds the checkpoint's shards."""
        fs, directory = url_to_fs(policy)
        fs.makedirs(directory, exist_ok=True)
        for index, name in enumerate(self._files):
            if index % ranks == rank:
                with fs.open(f"{directory}/{name}", "wb") as file:
                    self._write(file, training, self._files[name])
        if rank == 0:
            self._write_others(fs, directory)

    def _sources(self, tied: set[str]) -> Iterator[Source]:
        empty = {
            name: torch.empty(weight.shape, dtype=weight.dtype, device="meta")
            for name, weight in weights(self._module).items()
            if name not in tied
        }
        all_targets = self._in_files(empty)
        together = dict(empty)
        for names in merged_names(empty, self._scalings):
            targets = self._in_files({name: empty[name] for name in names})
            if all(target in all_targets and tensor.shape == all_targets[target].shape for target, tensor in targets.items()):
                of_module = {name: together.pop(name) for name in names}
                yield Source(of_module, {target: all_targets.pop(target) for target in targets})
        if together:  # what a family's files join of several weights
            yield Source(together, all_targets)

    def _in_files(self, of_module: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of the module as the policy's files have them: names, shapes and dtype."""
        plain = dict(merged(of_module, of_module.__getitem__, self._scalings, self._dtype))
        converted = revert_weight_conversion(self._module, plain)
        return {
            name: self._turned(name, tensor).to(self._dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
            for name, tensor in converted.items()
        }

    def _turned(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor as the policy's own files have it: of some families transformers turns stacked experts round while it reads
        them (Qwen3-VL-MoE), and does not turn them back."""
        found = self._found.get(name)
        return tensor.mT if tensor.dim() == 3 and found != tensor.shape and found == tensor.mT.shape else tensor

    def _write(self, file: Any, training: str, sources: list[Source]) -> None:
        """One file in the format of safetensors, whose own writer would hold all of it in memory."""
        file.write(_header(sources))
        for bucket in _runs(sources, BUCKET_BYTES, lambda source: source.memory_bytes):
            read = {
                f"{WEIGHT}{name}": torch.empty_like(weight, device="cpu")
                for source in bucket
                for name, weight in source.weights.items()
            }
            dcp.load(read, storage_reader=reader_of(training), no_dist=True)
            for source in bucket:
                tensors = self._in_files({name: read.pop(f"{WEIGHT}{name}") for name in source.weights})
                for name in source.targets:
                    file.write(memoryview(tensors[name].reshape(-1).view(torch.uint8).numpy()))

    def _write_others(self, fs: Any, directory: str) -> None:
        """Configuration, tokenizer and processor, as they were, and the index of several files."""
        for path in self._policy_dir.rglob("*"):
            if path.is_file() and not any(fnmatch(path.name, pattern) for pattern in WEIGHT_FILES):
                target = f"{directory}/{path.relative_to(self._policy_dir).as_posix()}"
                fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                fs.pipe_file(target, path.read_bytes())
        if self._dtype_name != _own_dtype(self._config):
            config = {name: value for name, value in self._config.items() if name != "torch_dtype"} | {"dtype": self._dtype_name}
            fs.pipe_file(f"{directory}/config.json", json.dumps(config, indent=2).encode() + b"\n")
        if len(self._files) > 1:
            placed = [(name, source) for name, sources in self._files.items() for source in sources]
            index = {
                "metadata": {"total_size": sum(source.file_bytes for _, source in placed)},
                "weight_map": {target: name for name, source in placed for target in source.targets},
            }
            fs.pipe_file(f"{directory}/model.safetensors.index.json", json.dumps(index, indent=2).encode() + b"\n")


def _files(sources: Iterator[Source]) -> dict[str, list[Source]]:
    """The files of weights, and what is in each, in order; the same on every rank."""
    files = list(_runs(sources, FILE_BYTES, lambda source: source.file_bytes))
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {f"model-{number:05}-of-{len(files):05}.safetensors": members for number, members in enumerate(files, 1)}


def _shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of what is in a policy's files, by name."""
    shapes = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118  it is no dictionary
    return shapes


def _own_dtype(config: dict[str, Any]) -> str:
    """The dtype that a config.json names, in its newer or older form; float32 if it names none."""
    for part in (config, config.get("text_config") or {}):
        if name := part.get("dtype") or part.get("torch_dtype"):
            return str(name).removeprefix("torch.")
    return "float32"


def _header(sources: list[Source]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for source in sources:
        for name, tensor in source.targets.items():
            start, end = end, end + tensor.nbytes
            table[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _runs(sources: Iterable[Source], limit: int, size: Callable[[Source], int]) -> Iterator[list[Source]]:
    """The sources in their order, in runs of at most `limit` bytes each, or of one."""
    run: list[Source] = []
    total = 0
    for source in sources:
        if run and total + size(source) > limit:
            yield run
            run, total = [], 0
        run.append(source)
        total += size(source)
    yield run
