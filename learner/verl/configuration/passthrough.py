"""What `learner.verl` may hold: which of verl's settings have a name of ours, which are not read, and what may be written.

Nothing of verl is imported here, so a mistake is answered at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from envs.errors import UsageError
from learner.verl.configuration.fields import check_names, flat
from learner.verl.configuration.installed import check_installed

if TYPE_CHECKING:
    from learner.config import LearnerConfig

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}

DEFAULTS: dict[str, dict[str, Any]] = {
    "engine": {
        "strategy": "fsdp2",
        "model_dtype": "fp32",
        # verl's dataclass says True: from the second micro-batch on every GPU would hold whole float32 gradients of all parameters.
        "use_no_sync_for_gradient_accumulation": False,
        # It compiles the entropy alone, which the output layer computes here.
        "use_torch_compile": False,
    },
    # The engine puts in an attention of its own for packed sequences.
    "model": {"use_remove_padding": True, "override_config": {"attn_implementation": "sdpa"}},
    "optimizer": {"min_lr_ratio": 0.0},
    "actor": {"strategy": "fsdp2", "rollout_n": 1, "use_dynamic_bsz": True},
    # verl's dataclasses say "gae", which needs a critic, and "sequence": a correction that is asked for is asked for by name.
    "algorithm": {"adv_estimator": "grpo", "rollout_correction": {"rollout_is": None}},
}
"""What stands in place of the defaults of verl's dataclasses, unless `learner.verl` says otherwise."""

NAMED: dict[str, tuple[str, Callable[[LearnerConfig], Any]]] = {
    "engine.mixed_precision.param_dtype": ("precision", lambda config: PRECISIONS[config.precision]),
    "model.enable_gradient_checkpointing": ("gradient_checkpointing", lambda config: config.gradient_checkpointing),
    "optimizer.betas": ("adam_beta1 and learner.adam_beta2", lambda config: [config.adam_beta1, config.adam_beta2]),
    "optimizer.weight_decay": ("weight_decay", lambda config: config.weight_decay),
    "optimizer.clip_grad": ("grad_clip", lambda config: config.grad_clip),
    "actor.clip_ratio_low": ("clip_low", lambda config: config.clip_low),
    "actor.clip_ratio_high": ("clip_high", lambda config: config.clip_high),
    "actor.entropy_coeff": ("entropy_coefficient", lambda config: config.entropy_coefficient),
    "actor.ppo_epochs": ("ppo_epochs", lambda config: config.ppo_epochs),
    "actor.freeze_vision_tower": ("freeze_vision", lambda config: config.freeze_vision),
    "algorithm.norm_adv_by_std_in_grpo": ("normalise_by_std", lambda config: config.normalise_by_std),
}
"""Settings of verl's that have a name of ours: the name, and the value that verl is given."""

ELSEWHERE = {
    **dict.fromkeys(
        (
            "engine.use_dynamic_bsz",
            "engine.max_token_len_per_gpu",
            "engine.micro_batch_size_per_gpu",
            "engine.infer_max_token_len_per_gpu",
            "engine.infer_micro_batch_size_per_gpu",
            "actor.use_dynamic_bsz",
            "actor.ppo_max_token_len_per_gpu",
            "actor.ppo_infer_max_token_len_per_gpu",
            "actor.ppo_micro_batch_size",
            "actor.ppo_micro_batch_size_per_gpu",
            "actor.ppo_infer_micro_batch_size_per_gpu",
        ),
        "write learner.micro_batch_tokens",
    ),
    **dict.fromkeys(
        (
            f"{section}.{name}"
            for section in ("engine", "actor")
            for name in ("entropy_from_logits_with_chunking", "entropy_checkpointing")
        ),
        "leave it out: entropies are computed in chunks as it is",
    ),
    **dict.fromkeys(
        ("engine.use_fused_kernels", "model.use_fused_kernels", "model.fused_kernel_options", "actor.use_fused_kernels"),
        "leave it out: the output layer is computed in chunks without whole logits as it is",
    ),
    **dict.fromkeys(("optimizer.lr", "actor.optim"), "write rl.learning_rate and cold_start.learning_rate"),
    **dict.fromkeys(
        ("optimizer.lr_warmup_steps", "optimizer.lr_warmup_steps_ratio"), "write rl.warmup_steps and cold_start.warmup_steps"
    ),
    **dict.fromkeys(("optimizer.lr_scheduler_type", "optimizer.warmup_style"), "write rl.schedule"),
    **dict.fromkeys(
        ("engine.use_remove_padding", "model.use_remove_padding", "actor.use_remove_padding"),
        "leave it out: sequences are always packed",
    ),
    **dict.fromkeys(("actor.engine", "actor.fsdp_config"), "write learner.verl.engine"),
    **dict.fromkeys(
        ("algorithm.lam", "algorithm.use_pf_ppo", "algorithm.pf_ppo"), "leave it out: it is for a critic, and there is none"
    ),
    **dict.fromkeys(("actor.shuffle", "actor.data_loader_seed"), "leave it out: mini-batches are drawn in a fixed order"),
    "engine.forward_only": "leave it out: only the reference policy's engine is",
    "engine.seed": "write seed",
    "engine.dtype": "write learner.precision",
    "engine.router_replay": "leave it out: verl's FSDP engine does not replay routers",
    "engine.turbo_config": "leave it out: it belongs to another engine of verl's",
    "model.override_config.attn_implementation": "leave it out: the learner's attention is its own",
    "model.path": "write policy",
    "model.tokenizer_path": "write policy",
    "model.hf_config_path": "write policy",
    "model.model_type": "leave it out: the policy is a language model",
    "model.load_tokenizer": "leave it out: the tokenizer is needed",
    "model.custom_chat_template": "leave it out: the sampler's chat template comes with policy=",
    "model.lora": "write learner.verl.model.lora_rank: adapters are merged into what is published",
    **dict.fromkeys(
        (
            f"model.{name}"
            for name in (
                "local_path",
                "local_hf_config_path",
                "local_tokenizer_path",
                "hf_config",
                "generation_config",
                "tokenizer",
                "processor",
                "architectures",
            )
        ),
        "leave it out: verl fills it in",
    ),
    "optimizer.grad_clip": "write learner.grad_clip",
    "optimizer.total_training_steps": "write rl.steps",
    "optimizer.min_lr_ratio": "write rl.min_learning_rate_ratio",
    "optimizer.num_cycles": "write rl.schedule=cosine: it is half a cycle",
    "optimizer.zero_indexed_step": "leave it out: the first step of a warm-up is not 0",
    "actor.strategy": "leave it out: the engine is FSDP2",
    "actor.rollout_n": "write rl.group_size",
    "actor.ppo_mini_batch_size": "write learner.mini_batches, how many there are",
    "actor.clip_ratio": "write learner.clip_low and learner.clip_high",
    "actor.grad_clip": "write learner.grad_clip",
    "actor.policy_loss.rollout_correction": "write learner.verl.algorithm.rollout_correction",
    "actor.use_rollout_log_probs": "write learner.verl.algorithm.rollout_correction.bypass_mode",
    "actor.calculate_entropy": "leave it out: the entropy is measured as it is",
    "actor.calculate_sum_pi_squared": "leave it out: the output layer does not compute it",
    "actor.use_prefix_grouper": "leave it out: verl's training worker does not read it",
    "actor.use_torch_compile": "write learner.verl.engine.use_torch_compile",
    "actor.ulysses_sequence_parallel_size": "write learner.verl.engine.ulysses_sequence_parallel_size",
    "actor.entropy_from_logits_chunk_size": "leave it out: entropies are computed in chunks as it is",
    "engine.entropy_from_logits_chunk_size": "leave it out: entropies are computed in chunks as it is",
    "actor.pad_to_length": "write learner.verl.engine.pad_to_length",
    "actor.checkpoint": "leave it out: checkpoints are ours",
    "actor.profiler": "leave it out: verl's profiler is not started",
    "actor.model_config": "write learner.verl.model",
    "actor.qat": "write learner.verl.engine.qat",
    "actor.global_batch_info": "leave it out: verl fills it in",
    "algorithm.filter_groups.max_inflight_gen_batches": "leave it out: groups are drawn one batch after another",
}
"""Settings of verl's that are not read from `learner.verl`, with what to do instead."""

ESTIMATORS = (
    "grpo",
    "grpo_vectorized",
    "grpo_passk",
    "rloo",
    "rloo_vectorized",
    "opo",
    "gpg",
    "gdpo",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
)
REFUSED_ESTIMATORS = {
    "gae": "needs a critic, and there is none",
    "remax": "needs the reward of a greedy rollout for each task",
    "optimal_token_baseline": "needs the sum of squared probabilities, which the output layer does not compute",
    "tir_optimal_token_baseline": "needs the sum of squared probabilities, which the output layer does not compute",
}
LOSSES = ("vanilla", "dppo_tv", "dppo_kl", "gspo", "sapo", "gpg", "clip_cov", "kl_cov", "geo_mean", "dro", "cispo")
BEYOND_ADVANTAGES = ("dro", "clip_cov", "kl_cov")
"""Losses in which a token without an advantage has a gradient, or decides which of the others have one."""
AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
DIVERGENCES = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
REJECTIONS = tuple(
    f"{level}_k{kind}"
    for level in ("token", "seq_sum", "seq_mean", "seq_max")
    for kind in (1, 2, 3)
    if (level, kind) != ("seq_max", 1)
)

CHOICES: dict[str, Iterable[Any]] = {
    "engine.strategy": ("fsdp2",),
    "algorithm.adv_estimator": ESTIMATORS,
    "actor.policy_loss.loss_mode": LOSSES,
    "actor.loss_agg_mode": AGGREGATIONS,
    "actor.kl_loss_type": (*DIVERGENCES, *(f"{name}+" for name in DIVERGENCES)),
    "algorithm.kl_penalty": DIVERGENCES,
    "algorithm.kl_ctrl.type": ("fixed",),
    "algorithm.rollout_correction.rollout_is": (None, "token", "sequence"),
    "algorithm.rollout_correction.loss_type": ("ppo_clip", "reinforce"),
    "algorithm.filter_groups.metric": ("reward",),
}
"""What may be written for a setting that verl's annotation only calls a text."""

REGISTERED = ("algorithm.adv_estimator", "actor.policy_loss.loss_mode")
"""Choices to which the module `model.external_lib` may add some, in verl's registries."""


def check(config: LearnerConfig) -> None:
    """Raise UsageError, one line with what to write instead, if `config.verl` cannot be passed on or contradicts the rest."""
    for section, given in asdict(config.verl).items():
        check_names(section, given)
        for path, value in flat(given, f"{section}."):
            if path in ELSEWHERE:
                raise UsageError(f"learner.verl.{path}: {ELSEWHERE[path]}")
            if path in NAMED:
                _check_named(path, value, config)
            if path in CHOICES and not (path in REGISTERED and config.verl.model.get("external_lib")):
                _check_choice(path, value)
    actor, algorithm, engine = (_merged(config, section) for section in ("actor", "algorithm", "engine"))
    loss, correction = actor.get("policy_loss", {}), algorithm["rollout_correction"]
    if loss.get("loss_mode") == "dro" and not (loss.get("dro_beta") or 0) > 0:
        raise UsageError("learner.verl.actor.policy_loss.loss_mode=dro: write …policy_loss.dro_beta, more than 0, as well")
    if loss.get("loss_mode", "vanilla") != "vanilla" and correction.get("bypass_mode"):
        raise UsageError("learner.verl.algorithm.rollout_correction.bypass_mode=true has a loss of its own: leave out loss_mode")
    if actor.get("loss_agg_mode") == "seq-mean-token-sum-norm" and not actor.get("loss_scale_factor"):
        raise UsageError(
            "learner.verl.actor.loss_agg_mode=seq-mean-token-sum-norm: write learner.verl.actor.loss_scale_factor, the longest "
            "response in tokens, as well: verl would divide by the longest of each micro-batch"
        )
    for option in (correction.get("rollout_rs") or "").split(","):
        if option.strip() and option.strip() not in REJECTIONS:
            _unknown("algorithm.rollout_correction.rollout_rs", option.strip(), REJECTIONS)
    if correction.get("rollout_rs") and correction.get("rollout_rs_threshold") is None:
        raise UsageError("learner.verl.algorithm.rollout_correction.rollout_rs: write …rollout_rs_threshold as well")
    if algorithm["adv_estimator"] == "gdpo" and not algorithm.get("gdpo_reward_keys"):
        raise UsageError("learner.verl.algorithm.adv_estimator=gdpo: name the parts of the reward, …gdpo_reward_keys=[accuracy,…]")
    for name in ("fsdp_size", "ulysses_sequence_parallel_size"):
        size = engine.get(name, 1)
        if (0 < size < config.workers and config.workers % size) or (name.startswith("ulysses") and config.workers % size):
            raise UsageError(f"learner.verl.engine.{name}={size} does not divide learner.workers={config.workers}")
    check_installed(config.verl.model, config.verl.optimizer)


def check_reward_keys(config: LearnerConfig, names: Collection[str] | None) -> None:
    """Raise UsageError if GDPO is to compare a part of the reward that is none of `names`; None if they are not known."""
    algorithm = config.verl.algorithm
    if names is None or algorithm.get("adv_estimator") != "gdpo":
        return
    for key in algorithm.get("gdpo_reward_keys") or ():
        if key not in names:
            close = difflib.get_close_matches(str(key), names, 1)
            remedy = f"did you mean {close[0]}?" if close else f"its parts are {', '.join(sorted(names))}"
            raise UsageError(f"learner.verl.algorithm.gdpo_reward_keys: the reward has no part {key}: {remedy}")


def compares_within_groups(config: LearnerConfig) -> bool:
    """Whether a group of one has nothing to be compared with."""
    return values_of(config, "algorithm")["adv_estimator"] in {*ESTIMATORS} - {"reinforce_plus_plus"}


def has_adapter(config: LearnerConfig) -> bool:
    """Whether only a low-rank adapter is trained: the policy without it is the reference."""
    return config.verl.model.get("lora_rank", 0) > 0


def needs_reference(config: LearnerConfig) -> bool:
    """Whether the objective compares the policy with a reference policy."""
    return bool(config.verl.actor.get("use_kl_loss") or config.verl.algorithm.get("use_kl_in_reward"))


def advantages_on_ranks(config: LearnerConfig) -> bool:
    """Whether advantages differ from token to token or need log-probabilities: then only the learner's ranks can compute them."""
    algorithm = values_of(config, "algorithm")
    discounts = algorithm["adv_estimator"] == "reinforce_plus_plus" and algorithm.get("gamma", 1.0) != 1
    return bool(algorithm.get("use_kl_in_reward")) or discounts


def bypasses(config: LearnerConfig) -> bool:
    """Whether the sampler's log-probabilities stand for the old policy's, which are then not computed."""
    return bool(values_of(config, "algorithm")["rollout_correction"].get("bypass_mode"))


def corrects(config: LearnerConfig) -> bool:
    """Whether weights or rejected tokens correct the sampler's log-probabilities; in bypass mode verl's loss does it itself."""
    correction = values_of(config, "algorithm")["rollout_correction"]
    return bool(correction.get("rollout_is") or correction.get("rollout_rs")) and not bypasses(config)


def recomputes_old(config: LearnerConfig, updates: int) -> bool:
    """Whether a policy step of so many optimizer steps begins with a forward pass for the old policy's log-probabilities."""
    return not bypasses(config) and (updates > 1 or corrects(config) or bool(config.verl.algorithm.get("use_kl_in_reward")))


def teaches_by_advantage_alone(config: LearnerConfig) -> bool:
    """Whether a sequence whose advantage is 0 has no gradient, and does not matter to the others'."""
    correction = values_of(config, "algorithm")["rollout_correction"]
    loss = values_of(config, "actor").get("policy_loss", {}).get("loss_mode", "vanilla")
    return not (
        config.entropy_coefficient
        or config.verl.actor.get("use_kl_loss")
        or advantages_on_ranks(config)
        or correction.get("rollout_is_batch_normalize")
        or loss in BEYOND_ADVANTAGES
        or config.verl.model.get("external_lib")
    )


def values_of(config: LearnerConfig, section: str) -> dict[str, Any]:
    """What verl's dataclass is given: our defaults, then what is passed through, then our named settings."""
    values = _merged(config, section)
    for path, (_, value) in NAMED.items():
        part, *groups, name = path.split(".")
        if part == section:
            group = values
            for key in groups:
                group = group.setdefault(key, {})
            group[name] = value(config)
    return values


def _merged(config: LearnerConfig, section: str) -> dict[str, Any]:
    return _deep(DEFAULTS[section], getattr(config.verl, section))


def _deep(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, mapping by mapping; neither is changed."""
    merged = {name: _deep(value, {}) if isinstance(value, Mapping) else value for name, value in base.items()}
    for name, value in over.items():
        if value is None and isinstance(merged.get(name), Mapping):
            continue  # a group of settings that is left out
        merged[name] = _deep(merged.get(name) or {}, value) if isinstance(value, Mapping) else value
    return merged


def _check_named(path: str, value: Any, config: LearnerConfig) -> None:
    name, ours = NAMED[path]
    expected, given = ours(config), list(value) if isinstance(value, tuple) else value
    if given != expected:
        shown = _shown(getattr(config, name, expected))
        raise UsageError(f"learner.verl.{path}={_shown(value)} contradicts learner.{name}={shown}: write learner.{name} alone")


def _check_choice(path: str, value: Any) -> None:
    if path == "algorithm.adv_estimator" and value in REFUSED_ESTIMATORS:
        raise UsageError(f"learner.verl.{path}={value} {REFUSED_ESTIMATORS[value]}: write one of {', '.join(ESTIMATORS)}")
    if path == "actor.policy_loss.loss_mode" and value == "bypass_mode":
        raise UsageError(f"learner.verl.{path}=bypass_mode: write learner.verl.algorithm.rollout_correction.bypass_mode=true")
    if value not in CHOICES[path]:
        _unknown(path, value, CHOICES[path])


def _unknown(path: str, value: Any, known: Iterable[Any]) -> None:
    names = ["null" if name is None else str(name) for name in known]
    close = difflib.get_close_matches(str(value), names, 1)
    remedy = f"did you mean {close[0]}?" if close else f"write {' or '.join(names)}"
    raise UsageError(f"learner.verl.{path}={value}: verl has no such choice here: {remedy}")


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " and ".join(map(_shown, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
