"""From chat template to tokens: what surrounds a turn, how text from outside becomes tokens, which tokens nobody may sample."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers

from rollout.tokens.images import ImageEncoder

Piece = int | str
"""A part of a prompt: the id of a special token, or plain text."""

_SYSTEM, _FIRST, _ACTION, _SECOND = "SYSTEM-TEXT", "FIRST-TEXT", "ACTION-TEXT", "SECOND-TEXT"


def banned_token_ids(tokenizer: Any, model_config: Any) -> list[int]:
    """Ids that must never be sampled, sorted: special tokens (roles, images, video), and ids that name no token of the tokenizer.

    The end-of-turn token is allowed. A sampled image placeholder would break the next forward pass, a sampled role token would let
    the policy speak as the user. The learner masks the same ids, since otherwise its log-probabilities differ from the sampler's.
    `tokenizer` is a fast Hugging Face tokenizer, `model_config` the model's configuration.
    """
    banned = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        token_id = getattr(model_config, name, None)
        if token_id is not None:
            banned.add(token_id)
    vocabulary_size = model_config.get_text_config().vocab_size
    banned |= set(range(vocabulary_size)) - set(tokenizer.get_vocab().values())
    banned.discard(tokenizer.eos_token_id)
    return sorted(token_id for token_id in banned if token_id < vocabulary_size)


class ChatFormat:
    """A model's chat template, taken apart once, and its tokenizer.

    The template is rendered on marked texts and cut at the marks, so any template works that renders a longer conversation as an
    extension of a shorter one. Special tokens come from the template alone: text from outside is tokenised with special tokens
    split into ordinary characters. Raises ValueError for a template that does not keep its own prefix.
    """

    def __init__(self, processor: Any) -> None:
        """`processor` is a Hugging Face processor (tokenizer, image processor, chat template) or a fast tokenizer alone."""
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self._image_processor: Any = getattr(processor, "image_processor", None)
        self.images = ImageEncoder()
        # Our own copies of the backend: this switch is a property of the whole tokenizer, which others use as well.
        serialized = self.tokenizer.backend_tokenizer.to_str()
        self._plain = tokenizers.Tokenizer.from_str(serialized)
        self._plain.encode_special_tokens = True
        self._special_ids = {
            token.content: token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.special
        }
        self._reserved = frozenset(self._special_ids.values())
        self._special_pattern = re.compile("|".join(re.escape(token) for token in sorted(self._special_ids, key=len, reverse=True)))
        self._constant = lru_cache(maxsize=256)(self._encode_plain)
        self._count_image_tokens = lru_cache(maxsize=4096)(self._image_tokens)
        self._take_apart(processor)

    @classmethod
    def from_directory(cls, directory: str | Path) -> ChatFormat:
        """The chat format of a policy in the Hugging Face layout."""
        from transformers import AutoProcessor

        return cls(AutoProcessor.from_pretrained(str(directory)))

    def _take_apart(self, processor: Any) -> None:
        multimodal = self._image_processor is not None

        def content(text: str, images: int = 0) -> Any:
            return [{"type": "image"}] * images + [{"type": "text", "text": text}] if multimodal else text

        def render(*messages: tuple[str, Any]) -> str:
            turns = [{"role": role, "content": body} for role, body in messages]
            return processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

        first = ("user", content(_FIRST))
        opening, prompt_end = render(first).split(_FIRST)
        before_system, between = re.split(f"{_SYSTEM}|{_FIRST}", render(("system", content(_SYSTEM)), first))[:2]
        pieces = re.split(
            f"{_FIRST}|{_ACTION}|{_SECOND}", render(first, ("assistant", content(_ACTION)), ("user", content(_SECOND)))
        )
        if pieces[0] != opening or pieces[1] != prompt_end or pieces[3] != prompt_end:
            raise ValueError("the chat template rewrites earlier turns: choose one in which a conversation only ever grows")
        closing = self._split(pieces[2])
        if not closing or closing[0] != self.tokenizer.eos_token_id:
            raise ValueError(
                f"the chat template ends a turn with {pieces[2]!r}, but eos_token is {self.tokenizer.eos_token!r}: make them agree"
            )
        self.end_of_turn: int = self.tokenizer.eos_token_id
        self._opening, self._prompt_end = self._split(opening), self._split(prompt_end)
        self._before_system, self._between = self._split(before_system), self._split(between)
        self._next_turn = closing[1:]
        self._image_open: list[Piece] = []
        self._image_close: list[Piece] = []
        self._image_run: list[Piece] = []
        self.image_token: int | None = None
        if multimodal:
            one, two = (render(("user", content(_FIRST, count))).split(_FIRST)[0] for count in (1, 2))
            image = one[len(opening) :]
            if not one.startswith(opening) or two != opening + image * 2:
                raise ValueError("the chat template numbers or moves images: choose one that puts an image where its part stands")
            parts = self._split(image)
            self.image_token = self.tokenizer.convert_tokens_to_ids(processor.image_token)
            self._image_run = [self.image_token]
            where = parts.index(self.image_token)
            self._image_open, self._image_close = parts[:where], parts[where + 1 :]

    def _split(self, template_text: str) -> list[Piece]:
        """Template text as pieces: ids of special tokens, and the plain text between them."""
        pieces: list[Piece] = []
        position = 0
        for match in self._special_pattern.finditer(template_text):
            pieces += [template_text[position : match.start()], self._special_ids[match.group()]]
            position = match.end()
        pieces.append(template_text[position:])
        return [piece for piece in pieces if piece != ""]

    def opening(self, system_prompt: str | None) -> list[Piece]:
        """What stands before the first user text."""
        if system_prompt is None:
            return list(self._opening)
        return [*self._before_system, system_prompt, *self._between]

    def next_turn(self) -> list[Piece]:
        """What stands between the end-of-turn token of an action and the text of the following observation."""
        return list(self._next_turn)

    def prompt_end(self) -> list[Piece]:
        """What stands between a user text and the first sampled token: end of turn and generation prompt."""
        return list(self._prompt_end)

    def image_pieces(self, tokens: int) -> list[Piece]:
        """An image of `tokens` placeholder tokens with its brackets."""
        return [*self._image_open, *self._image_run * tokens, *self._image_close]

    def image_tokens(self, height: int, width: int) -> int:
        """Number of placeholder tokens of an image of this size in pixels: t·h·w / merge² of the image processor's patch grid.

        Raises ValueError for a size that the image processor refuses (an extreme aspect ratio).
        """
        return self._count_image_tokens(height, width)

    def accepts(self, pixels: Any) -> bool:
        """Whether the image processor takes an array of this shape. Raises ValueError where the policy takes no images at all."""
        if self._image_processor is None:
            raise ValueError("this policy takes no images: choose one with an image processor, or tasks without images")
        try:
            return self.image_tokens(*pixels.shape[:2]) > 0
        except ValueError:  # an extreme aspect ratio
            return False

    def _image_tokens(self, height: int, width: int) -> int:
        patches = self._image_processor.get_number_of_image_patches(height, width, {})
        return patches // self._image_processor.merge_size**2

    def encode(self, pieces: Iterable[Piece]) -> list[int]:
        """Token ids of pieces. Neighbouring texts are joined first, so that the result is what the whole text would give."""
        token_ids: list[int] = []
        run = ""
        for piece in pieces:
            if isinstance(piece, str):
                run += piece
                continue
            if run:
                token_ids += self._constant(run) if len(run) < 32 else self._encode_plain(run)
                run = ""
            token_ids.append(piece)
        return token_ids + list(self._encode_plain(run)) if run else token_ids

    def _encode_plain(self, text: str) -> tuple[int, ...]:
        token_ids = self._plain.encode(text, add_special_tokens=False).ids
        if not self._reserved.isdisjoint(token_ids):
            raise ValueError("the tokenizer makes special tokens of plain text: it is not safe for observations")
        return tuple(token_ids)

    def encode_action(self, text: str) -> list[int]:
        """Token ids of a scripted action: the text and the end-of-turn token."""
        return [*self._encode_plain(text), self.end_of_turn]

    def count(self, text: str) -> int:
        """Number of tokens of a text that stands alone."""
        return len(self.encode([text]))

    def cut(self, text: str, tokens: int) -> str:
        """The prefix of `text` that its first `tokens` tokens cover."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        return text if len(encoding.ids) <= tokens else text[: encoding.offsets[tokens][0]]

    def decode(self, token_ids: list[int]) -> str:
        """The text of sampled tokens, without the end-of-turn token."""
        return self._plain.decode(token_ids, skip_special_tokens=True)
