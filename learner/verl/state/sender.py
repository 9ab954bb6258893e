"""The learner's side of weight updates to verl's servers: what verl's CheckpointEngineManager asks of each rank."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import torch
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.import_utils import import_external_libs
from verl.workers.engine_workers import ActorRolloutRefWorker

from learner.verl.state.weights import Publisher


class WeightSender:
    """Mixed into a training worker of verl's, whose `engine`, `model_config`, `rank` and `publisher` it uses."""

    engine: Any
    model_config: Any
    rank: int
    publisher: Publisher
    _channel: Any = None
    _hybrid: Any = None

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # ty: ignore[missing-attribute]
    def open_channel(self, settings: Any) -> None:
        """Get ready for servers with these settings (verl's `actor_rollout_ref`). They may be others than before."""
        # Imported late, here and below: a learner without verl's servers needs none of it, and the adapter imports vLLM.
        from verl.checkpoint_engine.base import CheckpointEngineRegistry

        rollout = omega_conf_to_dataclass(settings.rollout)
        transport = rollout.checkpoint_engine
        import_external_libs(transport.custom_backend_module)
        self._channel = CheckpointEngineRegistry.new(
            transport.backend,
            bucket_size=transport.update_weights_bucket_megabytes << 20,
            is_master=self.rank == 0,
            **transport.engine_kwargs.get(transport.backend, {}),
        )
        self._dtype = getattr(torch, rollout.dtype)
        self._hybrid = None
        if transport.backend == "naive":
            from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

            # verl's own worker for shared GPUs knows in which order to wake, load, offload and wake the rest. These are the parts
            # of itself that it uses for that.
            self._hybrid = SimpleNamespace(
                config=settings,
                actor=SimpleNamespace(engine=self.engine),
                rollout=ServerAdapter(rollout, self.model_config, device_mesh=cast(Any, None)),
                peft_merge=bool(self.model_config.lora.get("merge", False)),
                base_sync_done=True,
                layered_summon=False,
            )

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, blocking=False)  # ty: ignore[missing-attribute]
    async def update_weights(self, global_steps: int | None = None, mode: str = "auto") -> dict[str, Any]:
        """Send all weights as version `global_steps`: in the servers' dtype, or, if they share this GPU, as they are."""
        self.engine.served_dtype = self._dtype
        if self._hybrid is not None:
            await ActorRolloutRefWorker.update_weights(self._hybrid, global_steps, mode)
            return {}
        return await self._channel.send_weights(self._weights(), global_steps=global_steps) or {}

    @register(dispatch_mode=Dispatch.DP_COMPUTE, blocking=False)  # ty: ignore[missing-attribute]
    def execute_checkpoint_engine(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of this rank's end of the channel."""
        return getattr(self._channel, method)(*args, **kwargs)

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in self.publisher.named():  # every rank takes part in gathering each weight
            yield name, weight.to(self._dtype).contiguous()
