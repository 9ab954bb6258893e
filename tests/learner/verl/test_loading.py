"""Policies whose files are damaged, as the learner meets them."""

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM, modeling_utils

from envs.errors import UsageError
from learner.verl.model.loading import check_tied, local_copy, whole_policy
from starter.policies import find_policy

NAME, SHOWN = "model.layers.0.mlp.down_proj.weight", "model.language_model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def load(tmp_path):
    """Loads a copy of the starter with what a function makes of its weights."""

    def load(change):
        directory = shutil.copytree(find_policy("starter"), tmp_path / "policy")
        change(directory / "model.safetensors")
        with whole_policy(str(directory)):
            return AutoModelForImageTextToText.from_pretrained(directory)

    return load


def with_weights(change):
    def write(file):
        weights = load_file(file)
        change(weights)
        save_file(weights, file, {"format": "pt"})

    return write


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1000]), "is cut or damaged .*: fetch or save it again"),
        (lambda file: file.unlink(), "the learner cannot load policy=.*no file named model.safetensors"),
        (
            with_weights(lambda weights: weights.pop(NAME)),
            f"lacks weights that its config.json asks for: {SHOWN}: fetch or save it again$",
        ),
        (
            with_weights(lambda weights: weights.pop("lm_head.weight")),
            "lm_head.weight: fetch or save it again, or write tie_word_embeddings=true in it",
        ),
        (
            with_weights(lambda weights: weights.update({NAME: weights[NAME][1:].clone()})),
            f"other shapes than its config.json asks for: {SHOWN} is",
        ),
    ],
)
def test_a_policy_that_is_not_whole_is_one_line(load, change, expected):
    before = modeling_utils.log_state_dict_report
    with pytest.raises(UsageError, match=expected) as raised:
        load(change)
    assert "\n" not in str(raised.value)
    assert modeling_utils.log_state_dict_report is before


def test_an_output_layer_that_the_configuration_does_not_know_is_one_line():
    config = LlamaConfig(vocab_size=8, hidden_size=4, num_hidden_layers=0, num_attention_heads=1, tie_word_embeddings=True)
    model = LlamaForCausalLM(config)
    check_tied(model, "DIR")
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(8, 4))
    with pytest.raises(UsageError, match="policy=DIR has an output layer of its own, but tie_word_embeddings=true"):
        check_tied(model, "DIR")


def test_a_gpu_that_is_full_is_not_the_policys_fault():
    with pytest.raises(torch.OutOfMemoryError), whole_policy("policy"):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_whole_policy_is_loaded(load):
    assert load(lambda file: None).num_parameters()


def test_the_copy_of_a_policy_at_a_url_is_there_while_it_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/config.json").write_text("{}")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with local_copy(f"file://{tmp_path}/policy") as directory:
        assert Path(directory, "config.json").read_text() == "{}"
    assert list((tmp_path / "temporary").iterdir()) == []
    with local_copy(str(tmp_path / "policy")) as directory:
        assert directory == str(tmp_path / "policy")
