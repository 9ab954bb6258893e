"""What a user may write as `policy=`."""

from pathlib import Path

import pytest

from configs import compose
from envs.errors import UsageError
from learner.experiment import Experiment
from starter.policies import STARTERS, find_policy


def test_a_missing_policy_is_named():
    with pytest.raises(UsageError, match="policy=nowhere"):
        find_policy("nowhere")


def test_a_policy_at_a_url_is_to_be_copied_first():
    with pytest.raises(UsageError, match=r"policy=s3://bucket/policy: .* copy it to one"):
        find_policy("s3://bucket/policy")


@pytest.mark.parametrize(
    ("file", "policy", "remedy"),
    [
        ("model.gguf", "model.gguf", "GGUF"),
        ("step_9/model.safetensors", "step_9/model.safetensors", "write its directory"),
        ("adapter_config.json", "", "merge"),
        ("actor/model_world_size_8_rank_0.pt", "", "verl.model_merger merge"),
        ("step_9/policy/config.json", "step_9", "step_9/policy"),
        ("checkpoints/step_9/policy/config.json", "", "checkpoints/step_9/policy"),
        ("config.json", "", "cannot be read"),
        ("step=9 (best)/other.json", "step=9 (best)", "config.json"),
    ],
)
def test_what_is_no_model_is_answered_with_what_to_write(tmp_path, file, policy, remedy):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("{")
    with pytest.raises(UsageError) as error:
        find_policy(str(tmp_path / policy))
    assert remedy in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_of_the_hub_is_answered_with_the_download():
    with pytest.raises(UsageError, match=r"hf download Qwen/Qwen2\.5-VL-7B-Instruct"):
        find_policy("Qwen/Qwen2.5-VL-7B-Instruct")


@pytest.mark.parametrize("text", ["{}", "[]", "5"])
def test_settings_of_no_model_are_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match="policy="):
        find_policy(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "file", "line"),
    [
        ('{"model_type": "qwen2"}', "adapter_config.json", "holds an adapter beside a model: merge the two"),
        (
            '{"model_type": "minicpmv", "auto_map": {"AutoConfig": "code.Config"}}',
            "code.py",
            r"\(trust_remote_code\), which is never",
        ),
    ],
)
def test_a_model_that_depends_on_what_lies_beside_it_is_refused(tmp_path, config, file, line):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / file).write_text("{}")
    with pytest.raises(UsageError, match=line):
        find_policy(str(tmp_path))


def test_a_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert find_policy("~") == str(tmp_path)


@pytest.mark.parametrize("name", STARTERS)
def test_a_shipped_policy_is_found_by_its_name(name):
    assert Path(find_policy(name)).is_absolute()


def test_the_shipped_weights_are_small():
    sizes = [path.stat().st_size for directory in STARTERS.values() for path in directory.rglob("*") if path.is_file()]
    assert sum(sizes) < 8 << 20


def test_the_real_policy_that_an_experiment_names_is_made_by_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"run make smollm2"):
        find_policy(compose("train", Experiment, ["experiment=smollm2"]).policy)
