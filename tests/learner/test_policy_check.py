"""A policy that would be another model on the learner than on the sampler is one line before anything starts."""

import json

import pytest

from envs.errors import UsageError
from learner.policy_check import check_policy

LONG = {"rope_type": "longrope", "original_max_position_embeddings": 2048}
FP8 = {"quant_method": "fp8"}


def write(directory, config, *files):
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen2"} | config))
    for name in files or ("model.safetensors",):
        (directory / name).write_text(json.dumps({"weight_map": {"x": "model-00001-of-00002.safetensors"}}))
    return directory


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"quantization_config": FP8}, r"is quantised \(fp8\), which the learner cannot train"),
        ({"text_config": {"num_hidden_layers": 1, "quantization_config": FP8}}, r"is quantised \(fp8\)"),
        ({"rope_parameters": LONG}, "beyond 2048 tokens, .*: write rollout.engine.max_model_len=2048"),
        ({"rope_scaling": {"type": "dynamic"}, "max_position_embeddings": 4095}, "beyond 4095 tokens"),
        ({"rope_parameters": {"full_attention": LONG}}, "beyond 2048 tokens"),
    ],
    ids=["quantised", "quantised text model", "longrope", "dynamic, older form", "by kind of layer"],
)
def test_what_a_configuration_says(tmp_path, config, line):
    with pytest.raises(UsageError, match=line):
        check_policy(write(tmp_path, config), 4096)


@pytest.mark.parametrize(
    "files",
    [
        ("model.safetensors", "consolidated.safetensors"),
        ("model.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors"),
    ],
)
def test_files_of_weights_that_one_side_alone_reads(tmp_path, files):
    with pytest.raises(UsageError, match="files of weights that sampler and learner do not both read"):
        check_policy(write(tmp_path, {}, *files), 4096)


@pytest.mark.parametrize("files", [("model.safetensors.index.json", "other.safetensors"), ("pytorch_model.bin",)])
def test_others_are_taken(tmp_path, files):
    check_policy(write(tmp_path, {"rope_parameters": LONG, "max_position_embeddings": 9999}, *files), 2048)
