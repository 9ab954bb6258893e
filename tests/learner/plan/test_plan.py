"""Plans count real models' parameters, add up by their formulas, and name what does not fit with its remedy."""

from dataclasses import replace

import pytest
from transformers import Qwen3_5Config, Qwen3MoeConfig

from configs import compose
from envs.errors import UsageError
from learner.config import LearnerConfig, Precision, VerlSettings
from learner.experiment import Experiment
from learner.plan.architecture import Architecture
from learner.plan.duration import GPUS, Workload, learn_s, rollout_s
from learner.plan.memory import Images, cache_bytes_per_token, learner_host_bytes, learner_parts, trained_parameters
from learner.plan.plan import PlanConfig, plan

RECIPES = ["qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen2_5_vl_7b_lora", "qwen2_5_vl_32b", "qwen3_vl_8b"]


@pytest.fixture(scope="module")
def seven_billion():
    return Architecture.of("Qwen2.5-VL-7B-Instruct")


# The numbers of parameters on the models' cards.
@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("Qwen2.5-VL-3B-Instruct", 3_754_622_976),
        ("models/Qwen2.5-VL-7B-Instruct", 8_292_166_656),
        ("Qwen2.5-VL-32B-Instruct", 33_452_718_336),
        ("Qwen3-VL-8B-Instruct", 8_767_123_696),
        ("starter", 1_005_120),
    ],
)
def test_parameters_are_those_of_the_model(model, parameters):
    assert Architecture.of(model).parameters == parameters


def test_the_parts_follow_their_formulas(seven_billion):
    """16 ranks, bfloat16, checkpointing, 24,576 tokens: worked out by hand."""
    config = LearnerConfig(workers=16, precision=Precision.bfloat16, gradient_checkpointing=True, micro_batch_tokens=24576)
    parts = {part.name: part.size_bytes / 1e9 for part in learner_parts(seven_billion, config, Images(0, 0))}
    assert parts["weights"] == parts["gradients"] == pytest.approx(8.292 * 4 / 16, rel=1e-3)
    assert parts["optimizer"] == pytest.approx(8.292 * 8 / 16, rel=1e-3)
    assert parts["gathered units"] == pytest.approx(0.545 * 8, rel=1e-3)
    assert parts["layer inputs"] == pytest.approx(28 * 24576 * 3584 * 2 / 1e9)
    assert parts["activations"] == pytest.approx(24576 * (4 * 3584 + 2 * 3584 + 3 * 512 + 3 * 18944) * 2 / 1e9)
    assert sum(parts.values()) < 30


def test_lora_trains_its_matrices_alone(seven_billion):
    config = LearnerConfig(verl=VerlSettings(model={"lora_rank": 8}))
    widths = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert trained_parameters(seven_billion, config) == 28 * 8 * widths


@pytest.mark.parametrize(
    ("changes", "number_bytes", "formula"),
    [
        ({}, 8, "(2 c + 4) · largest unit"),
        ({"freeze_vision": True}, 8, "(2 c + 4) · largest unit"),
        ({"verl": VerlSettings(model={"lora_rank": 8})}, 4, "2 c · largest unit"),
    ],
)
def test_a_gathered_layer_has_a_gradient_if_it_is_trained(seven_billion, changes, number_bytes, formula):
    config = LearnerConfig(workers=2, precision=Precision.bfloat16, **changes)
    (unit,) = (part for part in learner_parts(seven_billion, config, Images(0, 0)) if part.name == "gathered units")
    assert (unit.size_bytes, unit.formula) == (number_bytes * seven_billion.embedding_parameters, formula)


def test_what_is_offloaded_takes_twice_its_size_on_the_host(seven_billion):
    """Beside a copy of weights and moments on its way to disk, and 3 GB of the process."""
    parameters, offloads = 8_292_166_656, {"param_offload": True, "optimizer_offload": True}
    assert learner_host_bytes(seven_billion, LearnerConfig()) == 12 * parameters + 3e9
    assert learner_host_bytes(seven_billion, LearnerConfig(verl=VerlSettings(engine=offloads))) == 36 * parameters + 3e9
    adapted = LearnerConfig(verl=VerlSettings(engine=offloads | {"model_dtype": "bf16"}, model={"lora_rank": 8}))
    moments = 8 * trained_parameters(seven_billion, adapted)
    assert learner_host_bytes(seven_billion, adapted) == 3 * (2 * parameters + moments) + 3e9


def test_keys_and_values_are_those_of_the_model(seven_billion):
    assert cache_bytes_per_token(seven_billion, 1) == 28 * 2 * 4 * 128 * 2
    assert cache_bytes_per_token(seven_billion, 2) == 28 * 2 * 4 * 128
    assert cache_bytes_per_token(seven_billion, 8) == cache_bytes_per_token(seven_billion, 4), "each GPU has at least one head"


def test_layers_with_a_state_keep_no_keys_and_values():
    text = {"num_hidden_layers": 8, "hidden_size": 64, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 100}
    config = Qwen3_5Config(text_config=text, vision_config={"depth": 1})
    assert cache_bytes_per_token(Architecture.of_config("tiny", config), 1) == 2 * (2 * 2 * 64 * 2)


@pytest.fixture(scope="module")
def experts():
    """Qwen3-30B-A3B, whose card says 30.5 and 3.3 billion parameters."""
    text = {"hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128}
    config = Qwen3MoeConfig(**text, moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8, vocab_size=151936)
    return Architecture.of_config("Qwen3-30B-A3B", config)


def test_a_token_goes_through_some_experts_and_a_batch_through_most(experts):
    assert experts.parameters == pytest.approx(30.5e9, rel=0.01)
    assert experts.used_parameters() == pytest.approx(3.3e9, rel=0.02)
    assert experts.used_parameters(100) == pytest.approx(experts.parameters, rel=0.01)


def test_experts_that_a_token_does_not_use_cost_memory_and_no_time(experts):
    dense, config, workload = replace(experts, expert_parameters=0), LearnerConfig(), Workload(1, 100, 100)
    ratio = experts.used_parameters() / experts.parameters
    assert learn_s(experts, config, GPUS["h100"], workload) == pytest.approx(ratio * learn_s(dense, config, GPUS["h100"], workload))
    alone = [rollout_s(model, GPUS["h100"], workload, gpus=1, across=1, at_a_time=1) for model in (experts, dense)]
    assert alone[0] == pytest.approx(ratio * alone[1], rel=0.01)


def passes(architecture, **changes):
    """How often a step multiplies by each parameter of a model."""
    gpu = GPUS["h100"]
    return learn_s(architecture, LearnerConfig(**changes), gpu, Workload(1, 1, 1)) * 0.4 * gpu.flops / 2 / architecture.parameters


def test_frozen_weights_take_no_gradient_and_the_others_theirs(seven_billion):
    vision = seven_billion.vision_parameters / seven_billion.parameters
    assert passes(seven_billion) == pytest.approx(3)
    assert passes(seven_billion, gradient_checkpointing=True) == pytest.approx(4)
    assert passes(seven_billion, freeze_vision=True) == pytest.approx(3 - 2 * vision)
    assert passes(seven_billion, freeze_vision=True, gradient_checkpointing=True) == pytest.approx(4 - 3 * vision)
    adapted = VerlSettings(model={"lora_rank": 8})
    adapters = trained_parameters(seven_billion, LearnerConfig(verl=adapted)) / seven_billion.parameters
    assert passes(seven_billion, verl=adapted) == pytest.approx(2 + adapters)


CORRECTION = {"rollout_is": "token", "rollout_is_threshold": 2.0}


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"mini_batches": 2}, 1),
        ({"verl": VerlSettings(algorithm={"rollout_correction": CORRECTION})}, 1),
        ({"verl": VerlSettings(algorithm={"rollout_correction": CORRECTION | {"bypass_mode": True}}), "mini_batches": 2}, 0),
        ({"verl": VerlSettings(actor={"use_kl_loss": True})}, 1),
        ({"verl": VerlSettings(algorithm={"use_kl_in_reward": True})}, 2),
        ({"verl": VerlSettings(actor={"use_kl_loss": True}, algorithm={"rollout_correction": CORRECTION})}, 2),
    ],
    ids=str,
)
def test_log_probabilities_before_a_step_are_forward_passes(seven_billion, changes, more):
    assert passes(seven_billion, **changes) == pytest.approx(3 + more)


def test_a_reference_policy_waits_on_the_host(seven_billion):
    reference = {"actor": {"use_kl_loss": True}}
    config = LearnerConfig(workers=4, precision=Precision.bfloat16)
    more = learner_host_bytes(seven_billion, replace(config, verl=VerlSettings(**reference))) - learner_host_bytes(
        seven_billion, config
    )
    assert more == pytest.approx(2 * 2 * 8_292_166_656 / 4)
    without, adapted = (VerlSettings(model={"lora_rank": 8}, **more) for more in ({}, reference))
    host = [learner_host_bytes(seven_billion, replace(config, verl=verl)) for verl in (without, adapted)]
    assert host[0] == host[1], "the policy without its adapter is there as it is"


def test_what_a_reference_policy_adds_is_a_line_of_the_plan():
    settings = ["experiment=qwen2_5_vl_7b", "+learner.verl.actor.use_kl_loss=true"]
    with_reference, without = (plan(compose("train", Experiment, some), PlanConfig()) for some in (settings, settings[:1]))
    lines = dict(with_reference.lines)
    assert lines["reference policy"] == "40 s of learn: one forward pass; 33 GB of the host's memory"
    assert with_reference.step_s - without.step_s == pytest.approx(40, abs=1)
    assert "reference policy" not in dict(without.lines) and "old log-probabilities" not in dict(without.lines)


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_fits_its_topology(recipe):
    assert plan(compose("train", Experiment, [f"experiment={recipe}"]), PlanConfig()).problems == []


@pytest.mark.parametrize(
    ("settings", "gpu", "expected"),
    [
        (["experiment=qwen2_5_vl_7b", "topology=one_gpu"], "h100", "more learner.workers, or LoRA"),
        (["experiment=qwen2_5_vl_32b", "topology=eight_gpus"], "h100", "the largest part is optimizer"),
        (["experiment=qwen2_5_vl_7b", "rollout.engine.gpu_memory_utilization=0.9"], "h100", "param_offload=true"),
        (
            ["experiment=qwen2_5_vl_32b", "rollout.engine.tensor_parallel_size=1"],
            "l40s",
            "raise rollout.engine.tensor_parallel_size",
        ),
    ],
)
def test_what_cannot_fit_is_named_with_its_remedy(settings, gpu, expected):
    problems = plan(compose("train", Experiment, settings), PlanConfig(gpu=gpu)).problems
    assert any(expected in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


def test_more_gpus_make_a_step_shorter_and_a_rank_smaller():
    config = compose("train", Experiment, ["experiment=qwen2_5_vl_7b", "+learner.verl.engine.fsdp_size=-1"])
    half = replace(config, learner=replace(config.learner, workers=16, nodes=2))
    sizes = [plan(each, PlanConfig()) for each in (config, half)]
    assert sizes[0].step_s < sizes[1].step_s
    assert sum(part.size_bytes for part in sizes[0].learner) < sum(part.size_bytes for part in sizes[1].learner)


@pytest.mark.parametrize(
    ("policy", "gpu", "expected"), [("nowhere", "h100", "no published one"), ("starter", "rtx", "gpu=rtx: write one of")]
)
def test_unknown_models_and_gpus_are_one_line(policy, gpu, expected):
    with pytest.raises(UsageError, match=expected):
        plan(Experiment(policy=policy), PlanConfig(gpu=gpu))
