"""A run that cannot fit the GPUs that were found is refused in one line before anything starts; what only may not fit is a warning;
without GPUs, or if nobody knows their memory, nothing is refused."""

import pytest

from configs import compose
from envs.errors import UsageError
from learner.experiment import Experiment
from learner.plan.fit import check_memory

SHARED = [
    "policy=Qwen2.5-VL-3B-Instruct",
    "learner.gpus_per_worker=0.5",
    "rollout.gpus_per_worker=0.5",
    "rollout.engine.kind=vllm",
    "rollout.engine.gpu_memory_utilization=0.6",
]

ENGINE_ALONE = ["policy=Qwen2.5-VL-7B-Instruct", "rollout.gpus_per_worker=1", "rollout.engine.gpu_memory_utilization=0.9"]
"""The learner is on CPUs."""


def said(settings, gigabytes):
    """What is said about a run on GPUs of that size."""
    lines = []
    check_memory(compose("train", Experiment, settings), lines.append, lambda: gigabytes and gigabytes * 1e9)
    return lines


@pytest.mark.parametrize(
    ("settings", "gigabytes", "expected"),
    [
        (["experiment=qwen2_5_vl_7b", "topology=one_gpu"], 80, "the largest part is optimizer .*: more learner.workers, or LoRA"),
        (["experiment=qwen2_5_vl_3b", "topology=one_gpu", "+learner.verl.engine.optimizer_offload=false"], 80, "while it samples"),
        (["experiment=qwen2_5_vl_7b_lora"], 16, "the learner needs"),
        (SHARED, 80, "are on one GPU, and a GPU of this cluster has 76: lower rollout.engine.gpu_memory_utilization"),
        (["experiment=qwen2_5_vl_32b", "rollout.engine.tensor_parallel_size=1"], 48, "raise rollout.engine.tensor_parallel_size"),
        (ENGINE_ALONE, 16, "raise rollout.engine.tensor_parallel_size"),
    ],
)
def test_what_cannot_fit_is_refused_in_one_line(settings, gigabytes, expected):
    with pytest.raises(UsageError, match=f"cannot fit: .*{expected}") as refused:
        said(settings, gigabytes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "gigabytes", "warnings"),
    [
        (["experiment=qwen2_5_vl_7b"], 80, []),
        (["experiment=qwen2_5_vl_7b_lora"], 80, []),
        (["experiment=qwen2_5_vl_7b_lora"], 36, ["memory may not be enough"]),
        (["experiment=qwen2_5_vl_7b", "topology=one_gpu"], None, ["memory: not checked"]),
        (["experiment=demo"], 1, []),
        (ENGINE_ALONE, 80, []),
        (
            ["experiment=qwen2_5_vl_32b", "rollout.engine.tensor_parallel_size=1", "+rollout.engine.extra.quantization=fp8"],
            64,
            ["memory may not be enough"],
        ),
    ],
    ids=["fits", "LoRA fits", "may not fit", "nobody knows", "CPU", "an engine alone", "a quantised engine"],
)
def test_nothing_is_refused_that_may_fit(settings, gigabytes, warnings):
    lines = said(settings, gigabytes)
    assert len(lines) == len(warnings)
    assert all(line.startswith(warning) for line, warning in zip(lines, warnings, strict=True)), lines


def test_short_transcripts_have_no_more_image_tokens_than_fit_a_micro_batch():
    """A learner of the starter's size, whose transcripts are short, is not refused for pictures that it cannot have."""
    short = ["learner.gpus_per_worker=1", "rollout.gpus_per_worker=1", "learner.micro_batch_tokens=16384"]
    assert said(short, 80) == []


def test_a_policy_whose_sizes_are_unknown_is_not_refused():
    (line,) = said(["experiment=qwen2_5_vl_3b", "policy=nowhere"], 80)
    assert line.startswith("memory: not checked") and "nowhere" in line
