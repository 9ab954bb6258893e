"""What an engine of vLLM is told: further options are vLLM's own and no others; the image cache is as large as the episodes ask."""

import logging

import pytest
from families import policy
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from vllm import ModelRegistry

from envs.errors import UsageError
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.engines.vllm import VllmPolicy
from rollout.engines.vllm_engine import check_extra, image_cache_bytes

BYTES_PER_PIXEL = 24  # float32, three colours, and Qwen2.5-VL repeats an image for two frames of a video
VIEW = 112 * 112  # the starter's largest image


def test_options_of_vllm_are_taken_as_they_are():
    check_extra({"kv_cache_dtype": "fp8", "quantization": "fp8", "pipeline_parallel_size": 2, "compilation_config": {"level": 3}})


@pytest.mark.parametrize(
    ("extra", "answer"),
    [
        ({"kv_cache_dtyp": "fp8"}, "rollout.engine.extra.kv_cache_dtyp: vLLM has no such option: did you mean kv_cache_dtype?"),
        ({"xyzzy": 1}, "rollout.engine.extra.xyzzy: vLLM has no such option; write a field of vLLM's EngineArgs"),
        ({"max_num_seqs": 8}, "rollout.engine.extra.max_num_seqs: write rollout.engine.max_sequences instead"),
        (
            {"logprobs_mode": "raw_logprobs"},
            "rollout.engine.extra.logprobs_mode: leave it out, the learner needs those of the distribution that was sampled from",
        ),
        ({"load_format": "dummy"}, "rollout.engine.extra.load_format: leave it out, a policy is read as the learner reads it"),
    ],
)
def test_other_options_are_answered_with_what_to_write(extra, answer):
    with pytest.raises(UsageError) as error:
        check_extra(extra)
    assert str(error.value) == answer


def test_what_a_model_can_do_is_found_out_in_this_process(engine):
    """vLLM's registry has the class itself, not a name for another process to import."""
    (name,) = AutoConfig.from_pretrained(engine._config.policy).architectures
    assert ModelRegistry.models[name].model_cls.__name__ == name


def test_wrong_options_are_found_before_the_engine_starts():
    with pytest.raises(UsageError, match="did you mean kv_cache_dtype"):
        VllmPolicy(RolloutConfig(engine=EngineConfig(policy="nowhere", extra={"kv_cache_dtyp": "fp8"})))


@pytest.mark.parametrize(
    ("lost", "remedy"),
    [
        ("lm_head.weight", "again, or write tie_word_embeddings=true in it"),
        ("model.layers.1.mlp.down_proj.weight", "again"),
    ],
)
def test_a_policy_that_lacks_a_layer_is_not_served(tmp_path, lost, remedy):
    weights = load_file(policy("mistral", tmp_path) / "model.safetensors")
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = RolloutConfig(engine=EngineConfig(policy=str(tmp_path), max_model_len=512, cpu_cache_gib=0.125))
    with pytest.raises(ValueError) as error:
        VllmPolicy(config)
    assert str(error.value) == f"it lacks weights that its config.json asks for: {lost}: fetch or save it {remedy}"


@pytest.mark.parametrize(
    ("episodes", "max_pixels", "expected"),
    [
        (4, 12_845_056, 4 * 16 * VIEW * BYTES_PER_PIXEL),
        (4, 784, 4 * 16 * 784 * BYTES_PER_PIXEL),
    ],
)
def test_the_image_cache_has_room_for_what_the_episodes_may_show(engine, episodes, max_pixels, expected):
    config = RolloutConfig(episodes_per_worker=episodes, episode=EpisodeConfig(max_pixels=max_pixels))
    assert image_cache_bytes(config, engine._images._processor) == expected


def test_the_image_cache_stays_within_a_share_of_the_memory_and_says_so(engine, caplog):
    config = RolloutConfig(episodes_per_worker=10**9)
    with caplog.at_level(logging.WARNING):
        size = image_cache_bytes(config, engine._images._processor)
    assert size < 10**9 * 16 * VIEW * BYTES_PER_PIXEL / 100
    assert f"up to {size / 1e9:.2f} GB" in caplog.text


def test_the_image_cache_is_what_the_setting_says(engine):
    config = RolloutConfig(engine=EngineConfig(image_cache_bytes=12345))
    assert image_cache_bytes(config, engine._images._processor) == 12345
