"""Attention over packed sequences, for transformers' attention interface: no padding and no mask of tokens × tokens.

The sequences of a micro-batch lie one behind the other in a single row. Text layers take their borders from `packing.use`; vision
towers bring their own (`cu_seqlens`). The kernel is flash-attention's where that package is installed, PyTorch's
`torch.nn.attention.varlen` on other GPUs, both for 16-bit numbers, and `scaled_dot_product_attention` over batches of about equally
long sequences for everything else. With Ulysses sequence parallelism (Jacobs et al. 2023, arXiv:2309.14509) a rank holds a part of
the tokens outside attention, and a part of the heads inside.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import getclosurevars, signature
from sys import modules
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.nn.functional import all_to_all_single
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from envs.errors import UsageError
from learner.verl.model import recurrence
from learner.verl.model.packing import Packing, in_batches, in_use

TEXT = "toolwise_packed"
TOWER = "toolwise_packed_flash"
"""The names under which transformers knows the function; from one with "flash" in it towers expect that it takes `cu_seqlens`."""

LAYERS = {"full_attention", "sliding_attention", "attention"}
"""Kinds of layers whose attention can be packed. `recurrence` sees to those whose state would run on into the next sequence."""

BIDIRECTIONAL = {"gemma3", "gemma4", "gemma4_unified", "paligemma"}
"""Models whose image tokens see each other in both directions, by a mask that packed attention does not build."""

_flash_attention = find_spec("flash_attn")
HAS_FLASH_ATTENTION = _flash_attention is not None and _flash_attention.origin is not None
"""Whether flash-attention 2 is installed; version 4 puts other kernels into a folder of the same name, which is no package."""


PLAIN_MASKS = {"causal_mask_function", "sliding_window_overlay", "packed_sequence_mask_function"}
"""Functions of `transformers.masking_utils` whose masks packed attention has."""

_of_towers: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def window_of(*arguments: Any, mask_function: Callable[..., Any], **others: Any) -> int | None:
    """The mask of a layer as its sliding window, None without one, for transformers' mask interface.

    Not every layer hands its window to attention as well. Raises UsageError for a mask of another form, as of image tokens that see
    each other in both directions.
    """
    windows = []
    for name, values in _parts(mask_function):
        if name not in PLAIN_MASKS:
            raise UsageError(f"the policy asks for a mask of {name}, which the learner cannot compute packed: train another policy")
        windows += [values["sliding_window"]] if "sliding_window" in values else []
    return min(windows, default=None)


def _parts(mask_function: Any) -> list[tuple[str, dict[str, Any]]]:
    """The functions that a mask is made of, by the name of the one that made each, and the values that they were made with."""
    values = dict(getclosurevars(mask_function).nonlocals)
    name = mask_function.__qualname__.partition(".")[0]
    if name == "and_masks":
        return [part for one in values["mask_functions"] for part in _parts(one)]
    return [(name, values)]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | int | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Query, key and value of shape (1, heads, tokens, D) → (1, tokens, heads, D); grouped heads are allowed.

    `attention_mask` is what `window_of` makes of a mask.
    """
    if isinstance(attention_mask, int):
        sliding_window, attention_mask = attention_mask, None
    changed = [name for name in ("softcap", "s_aux") if others.get(name) is not None]
    if attention_mask is not None or dropout or changed or len(query) != 1:
        raise UsageError(
            f"{type(module).__name__} asks of attention what packed sequences do not have here "
            f"({', '.join(changed) or 'a mask, dropout or several rows'}): train another policy"
        )
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    group = None
    if cu_seq_lens_q is not None:
        packing = _of_towers.get(cu_seq_lens_q)
        if packing is None:
            packing = _of_towers[cu_seq_lens_q] = Packing(cu_seq_lens_q)
    else:
        # Imported late, here and below: verl settles on a platform while it is imported.
        from verl.utils.ulysses import get_ulysses_sequence_parallel_group

        packing, group = in_use(), get_ulysses_sequence_parallel_group()
    if group is not None:
        ranks, heads = dist.get_world_size(group), key.shape[1]
        if heads % ranks:
            key, value = (x.repeat_interleave(ranks // heads, dim=1) for x in (key, value))
        query, key, value = (_exchange(x, 1, 2, group) for x in (query, key, value))
    if query.shape[2] != packing.ends[-1]:
        raise UsageError(
            f"{type(module).__name__} attends to {query.shape[2]} tokens, the micro-batch has {packing.ends[-1]}: "
            "this model cannot be trained packed or with ulysses_sequence_parallel_size above 1"
        )
    window = None if not causal or sliding_window is None or sliding_window >= packing.longest else sliding_window
    tokens = [x[0].transpose(0, 1) for x in (query, key, value)]
    attend = _flash if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) else _sdpa
    attended = attend(*tokens, packing, causal, scaling, window)[None]
    return (attended if group is None else _exchange(attended, 1, 2, group)), None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    causal: bool,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """A kernel for sequences of various lengths, each tensor of shape (tokens, heads, D)."""
    window_size = (-1 if window is None else window - 1, 0) if causal else (-1, -1)
    offsets, longest = packing.offsets, packing.longest
    if HAS_FLASH_ATTENTION:
        from flash_attn import flash_attn_varlen_func  # ty: ignore[import-not-found]

        return flash_attn_varlen_func(
            *(query, key, value, offsets, offsets, longest, longest),
            softmax_scale=scale,
            causal=causal,
            window_size=window_size,
        )
    from torch.nn.attention.varlen import varlen_attn

    repeats = query.shape[1] // key.shape[1]
    query, key, value = (x.contiguous() for x in (query, *(x.repeat_interleave(repeats, dim=1) for x in (key, value))))
    attended = varlen_attn(query, key, value, offsets, offsets, longest, longest, scale=scale, window_size=window_size)
    assert isinstance(attended, torch.Tensor)  # alone, since nothing else was asked for
    return attended


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    causal: bool,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """The same with PyTorch's dense attention, batch by batch."""

    def attend(*three: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in three)
        length, mask = q.shape[2], None
        if window is not None and window < length:
            mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril_().triu_(1 - window)
        grouped = q.shape[1] != k.shape[1]
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=scale, enable_gqa=grouped
        )
        return attended.transpose(1, 2)

    return in_batches(attend, (query, key, value), packing.similar if causal else packing.equal)


def _exchange(tensor: torch.Tensor, split: int, join: int, group: dist.ProcessGroup) -> torch.Tensor:
    """Give each rank its part along one dimension, and put what the ranks send together along another."""
    parts = torch.stack(tensor.chunk(dist.get_world_size(group), dim=split))
    return torch.cat(all_to_all_single(torch.empty_like(parts), parts, group=group).unbind(), dim=join)


@contextmanager
def own_forward(config: Any) -> Generator[None]:
    """Keep transformers' forward of attention layers and of models that take images, which verl replaces for some families by name.

    verl's attention needs the package flash-attn; its models go round `get_image_features`, and send a blank image of their own
    through the tower if a micro-batch has none.
    """
    from verl.utils.model import get_hf_auto_model_class

    # Imports the module of the family, if it is one of transformers'; verl replaces in its kin as well.
    get_hf_auto_model_class(config)._model_mapping.get(type(config), None)
    own = [module for name, module in modules.items() if name.startswith("transformers.models.") and ".modeling_" in name]
    kinds = {kind for module in own for kind in vars(module).values() if isinstance(kind, type) and _is_replaced(kind)}
    forwards = [(kind, kind.forward) for kind in kinds]
    yield
    for kind, forward in forwards:
        kind.forward = forward


def _is_replaced(kind: Any) -> bool:
    return issubclass(kind, torch.nn.Module) and (kind.__name__.endswith("Attention") or hasattr(kind, "get_image_features"))


def install(model: PreTrainedModel) -> None:
    """Let the layers of a model use `packed_attention`. Raises UsageError if they cannot."""
    text = model.config.get_text_config()
    recurrent = recurrence.install(model)
    odd = set(getattr(text, "layer_types", None) or ()) - LAYERS - recurrent
    if odd or model.config.model_type in BIDIRECTIONAL:
        reason = f"layers of {', '.join(sorted(odd))}" if odd else "image tokens that see each other in both directions"
        raise UsageError(f"{model.config.model_type} has {reason}, which the learner cannot compute packed: train another policy")
    # transformers says it of no model with a state, though their attention asks the interface as well.
    if not (recurrent or getattr(model, "_supports_attention_backend", False)):
        raise UsageError(f"{type(model).__name__} has attention of its own, which cannot be packed: train another policy")
    text._attn_implementation_internal = TEXT
    for layer in model.modules():
        config = getattr(layer, "config", None)
        if config is not None and "cu_seqlens" in signature(layer.forward).parameters:
            config._attn_implementation_internal = TOWER


for _name in (TEXT, TOWER):
    AttentionInterface.register(_name, packed_attention)
AttentionMaskInterface.register(TEXT, window_of)
