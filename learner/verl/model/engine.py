"""verl's FSDP engine for language models, with packed attention and an output layer that never holds all logits.

`register` puts it in the place of verl's own, on CPU and GPU alike. verl prepares the micro-batches, shards the model and steps
the optimizer; its losses find `log_probs` and `entropy` in the form in which verl's engine gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name, get_vendor
from verl.utils.ulysses import slice_input_tensor
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, convert_weight_keys

from envs.errors import UsageError
from learner.verl.model import attention, packing
from learner.verl.model.adapters import merged_weights
from learner.verl.model.head import Bend, Head, Sampled
from learner.verl.model.loading import check_tied, whole_policy

WITHOUT = ("use_fused_kernels", "calculate_sum_pi_squared", "distillation_use_topk", "distillation_only")
"""Options of a pass that need logits of vocabulary × tokens, or another output layer than this one."""


class PackedEngine(FSDPEngineWithLMHead):
    """One rank's model. `head` is its output layer, `served_dtype` the type in which samplers are going to use its weights."""

    head: Head
    served_dtype: torch.dtype | None = None

    def _build_module(self) -> torch.nn.Module:
        if not self.use_remove_padding:
            raise UsageError("learner.verl.model.use_remove_padding=false: write true, the learner always packs sequences")
        with attention.own_forward(self.model_config.hf_config), whole_policy(self.model_config.path):
            module = super()._build_module()
        output = module.get_output_embeddings()
        if not isinstance(output, torch.nn.Linear):
            raise UsageError(f"{type(module).__name__} has no output embedding that is a plain linear layer: train another policy")
        check_tied(module, self.model_config.path)
        self.head = Head(output)
        self.head.bend = Bend.of(module.config.get_text_config())
        module.set_output_embeddings(self.head)
        without_noise(module)
        # verl shards each embedding apart, which must not lie in a layer that is sharded already (CLIP's and SigLIP's towers).
        around = {
            type(layer).__name__ for layer in module.modules() if any(isinstance(x, torch.nn.Embedding) for x in layer.children())
        }
        module._no_split_modules = sorted(set(module._no_split_modules or ()) - around) or None
        attention.install(module)
        return module

    def _build_lora_module(self, module: torch.nn.Module) -> torch.nn.Module:
        """verl's adapter, in float32 whatever the type of the weights that it adapts.

        verl gives it theirs, as FSDP of old wanted it. In bfloat16 steps of 1e-5 are rounded away where a number is larger than a
        few thousandths, and AdamW's second moment, of which a step keeps 0.999, cannot decay.
        """
        module = super()._build_lora_module(module)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return module

    def get_per_tensor_param(
        self, layered_summon: bool = False, base_sync_done: bool = False, fused: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """verl's names and weights, and no adapter beside them: it is merged into them. `fused` leaves experts together, which verl
        takes apart under Qwen's names."""
        unfuse = transformer_impl.unfuse_moe_params
        try:
            if fused:
                transformer_impl.unfuse_moe_params = lambda weights, model_type=None: weights  # ty: ignore[invalid-assignment]
            return self._weights(layered_summon, base_sync_done, **kwargs)
        finally:
            transformer_impl.unfuse_moe_params = unfuse

    def _weights(self, layered_summon: bool, base_sync_done: bool, **kwargs: Any) -> tuple[Any, Any]:
        if self._is_lora:
            return merged_weights(self.module, self.served_dtype), None
        if torch.distributed.get_world_size() == 1 and get_device_name() == "cpu":
            return self._lone_weights(), None
        return super().get_per_tensor_param(layered_summon=layered_summon, base_sync_done=base_sync_done, **kwargs)

    def _lone_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """A lone rank has whole weights; verl would gather them, and so copy each."""
        weights = convert_weight_keys(self.module.state_dict(), self.module)
        local = ((name, weight.to_local() if isinstance(weight, DTensor) else weight) for name, weight in weights.items())
        return transformer_impl.unfuse_moe_params(local, self.model_config.hf_config.model_type)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """verl's inputs of one pass; besides, tells the layers and the output layer what they are to work on."""
        for option in WITHOUT:
            if tu.get_non_tensor_data(data=micro_batch, key=option, default=False):
                raise UsageError(
                    f"{option}=true needs the logits of the whole vocabulary, which the learner never holds: write false"
                )
        inputs, outputs = super().prepare_model_inputs(micro_batch)
        tokens: Any = micro_batch["input_ids"]
        offsets, padding = tokens.offsets(), outputs["pad_size"]
        packing.use(F.pad(offsets, (0, 1), value=int(offsets[-1]) + padding) if padding else offsets)
        wanted = F.pad(_next_is_trained(micro_batch["loss_mask"]), (0, padding))
        if self.use_ulysses_sp:
            wanted = slice_input_tensor(wanted, dim=0, padding=False)
        places = wanted.nonzero()[:, 0]
        self.head.asked = Sampled(
            places=places,
            tokens=outputs["input_ids_rmpad_rolled"][places],
            temperatures=outputs["temperature_rmpad"][places],
            with_entropy=tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False),
        )
        self.head.answer = None
        return inputs, outputs | {"tokens": len(wanted)}

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Jagged `log_probs` and, if asked for, `entropy`, under the token before as verl files them; 0 at all other places."""
        asked, tokens = self.head.asked, cast(Any, micro_batch["input_ids"])
        assert asked is not None
        answer, bend = self.head.answer, self.head.bend
        if answer is None or (output.logits is not answer if bend == Bend() else not _is_bent(output.logits, answer, bend)):
            raise UsageError(
                f"{type(self.module).__name__} scales, caps or replaces the logits of its output layer, "
                "which the learner cannot follow: train another policy"
            )
        self.head.answer = None  # it would keep the whole pass in memory until the next one
        if output.logits is not answer:
            answer = answer + 0.0 * output.logits  # FSDP waits for gradients of what its module returned
        columns = answer[0].unbind(dim=-1) if asked.with_entropy else answer[0, :, :1].unbind(dim=-1)
        found = {}
        for name, values in zip(("log_probs", "entropy"), columns, strict=False):
            row = values.new_zeros(output_args["tokens"]).index_copy(0, asked.places, values)
            row = self._gather_and_unpad_packed(row, output_args["pad_size"])
            found[name] = torch.nested.nested_tensor_from_jagged(row, tokens.offsets())
        return found


def _is_bent(logits: torch.Tensor, answer: torch.Tensor, bend: Bend) -> bool:
    """Whether a model did with its output layer's answer what its configuration says of logits."""
    return logits.shape == answer.shape and torch.allclose(logits.detach(), bend(answer.detach()), rtol=1e-5, atol=1e-6)


def without_noise(module: torch.nn.Module) -> None:
    """Have a model compute in training as it does otherwise, as samplers do: without dropout, and without the noise of routers.

    Layers that are computed again in the backward pass must know of training, for that alone.
    """

    def train(mode: bool = True) -> torch.nn.Module:
        for layer in module.modules():
            layer.training = mode and isinstance(layer, GradientCheckpointingLayer)
        return module

    module.train = train
    for layer in module.modules():
        for name in [name for name, value in vars(layer).items() if isinstance(value, float) and name.endswith("dropout")]:
            setattr(layer, name, 0.0)


def _next_is_trained(loss_mask: Any) -> torch.Tensor:
    """Jagged mask → whether the token after each one is trained on, shape (tokens,); a sequence's last token has none after it."""
    following = torch.roll(loss_mask.values().bool(), -1)
    following[loss_mask.offsets()[1:] - 1] = False
    return following


def register() -> None:
    """Let verl build this engine for language models on this process's kind of device."""
    # verl's own is registered for the device whoever made it; an engine for its vendor goes before.
    EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=get_device_name(), vendor=get_vendor())(
        PackedEngine
    )
