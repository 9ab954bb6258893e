"""Settings of the learner; these dataclasses own the defaults that `configs/` overrides."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from envs.errors import UsageError
from learner.trainer import TRAINERS, find_trainer


class Precision(StrEnum):
    """Arithmetic of forward and backward passes. Weights, gradients' reduction and optimizer state are float32 in both."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass
class VerlSettings:
    """Any setting of verl's own dataclasses, by verl's name, as in `+learner.verl.engine.fsdp_size=8`.

    What has a name of ours keeps it. Unknown names, values of another type and contradictions are refused at once;
    `docs/training.md` says which settings are of use.
    """

    engine: dict[str, Any] = field(default_factory=dict)
    """FSDPEngineConfig: fsdp_size, param_offload, optimizer_offload, model_dtype, mixed_precision, …"""

    model: dict[str, Any] = field(default_factory=dict)
    """HFModelConfig: lora_rank, lora_alpha, target_modules, exclude_modules, override_config, use_liger, …"""

    optimizer: dict[str, Any] = field(default_factory=dict)
    """FSDPOptimizerConfig: optimizer, optimizer_impl, override_optimizer_config."""

    actor: dict[str, Any] = field(default_factory=dict)
    """FSDPActorConfig: policy_loss, loss_agg_mode, clip_ratio_c, use_kl_loss, kl_loss_coef, kl_loss_type, …"""

    algorithm: dict[str, Any] = field(default_factory=dict)
    """AlgoConfig: adv_estimator, use_kl_in_reward, kl_ctrl, rollout_correction, filter_groups, …"""


@dataclass
class LearnerConfig:
    """How the policy is updated: workers, precision, optimizer and the clipped policy objective."""

    kind: str = "verl"
    """What updates the policy: verl, or module:Class for a trainer of your own, as `learner.trainer.Trainer` describes it."""

    workers: int = 1
    """Processes that share the model (FSDP2) and the batch."""

    nodes: int = 1
    """Machines over which the workers are spread, as many on each."""

    gpus_per_worker: float = 0.0
    """0 trains on CPU over gloo, 1 on one GPU per worker over NCCL. A single worker may take a share and leave the rest of its GPU
    to rollout workers, as 0.5 and `rollout.gpus_per_worker=0.5`."""

    threads_per_worker: int = 2
    """Threads of PyTorch in each worker. More than there are cores is far slower than fewer."""

    precision: Precision = Precision.float32
    """float32 or bfloat16."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    micro_batch_tokens: int = 16384
    """Tokens of one forward pass in one worker; a larger batch is split and its gradients are summed."""

    export_dtype: str = "auto"
    """Of the weights in a checkpoint's `policy/`: auto (what the policy's own config.json names), float32, bfloat16 or float16. The
    weights that training goes on from are float32."""

    freeze_vision: bool = False
    """Keep the vision tower as it is."""

    adam_beta1: float = 0.9
    """AdamW's decay of the first moment."""

    adam_beta2: float = 0.999
    """AdamW's decay of the second moment."""

    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""

    grad_clip: float = 1.0
    """Largest L2 norm of the whole gradient."""

    clip_low: float = 0.2
    """The policy ratio is clipped below at 1 - clip_low (Schulman et al. 2017, arXiv:1707.06347)."""

    clip_high: float = 0.28
    """… and above at 1 + clip_high; above clip_low it leaves room for rare tokens (DAPO, arXiv:2503.14476)."""

    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus in the policy objective."""

    ppo_epochs: int = 1
    """Passes over the batch in one policy step."""

    mini_batches: int = 1
    """Optimizer steps in one pass over the batch."""

    normalise_by_std: bool = True
    """Divide advantages by the standard deviation of the group's rewards (GRPO, arXiv:2402.03300; Dr. GRPO does not)."""

    verl: VerlSettings = field(default_factory=VerlSettings)

    def check(self) -> None:
        """Raise UsageError if these settings contradict each other."""
        share = self.gpus_per_worker
        if not 0 <= share <= 1 or (0 < share < 1 < self.workers):
            raise UsageError(f"learner.gpus_per_worker={share:g}: write 0, 1, or a share of one GPU for a single worker")
        if self.workers < 1 or self.nodes < 1 or self.workers % self.nodes:
            raise UsageError(f"learner.workers={self.workers} cannot be spread evenly over learner.nodes={self.nodes}")
        if self.export_dtype not in (dtypes := ("auto", "float32", "bfloat16", "float16")):
            raise UsageError(f"learner.export_dtype={self.export_dtype}: write one of {', '.join(dtypes)}")
        if self.kind not in TRAINERS:  # those take seconds to import
            find_trainer(self.kind)
        if self.verl != VerlSettings():
            from learner.verl.configuration.passthrough import check  # it reads verl's source, which takes a moment

            check(self)
