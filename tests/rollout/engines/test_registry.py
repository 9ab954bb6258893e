"""An engine is chosen by its name or by its import path; a wrong one gets one line that says what to write."""

import pytest
from rollout_fakes import ScriptedEngine
from transformers import Qwen3_5Config

from envs.errors import UsageError
from rollout.config import EngineConfig, RolloutConfig
from rollout.engines.endpoint import Endpoint
from rollout.engines.registry import crowded_images, find_engine, keeps_prefixes


def test_names_and_import_paths_are_found():
    assert find_engine("endpoint") is Endpoint
    assert find_engine(ScriptedEngine.KIND) is ScriptedEngine


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("vlm", "did you mean vllm"),
        ("Scripted", "write vllm or verl or endpoint or none, or module:name"),
        ("module:", "module:name"),
        ("no_such_module:Engine", "no module no_such_module; put its directory into PYTHONPATH"),
        ("rollout_fakes:Missing", "rollout_fakes has no Missing"),
    ],
)
def test_a_wrong_name_gets_one_line(kind, remedy):
    with pytest.raises(UsageError, match=remedy) as error:
        find_engine(kind)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("image_tokens", "engine", "fleet", "crowded"),
    [
        (16, {}, {}, False),
        (0, {}, {}, False),
        (1024, {}, {}, True),
        (1024, {}, {"episodes_per_worker": 8}, False),
        (1024, {"max_batched_tokens": 128 * 1024}, {}, False),
        (1024, {"prefix_caching": False}, {}, False),
        (1024, {"kind": "verl"}, {}, False),
        (1024, {}, {"gpus_per_worker": 1.0}, False),
    ],
)
def test_images_of_which_too_many_may_be_due_at_once_on_a_cpu_are_named(image_tokens, engine, fleet, crowded):
    line = crowded_images(RolloutConfig(engine=EngineConfig(**engine), **fleet), image_tokens)
    assert (line is not None) == crowded
    if line is not None:
        assert "write rollout.engine.max_batched_tokens=131072, rollout.episodes_per_worker=8 or" in line


def test_layers_with_a_state_keep_no_prefixes_on_a_cpu_and_are_computed_in_16_bits(tmp_path, caplog):
    Qwen3_5Config().save_pretrained(tmp_path)
    engine = EngineConfig(policy=str(tmp_path), dtype="bfloat16")
    assert (keeps_prefixes(engine, on_cpu=True), keeps_prefixes(engine, on_cpu=False)) == (False, True)
    assert "rollout.engine.prefix_caching=true has no effect" in caplog.text
    with pytest.raises(UsageError, match="in bfloat16 only"):
        keeps_prefixes(EngineConfig(policy=str(tmp_path), dtype="float32"), on_cpu=True)
