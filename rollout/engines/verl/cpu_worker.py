"""How vLLM's worker takes new weights on a CPU from verl. On GPUs verl's own extension does it."""

from __future__ import annotations

from typing import Any

import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rollout.engines.vllm_weights import repack_tied


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    """vLLM's CPU kernels keep packed copies of the weights: they are loaded layer by layer, where verl loads them in place."""

    model_runner: Any

    def update_weights_from_ipc(self, peft_config: Any = None, base_sync_done: bool = False, use_shm: bool = False) -> None:
        """Receive all weights from the process that verl calls the checkpoint engine's. Raises ValueError if some are missing."""
        model = self.model_runner.model
        loaded: set[str] = set()

        def load(weights: list[tuple[str, torch.Tensor]], _: bool) -> None:
            # Copied out of the bucket, which is filled anew while a layer still waits for the rest of its weights.
            loaded.update(model.load_weights([(name, tensor.clone()) for name, tensor in weights]))

        receiver = BucketedWeightReceiver(self._get_zmq_handle(), torch.device("cpu"), use_shm=use_shm)
        initialize_layerwise_reload(model)
        receiver.receive_weights(load)
        finalize_layerwise_reload(model, self.model_runner.model_config)
        repack_tied(model, loaded)
        if missing := {name for name, _ in model.named_parameters()} - loaded:
            raise ValueError(f"an update of the weights has no {min(missing)}, and {len(missing)} are missing in all")
