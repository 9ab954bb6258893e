"""A GGUF file of SmolLM2's form becomes a policy: weights, chat template, and the tokenizer that the model was trained with."""

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from envs.errors import UsageError
from rollout.tokens.chat_format import ChatFormat
from starter.smollm2 import SmolLM2Config, convert

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WIDTH, INNER, LAYERS = 32, 64, 2


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A tiny model with SmolLM2's metadata: tied embeddings, a byte-level vocabulary, "12" as a piece that no text is cut into."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    vocabulary = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "ab"]
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3, 3, *[1] * (len(vocabulary) - 3)])
    writer.add_token_merges(["1 2", "a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (len(vocabulary), WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        parts = {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH // 2, WIDTH),
            "attn_v": (WIDTH // 2, WIDTH),
            "attn_output": (WIDTH, WIDTH),
        }
        parts |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        parts |= {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in parts.items()}
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def policy(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("policy") / "smollm2"
    assert convert(SmolLM2Config(str(file), str(out))) > 20_000
    return out


def test_the_model_is_float32_with_tied_embeddings_and_ends_turns(policy):
    model = AutoModelForCausalLM.from_pretrained(policy)
    assert model.dtype == torch.float32
    assert model.config.tie_word_embeddings
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 0)
    assert model(torch.tensor([[1, 5, 9]])).logits.isfinite().all()


@pytest.mark.parametrize("text", ["x = 12 * 3", " ▁ héllo\n\n  <code>", "<|im_start|>user\n12<|im_end|>"])
def test_texts_come_back_as_they_were_and_digits_are_tokens_of_their_own(policy, text):
    tokenizer = AutoTokenizer.from_pretrained(policy)
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(token_ids) == text
    assert tokenizer.convert_tokens_to_ids("12") not in token_ids


def test_transcripts_are_written_with_its_chat_template_and_its_end_of_turn(policy):
    assert ChatFormat.from_directory(policy).decode([2]) == ""


@pytest.mark.parametrize(("content", "expected"), [(None, "make smollm2"), (b"no model", "cannot be read as a model")])
def test_what_is_no_model_is_one_line(tmp_path, content, expected):
    path = tmp_path / "file.gguf"
    if content:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=expected):
        convert(SmolLM2Config(str(path), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
