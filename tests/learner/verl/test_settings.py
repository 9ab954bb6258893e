"""`learner.verl` reaches verl's dataclasses; a name that verl lacks, a value of another type and a contradiction get one line; and
where the defaults of verl's dataclasses are not those of its own YAML, ours are chosen knowingly."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch
import verl
import yaml
from verl.base_config import BaseConfig
from verl.trainer import config as trainer_configs
from verl.utils.torch_functional import get_cosine_schedule_with_warmup
from verl.workers import config as worker_configs

from configs import compose
from envs.errors import UsageError
from learner.config import LearnerConfig, Precision, VerlSettings
from learner.experiment import Experiment, RLConfig, Schedule
from learner.verl.configuration.fields import SECTIONS, fields_of
from learner.verl.configuration.passthrough import CHOICES, ELSEWHERE, NAMED
from learner.verl.configuration.settings import actor_config, algorithm_config, reference_config, worker_config

YAML = Path(verl.__file__).parent / "trainer/config"


def dataclass_of(section):
    name = SECTIONS[section]
    return getattr(worker_configs, name, None) or getattr(trainer_configs, name)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_names_that_are_read_from_the_source_are_verls(section):
    read, theirs = fields_of(SECTIONS[section]), dataclass_of(section)
    assert list(read) == [field.name for field in fields(theirs) if not field.name.startswith("_")]
    assert all(field.group is None or is_dataclass(find(field.group)) for field in read.values())


def find(name):
    modules = (worker_configs, trainer_configs, sys.modules["verl.workers.config.engine"], sys.modules["verl.base_config"])
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def test_every_named_path_exists():
    for path in (*NAMED, *ELSEWHERE, *CHOICES):
        section, name, *_ = path.split(".")
        assert name in fields_of(SECTIONS[section]), path


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("engine.fsdp_siz=8", "learner.verl.engine.fsdp_siz: verl's FSDPEngineConfig has no such setting: did you mean fsdp_size?"),
        ("engine.qat.mod=w4a16", "verl's QATEngineConfig has no such setting: did you mean mode?"),
        ("engine.fsdp_size=many", "learner.verl.engine.fsdp_size=many: write a whole number"),
        ("engine.param_offload=3", "write true or false"),
        ("actor.policy_loss=gspo", "it is a group of settings: write learner.verl.actor.policy_loss.NAME=…"),
        ("optimizer.weight_decay=0.1", "contradicts learner.weight_decay=0.01: write learner.weight_decay alone"),
        ("engine.mixed_precision={param_dtype: bf16}", "param_dtype=bf16 contradicts learner.precision=float32"),
        ("actor.clip_ratio_low=0.1", "contradicts learner.clip_low=0.2"),
        ("optimizer.lr=1e-6", "learner.verl.optimizer.lr: write rl.learning_rate"),
        ("actor.ppo_mini_batch_size=64", "write learner.mini_batches"),
        ("model.path=x", "learner.verl.model.path: write policy"),
        ("engine.strategy=fsdp", "did you mean fsdp2?"),
        ("algorithm.adv_estimator=gae", "adv_estimator=gae needs a critic, and there is none: write one of grpo"),
        ("algorithm.adv_estimator=remax", "needs the reward of a greedy rollout"),
        ("algorithm.adv_estimator=rlo", "did you mean rloo?"),
        ("algorithm.adv_estimator=gdpo", "gdpo_reward_keys=[accuracy,…]"),
        ("actor.policy_loss.loss_mode=gsop", "did you mean gspo?"),
        ("actor.policy_loss.loss_mode=dro", "dro_beta, more than 0"),
        ("actor.policy_loss.loss_mode=bypass_mode", "rollout_correction.bypass_mode=true"),
        ("actor.loss_agg_mode=seq-mean", "did you mean token-mean?"),
        ("actor.loss_agg_mode=seq-mean-token-sum-norm", "write learner.verl.actor.loss_scale_factor"),
        ("actor.kl_loss_type=kl3", "did you mean kl"),
        ("algorithm.kl_ctrl.type=adaptive", "write fixed"),
        ("algorithm.rollout_correction.rollout_is=tokens", "did you mean token?"),
        ("algorithm.rollout_correction.rollout_rs=token_k1", "rollout_rs_threshold as well"),
        ("algorithm.rollout_correction={rollout_rs: token_k9, rollout_rs_threshold: 2.0}", "did you mean token_k"),
        ("engine.ulysses_sequence_parallel_size=2", "does not divide learner.workers=1"),
        ("optimizer.optimizer_impl=no_such_package.optim", "needs the package no_such_package, which is not installed"),
        ("optimizer.optimizer_impl=torch.optimizers", "cannot be imported"),
        ("optimizer.optimizer_impl=bitsandbytes.optim", "write torchao.optim, with optimizer=AdamW8bit"),
        ("optimizer.optimizer=AdamW8", "torch.optim has no such optimizer: did you mean AdamW?"),
    ],
)
def test_a_mistake_gets_one_line(override, answer):
    with pytest.raises(UsageError, match=re.escape(answer)) as error:
        compose("train", Experiment, [f"+learner.verl.{override}"]).check()
    assert "\n" not in str(error.value)


def test_a_mistake_is_answered_without_importing_verl():
    program = (
        "import sys; from learner.config import LearnerConfig, VerlSettings; from envs.errors import UsageError\n"
        "try: LearnerConfig(verl=VerlSettings(engine={'fsdp_siz': 8})).check()\n"
        "except UsageError: print(sorted({'verl', 'torch', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_what_agrees_with_our_named_settings_may_be_written_twice():
    config = LearnerConfig(
        precision=Precision.bfloat16,
        verl=VerlSettings(
            engine={"mixed_precision": {"param_dtype": "bf16", "reduce_dtype": "bf16"}},
            optimizer={"weight_decay": 0.01, "betas": [0.9, 0.999]},
            algorithm={"norm_adv_by_std_in_grpo": True, "rollout_correction": None},
        ),
    )
    config.check()
    assert algorithm_config(config).rollout_correction.rollout_is is None


def test_a_module_of_ones_own_may_register_names():
    settings = VerlSettings(model={"external_lib": "json"}, algorithm={"adv_estimator": "mine"})
    LearnerConfig(verl=settings).check()


def test_settings_reach_verls_dataclasses(policy_dir):
    config = LearnerConfig(
        workers=4,
        precision=Precision.bfloat16,
        clip_high=0.3,
        weight_decay=0.1,
        verl=VerlSettings(
            engine={"fsdp_size": 2, "param_offload": True, "mixed_precision": {"reduce_dtype": "bf16"}, "qat": {"group_size": 32}},
            model={"lora_rank": 8, "exclude_modules": ".*visual.*", "override_config": {"sliding_window": 7}},
            optimizer={"optimizer": "NAdam", "override_optimizer_config": {"amsgrad": True}},
            actor={"policy_loss": {"loss_mode": "gspo"}, "loss_agg_mode": "seq-mean-token-mean"},
            algorithm={"rollout_correction": {"rollout_is": "token"}, "kl_ctrl": {"kl_coef": 0.01}},
        ),
    )
    config.check()
    made = worker_config(str(policy_dir), config, seed=3)
    engine, model, optimizer = made.engine_config, made.model_config, made.optimizer_config
    assert (engine.fsdp_size, engine.param_offload, engine.qat.group_size, engine.seed) == (2, True, 32, 3)
    assert engine.mixed_precision == {"param_dtype": "bf16", "reduce_dtype": "bf16", "buffer_dtype": "fp32"}
    assert (model.lora_rank, model.exclude_modules) == (8, ".*visual.*")
    assert model.override_config == {"sliding_window": 7, "attn_implementation": "sdpa"}
    assert (optimizer.optimizer, optimizer.override_optimizer_config, optimizer.weight_decay) == (
        "NAdam",
        {"amsgrad": True},
        0.1,
    )
    actor, algorithm = actor_config(config), algorithm_config(config)
    assert (actor.policy_loss.loss_mode, actor.loss_agg_mode, actor.clip_ratio_high) == ("gspo", "seq-mean-token-mean", 0.3)
    assert (algorithm.rollout_correction.rollout_is, algorithm.kl_ctrl.kl_coef) == ("token", 0.01)
    reference = reference_config(str(policy_dir), config, seed=3)
    assert (reference.engine_config.forward_only, reference.engine_config.model_dtype) == (True, "bf16")
    assert (reference.model_config.lora_rank, reference.engine_config.fsdp_size) == (0, 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"fused": True}),
        ({"override_optimizer_config": {"amsgrad": True}}, {"fused": True, "amsgrad": True}),
        ({"override_optimizer_config": {"foreach": True}}, {"foreach": True}),
        ({"override_optimizer_config": {"fused": False}}, {"fused": False}),
        ({"optimizer": "Adafactor"}, None),
    ],
)
def test_pytorchs_own_optimizers_take_one_pass_over_the_weights_unless_told_otherwise(policy_dir, given, expected):
    config = LearnerConfig(verl=VerlSettings(optimizer=given))
    assert worker_config(str(policy_dir), config, seed=0).optimizer_config.override_optimizer_config == expected


FILES = {
    "engine": ["engine/fsdp.yaml"],
    "model": ["model/hf_model.yaml"],
    "optimizer": ["optim/fsdp.yaml"],
    "actor": ["actor/actor.yaml", "actor/dp_actor.yaml"],
    "algorithm": ["ppo_trainer.yaml"],
}
"""verl's YAML behind each section."""

ACCEPTED = {
    "engine.strategy": "FSDP1 does not run on CPU; FSDP2 is its successor",
    "engine.use_torch_compile": "it would compile the entropy alone, which is not computed there",
    "engine.wrap_policy": "min_num_params 0 is FSDP1's; FSDP2 wraps the model's own layers",
    "engine.turbo_config": "another engine's",
    "model.path": "policy=",
    "model.enable_gradient_checkpointing": "learner.gradient_checkpointing: a third more time, which small models need not pay",
    "model.fused_kernel_options": "no fused kernels",
    "model.lora": "Megatron's adapters",
    "optimizer.override_optimizer_config": "fused: PyTorch's default for weights on CPU takes a pass for each operation",
    "actor.strategy": "as engine.strategy",
    "actor.use_dynamic_bsz": "micro-batches are bounded by tokens",
    "actor.clip_ratio_high": "DAPO's 0.28 (learner.clip_high)",
    "actor.optim": "learner.verl.optimizer is what is read",
    "actor.profiler": "not started",
    "algorithm.adv_estimator": "verl's YAML says gae, which needs a critic",
    "algorithm.filter_groups": "its YAML's metric; both are off",
    "algorithm.pf_ppo": "off in both, and for a critic",
}
"""Where our effective defaults are not those of verl's YAML, with the reason."""


def plain(value):
    """A value of a dataclass as YAML has it."""
    if isinstance(value, BaseConfig) or is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if not field.name.startswith("_")}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def same(ours, theirs):
    """Whether our value is YAML's; what YAML takes from other settings of verl's, `${…}`, is no default."""
    if isinstance(theirs, dict):
        theirs = {name: value for name, value in theirs.items() if name != "_target_"}
        return isinstance(ours, dict) and all(name in ours and same(ours[name], value) for name, value in theirs.items())
    if isinstance(theirs, str) and theirs.startswith("${"):
        return True
    try:
        return ours == theirs or float(ours) == float(theirs)
    except (TypeError, ValueError):
        return False


def test_defaults_are_those_of_verls_yaml_or_differ_for_a_reason(policy_dir):
    config = LearnerConfig()
    made = worker_config(str(policy_dir), config, seed=42)
    ours = {
        "engine": made.engine_config,
        "model": made.model_config,
        "optimizer": made.optimizer_config,
        "actor": actor_config(config),
        "algorithm": algorithm_config(config),
    }
    differing = set()
    for section, files in FILES.items():
        values = {}
        for file in files:
            loaded = yaml.safe_load((YAML / file).read_text())
            values |= loaded["algorithm"] if section == "algorithm" else loaded
        if section == "algorithm":
            values["rollout_correction"] = yaml.safe_load((YAML / "algorithm/rollout_correction.yaml").read_text())
        effective = plain(ours[section])
        for name, value in values.items():
            is_other = name in ("defaults", "_target_") or (section == "model" and name.endswith("_path"))
            if not is_other and (name not in effective or not same(effective[name], value)):
                differing.add(f"{section}.{name}")
    assert differing == set(ACCEPTED)
    assert not made.engine_config.use_no_sync_for_gradient_accumulation


@pytest.mark.parametrize("schedule", Schedule)
def test_the_learning_rate_rises_and_falls_as_verls(schedule):
    """verl has no linear schedule; ours ends where its others do."""
    config = RLConfig(steps=10, learning_rate=2.0, warmup_steps=4, schedule=schedule, min_learning_rate_ratio=0.1)
    rates = [config.learning_rate_at(step) for step in range(config.steps)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[-1] == pytest.approx(2.0 if schedule is Schedule.constant else 0.2)
    if schedule is Schedule.cosine:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
        theirs = get_cosine_schedule_with_warmup(optimizer, 4, 10, min_lr_ratio=0.1, zero_indexed_step=False)
        for rate in rates:
            assert rate == pytest.approx(theirs.get_last_lr()[0])
            optimizer.step()
            theirs.step()
