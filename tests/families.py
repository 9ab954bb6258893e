"""Tiny policies with random weights of every family that Toolwise is tested with, in the Hugging Face layout.

Each has the configuration class, the tokenizer class, the processor and the form of chat template of its family, so that every
library takes the same way through it as for a downloaded model. Only sizes and vocabulary (bytes and a few pieces) are ours.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Tokenizer

from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.images import EncodedImage, ImageEncoder
from rollout.tokens.transcript import Transcript
from rollout.types import Episode, Generation, StopReason, Turn

TEMPLATES = Path(__file__).parent / "data/chat_templates"
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
INTERN = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
PIXTRAL = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
TILES = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
CELLS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.1,
}
SIGHT = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "initializer_range": 0.1}


@dataclass(frozen=True)
class Family:
    """How to build the tiny policy of one family: `build` writes all but the weights and returns the model.

    `turned`: whether its published files have the stacked experts turned round, which transformers does not write.
    """

    name: str
    build: Callable[[Path], Any]
    sees: bool = True
    turned: bool = False


def policy(name: str, directory: str | Path, seed: int = 0) -> Path:
    """Write the tiny policy of a family to `directory` and return its path."""
    directory = Path(directory)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FAMILIES[name].build(directory)
        # A norm of ones or a bias of zeros would hide a weight that is left out or taken twice.
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    if FAMILIES[name].turned:
        weights = load_file(directory / "model.safetensors")
        turned = {key: weight.mT.contiguous() if ".experts." in key else weight for key, weight in weights.items()}
        save_file(turned, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def conversations(chat: ChatFormat) -> list[Episode]:
    """Six episodes of one to three turns of random letters. All but one show two images in the question, the first of them shared
    with another episode, and one of a tool after each further turn."""
    made = []
    for number in range(6):
        rng = np.random.default_rng(number)
        transcript = Transcript(chat, max_tokens=2000)
        seeds = [] if chat.images is None or number == 2 else [number // 2, 20 + number]
        transcript.append_observation([ChatMessage("user", f"What is to be seen? {number}", tuple(map(_picture, seeds)))])
        turns = []
        for turn in range(1 + number % 3):
            if turn:
                shown = (_picture(40 + turn),) if seeds else ()
                transcript.append_observation([ChatMessage("user", f"Here it is: {turn}", shown)])
            action = chat.encode_action("".join(rng.choice(list(string.ascii_letters), rng.integers(3, 9))))
            transcript.append_generation(Generation(action, [-1.0] * len(action), "stop", 0))
            turns.append(Turn(action=chat.decode(action)))
        facts = {"episode_id": f"e{number}", "task_id": "t", "group_id": f"g{number // 2}", "abilities": ("seeing",)}
        outcome = {"reward": 0.0, "reward_parts": {}, "answer": None, "stop_reason": StopReason.ANSWERED}
        temperature = 0.5 + number / 4
        made.append(transcript.episode(turns, source="test", seed=number, temperature=temperature, **facts, **outcome))
    return made


def _picture(seed: int) -> EncodedImage:
    size = [(112, 84), (60, 150), (150, 60), (300, 299)][seed % 4]
    return ImageEncoder().encode(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def template(name: str) -> str:
    """The text of a file of `tests/data/chat_templates`."""
    return (TEMPLATES / f"{name}.jinja").read_text()


def _backend(*special: str, pieces: tuple[str, ...] = ("\n\n", "system\n", "user\n", "assistant\n")) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in pieces])
    return tokenizer


def _qwen_tokenizer(name: str, *more: str, **options: Any) -> Qwen2Tokenizer:
    return Qwen2Tokenizer(
        tokenizer_object=_backend(PAD, START, END, *more),
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        chat_template=template(name) if name else None,
        **options,
    )


def _sizes(tokenizer: Any) -> dict[str, Any]:
    ids = {name: tokenizer.convert_tokens_to_ids(getattr(tokenizer, name)) for name in ("eos_token", "pad_token")}
    return {"vocab_size": -(-len(tokenizer) // 16) * 16} | {f"{name}_id": value for name, value in ids.items()}


def _model(config: Any, architecture: str, tokenizer: Any) -> Any:
    model = getattr(transformers, architecture)(config).float()
    model.config.dtype = "float32"
    sizes = _sizes(tokenizer)
    model.generation_config = GenerationConfig(eos_token_id=sizes["eos_token_id"], pad_token_id=sizes["pad_token_id"])
    return model


# Text.


def _llama(directory: Path) -> Any:
    """SmolLM2: Llama with tied embeddings and grouped queries."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_backend(PAD, START, END), eos_token=END, pad_token=PAD, chat_template=template("smollm2")
    )
    tokenizer.save_pretrained(directory)
    options = TEXT | {"num_key_value_heads": 1, "tie_word_embeddings": True}
    return _model(transformers.LlamaConfig(**_sizes(tokenizer), **options), "LlamaForCausalLM", tokenizer)


def _qwen2(directory: Path) -> Any:
    tokenizer = _qwen_tokenizer("qwen2_5")
    tokenizer.save_pretrained(directory)
    return _model(transformers.Qwen2Config(**_sizes(tokenizer), **TEXT), "Qwen2ForCausalLM", tokenizer)


def _qwen3(directory: Path) -> Any:
    tokenizer = _qwen_tokenizer("qwen3")
    tokenizer.save_pretrained(directory)
    return _model(transformers.Qwen3Config(**_sizes(tokenizer), head_dim=32, **TEXT), "Qwen3ForCausalLM", tokenizer)


EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
}


def _qwen3_moe(directory: Path) -> Any:
    """Each layer has four experts, of which a token takes two."""
    tokenizer = _qwen_tokenizer("qwen3")
    tokenizer.save_pretrained(directory)
    config = transformers.Qwen3MoeConfig(**_sizes(tokenizer), head_dim=32, **EXPERTS, **TEXT)
    return _model(config, "Qwen3MoeForCausalLM", tokenizer)


def _kin(model: str, **options: Any) -> Callable[[Path], Any]:
    """A builder of another text model of transformers, with the tokenizer and template of Qwen2."""

    def build(directory: Path) -> Any:
        tokenizer = _qwen_tokenizer("qwen2_5")
        tokenizer.save_pretrained(directory)
        config = getattr(transformers, f"{model}Config")(**_sizes(tokenizer) | TEXT | options)
        return _model(config, f"{model}ForCausalLM", tokenizer)

    return build


SCALES = {"logits_scaling": 4.0, "attention_multiplier": 0.1, "residual_multiplier": 0.5, "embedding_multiplier": 2.0}
GLM_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "first_k_dense_replace": 1}


# Vision, one run of placeholders an image, M-RoPE.


def _qwen_vl(
    directory: Path, kind: str, chat_template: str, processor: str, patch: int, text: dict, vision: dict, rope: dict
) -> Any:
    from transformers import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = _qwen_tokenizer("", *VISION)
    side = 2 * patch
    size = {"shortest_edge": side**2, "longest_edge": 16 * side**2}
    if processor == "Qwen3VLProcessor":
        # Qwen3-VL keeps the image processor of Qwen2-VL, with patches of 16 pixels.
        images = Qwen2VLImageProcessor(size=dict(size), patch_size=patch, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        videos = Qwen3VLVideoProcessor(size=dict(size), patch_size=patch)
    else:
        images, videos = Qwen2VLImageProcessor(size=dict(size)), Qwen2VLVideoProcessor(size=dict(size))
    getattr(transformers, processor)(
        image_processor=images, tokenizer=tokenizer, video_processor=videos, chat_template=template(chat_template)
    ).save_pretrained(directory)
    config = getattr(transformers, f"{kind}Config")(
        text_config=TEXT | _sizes(tokenizer) | text | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4} | rope},
        vision_config=SIGHT | {"patch_size": patch, "spatial_merge_size": 2} | vision,
        tie_word_embeddings=False,
        **{
            f"{name}_id": tokenizer.convert_tokens_to_ids(token)
            for name, token in zip(("vision_start_token", "vision_end_token", "image_token", "video_token"), VISION, strict=True)
        },
    )
    return _model(config, f"{kind}ForConditionalGeneration", tokenizer)


def _qwen2_vl(directory: Path) -> Any:
    vision = {"embed_dim": 64, "mlp_ratio": 2, "hidden_size": 64}
    return _qwen_vl(directory, "Qwen2VL", "qwen2_5_vl", "Qwen2VLProcessor", 14, {}, vision, {"mrope_section": [4, 6, 6]})


def _qwen2_5_vl(directory: Path) -> Any:
    vision = {"out_hidden_size": 64, "window_size": 56, "fullatt_block_indexes": [1]}
    return _qwen_vl(directory, "Qwen2_5_VL", "qwen2_5_vl", "Qwen2_5_VLProcessor", 14, {}, vision, {"mrope_section": [4, 6, 6]})


def _qwen3_vl(directory: Path) -> Any:
    vision = {"out_hidden_size": 64, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    text = {"head_dim": 32, "num_hidden_layers": 3}
    rope = {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
    return _qwen_vl(directory, "Qwen3VL", "qwen3_vl", "Qwen3VLProcessor", 16, text, vision, rope)


def _qwen3_vl_moe(directory: Path) -> Any:
    vision = {"out_hidden_size": 64, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    text = {"head_dim": 32, "num_hidden_layers": 3} | EXPERTS
    rope = {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
    return _qwen_vl(directory, "Qwen3VLMoe", "qwen3_vl", "Qwen3VLProcessor", 16, text, vision, rope)


def _qwen3_5(directory: Path) -> Any:
    """Three layers of gated delta rule and one of attention."""
    vision = {"out_hidden_size": 64, "num_position_embeddings": 64}
    text = {
        "num_hidden_layers": 4,
        "head_dim": 64,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "mamba_ssm_dtype": "float32",  # as published: vLLM keeps the state in it
    }
    rope = {"mrope_section": [4, 2, 2], "mrope_interleaved": True, "partial_rotary_factor": 0.25}
    return _qwen_vl(directory, "Qwen3_5", "qwen3_vl", "Qwen3VLProcessor", 16, text, vision, rope)


# Vision, images in tiles.

IDEFICS_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}<|im_start|>{% endif %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
INTERN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _idefics3(directory: Path) -> Any:
    """Tiles with row and column tokens and line breaks, then the whole image; SmolVLM has the same layout."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_backend(PAD, START, END, *TILES, *CELLS), eos_token=TILES[2], pad_token=PAD, bos_token=START
    )
    images = transformers.Idefics3ImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    transformers.Idefics3Processor(
        image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=IDEFICS_TEMPLATE
    ).save_pretrained(directory)
    config = transformers.Idefics3Config(
        text_config=TEXT | _sizes(tokenizer) | {"model_type": "llama"},
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "initializer_range": 0.1,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return _model(config, "Idefics3ForConditionalGeneration", tokenizer)


def _internvl(directory: Path) -> Any:
    """Tiles in one run between two tokens; InternVL3 in Hugging Face's own layout."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    tokenizer = _qwen_tokenizer("", *INTERN, extra_special_tokens=dict(zip(names, INTERN, strict=True)))
    size = {"height": 56, "width": 56}
    images = GotOcr2ImageProcessor(size=dict(size), crop_to_patches=True, min_patches=1, max_patches=4)
    transformers.InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=dict(size)),
        image_seq_length=4,
        chat_template=INTERN_TEMPLATE,
    ).save_pretrained(directory)
    config = transformers.InternVLConfig(
        text_config=TEXT | _sizes(tokenizer) | {"model_type": "qwen2", "tie_word_embeddings": False},
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [56, 56],
            "patch_size": [14, 14],
            "initializer_range": 0.1,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return _model(config, "InternVLForConditionalGeneration", tokenizer)


def _mistral3(directory: Path) -> Any:
    """Rows of placeholders with a token behind each; inputs of several images are padded to the largest. Pixtral has the layout."""
    tokenizer = _qwen_tokenizer("", *PIXTRAL)
    names = dict(zip(("image_token", "image_break_token", "image_end_token"), PIXTRAL, strict=True))
    images = transformers.PixtralImageProcessor(size={"longest_edge": 112}, patch_size={"height": 14, "width": 14})
    transformers.PixtralProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=INTERN_TEMPLATE.replace("<IMG_CONTEXT>", "[IMG]"),
        **names,
    ).save_pretrained(directory)
    config = transformers.Mistral3Config(
        text_config=TEXT | _sizes(tokenizer) | {"model_type": "mistral", "head_dim": 32, "tie_word_embeddings": False},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "head_dim": 32,
            "image_size": 112,
            "patch_size": 14,
            "initializer_range": 0.1,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return _model(config, "Mistral3ForConditionalGeneration", tokenizer)


FAMILIES = {
    family.name: family
    for family in (
        Family("llama", _llama, sees=False),
        Family("qwen2", _qwen2, sees=False),
        Family("qwen3", _qwen3, sees=False),
        Family("qwen3_moe", _qwen3_moe, sees=False),
        Family("mistral", _kin("Mistral", sliding_window=48, head_dim=32), sees=False),
        Family("phi3", _kin("Phi3"), sees=False),
        Family("granite", _kin("Granite", **SCALES), sees=False),
        Family("mixtral", _kin("Mixtral", num_local_experts=4, num_experts_per_tok=2, head_dim=32), sees=False),
        Family("glm4_moe", _kin("Glm4Moe", **GLM_EXPERTS, head_dim=32), sees=False),
        Family("qwen2_vl", _qwen2_vl),
        Family("qwen2_5_vl", _qwen2_5_vl),
        Family("qwen3_vl", _qwen3_vl),
        Family("qwen3_vl_moe", _qwen3_vl_moe, turned=True),
        Family("qwen3_5", _qwen3_5),
        Family("idefics3", _idefics3),
        Family("internvl", _internvl),
        Family("mistral3", _mistral3),
    )
}
