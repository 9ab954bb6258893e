"""What settings are called in verl's configuration, TRL's `GRPOConfig`, OpenRLHF, Hugging Face's trainers and lm-eval."""

from __future__ import annotations

from collections.abc import Iterable

NAMES: dict[str, str] = {
    "policy": "model model_name model_name_or_path model_path base_model pretrain",
    "tasks": "data dataset dataset_name prompt_data train_files",
    "task_options.test.path": "eval_dataset val_files",
    "options.reward": "custom_reward_function reward reward_funcs",
    "out": "default_local_dir output_dir save_path",
    "resume": "resume_from_checkpoint resume_mode",
    "tracking.project": "project project_name report_to use_wandb wandb",
    "rl.steps": "epochs max_steps num_steps num_train_epochs total_epochs total_steps total_training_steps",
    "rl.groups": "gen_batch_size rollout_batch_size train_batch_size",
    "rl.group_size": "n n_samples_per_prompt num_generations",
    "rl.learning_rate": "actor_learning_rate lr",
    "rl.checkpoint_every": "save_freq save_interval save_steps",
    "rl.keep_checkpoints": "max_actor_ckpt_to_keep save_total_limit",
    "cold_start.learning_rate": "lr",
    "cold_start.max_steps": "epochs max_steps num_steps num_train_epochs total_epochs",
    "cold_start.evaluate_every": "eval_steps test_freq",
    "evaluation.episodes": "limit num_examples num_samples",
    "episodes": "limit num_examples num_samples",
    "group_size": "n",
    "rollout.episode.max_action_tokens": "generate_max_len max_completion_length max_new_tokens max_response_length",
    "rollout.episode.max_tokens": "max_prompt_length",
    "rollout.episode.max_turns": "max_assistant_turns",
    "rollout.engine.tensor_parallel_size": "tensor_model_parallel_size tp",
    "rollout.engine.dtype": "dtype torch_dtype",
    "learner.precision": "bf16 dtype torch_dtype",
    "learner.workers": "n_gpus_per_node num_gpus",
    "learner.nodes": "nnodes num_nodes",
    "learner.micro_batch_tokens": "gradient_accumulation_steps micro_batch_size per_device_train_batch_size "
    "ppo_max_token_len_per_gpu ppo_micro_batch_size_per_gpu",
    "learner.mini_batches": "ppo_mini_batch_size",
    "learner.ppo_epochs": "num_iterations",
    "learner.clip_low": "clip_ratio clip_ratio_low epsilon",
    "learner.clip_high": "clip_ratio_high epsilon_high",
    "learner.entropy_coefficient": "entropy_coef entropy_coeff",
    "learner.normalise_by_std": "scale_rewards",
    "learner.grad_clip": "max_grad_norm",
    "learner.verl.model.lora_rank": "lora_r lora_rank use_peft",
    "learner.verl.actor.kl_loss_coef": "beta init_kl_coef kl_coef kl_loss_coef",
    "learner.verl.actor.loss_agg_mode": "loss_type",
    "learner.verl.algorithm.adv_estimator": "adv_estimator advantage_estimator algorithm",
}
"""The last parts of the names elsewhere, by the setting here."""


def here(path: str, known: Iterable[str], free: Iterable[str]) -> list[str]:
    """What a setting with another trainer's name is called here, with the + that one beneath a mapping (`free`) needs.

    Of several, those in the group that `path` names.
    """
    group, _, leaf = path.replace("-", "_").rpartition(".")
    known, free = set(known), tuple(f"{path}." for path in free)
    named = (setting for setting, names in NAMES.items() if leaf in names.split())
    found = [name if name in known else f"+{name}" for name in named if name in known or name.startswith(free)]
    return [name for name in found if group and name.startswith(f"{group}.")] or found
