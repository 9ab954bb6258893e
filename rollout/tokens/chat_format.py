"""From chat template to tokens: how a conversation becomes a prompt, how text from outside becomes tokens, which tokens nobody may
sample."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import tokenizers

from envs.errors import UsageError
from envs.protocols.tags import THOUGHTS_BEGIN, THOUGHTS_END
from envs.runtime.garbage import importing
from rollout.tokens.image_layout import image_layout
from rollout.tokens.images import EncodedImage
from rollout.tokens.marks import Marks, texts_in
from rollout.tokens.policy_files import require_vocabulary

Piece = int | str
"""A part of a prompt: the id of a special token, or plain text."""

_FIRST, _ACTION, _SECOND, _SYSTEM = "FIRST-TEXT", "ACTION-TEXT", "SECOND-TEXT", "SYSTEM-TEXT"
_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_ACTION_TAG = re.compile(r"</?(?:answer|code|tool_call|function|parameter)>", re.IGNORECASE)
_TOOL = {
    "type": "function",
    "function": {"name": "TOOL-NAME", "description": "", "parameters": {"type": "object", "properties": {}}},
}


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation: a role of the chat template, its text, and its images, which stand before the text."""

    role: str
    text: str
    images: tuple[EncodedImage, ...] = ()


def _is_spoken(token: str) -> bool:
    """Whether a token is a tag that protocols let a model write, which some tokenizers mark as special."""
    return any(pattern.fullmatch(token) for pattern in (_ACTION_TAG, THOUGHTS_BEGIN, THOUGHTS_END))


def banned_token_ids(tokenizer: Any, model_config: Any) -> list[int]:
    """Ids that must never be sampled, sorted: special tokens (roles, images, video), and ids that name no token of the tokenizer.

    The end-of-turn token is allowed, and so are the tags of thoughts and actions. A sampled image placeholder would break the next
    forward pass, a sampled role token would let the policy speak as the user. The learner masks the same ids, since otherwise its
    log-probabilities differ from the sampler's.
    `tokenizer` is a fast Hugging Face tokenizer. Raises UsageError if the model of `model_config` has no embedding for a token.
    """
    banned = {
        token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special and not _is_spoken(token.content)
    }
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        if (token_id := getattr(model_config, name, None)) is not None:
            banned.add(token_id)
    vocabulary_size = model_config.get_text_config().vocab_size
    words = set(tokenizer.get_vocab().values())
    banned |= set(range(vocabulary_size)) - words
    banned.discard(tokenizer.eos_token_id)
    # A special token may lie there as long as nothing writes it, as the padding that many fine-tuned models have added.
    if beyond := [str(token_id) for token_id in sorted(words - banned) if token_id >= vocabulary_size]:
        lack = f"the model has no embedding for the tokenizer's token {beyond[0]} ({len(beyond)} in all)"
        raise UsageError(f"{lack}, since its vocab_size is {vocabulary_size}: resize_token_embeddings, and save it again")
    return sorted(token_id for token_id in banned if token_id < vocabulary_size)


class ChatFormat:
    """A model's chat template and its tokenizer.

    Special tokens come from the template alone: text from outside, and what a model wrote, is tokenised with special tokens split
    into ordinary characters. The tags of thoughts and actions are text even if the tokenizer marks them as special. `shows_tools`
    says that the template shows what it is given as `tools`, `opens_thoughts` that it begins each turn of the model with `<think>`.

    What a template does not take is written in a form that it does: a system prompt at the head of the first user's message, the
    results of tools in messages of the user, neighbouring messages of one role as one, a text as a list of parts or as a string.
    Raises UsageError for a template that cannot be used.
    """

    def __init__(self, processor: Any) -> None:
        """`processor` is a Hugging Face processor (tokenizer, image processor, chat template) or a fast tokenizer alone."""
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self._processor = processor
        self.images = image_layout(processor)
        # Our own copies of the backend: this switch is a property of the whole tokenizer, which others use as well.
        special = {token.content: token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        spoken = {token for token in special if _is_spoken(token)}
        self._special_ids = {token: token_id for token, token_id in special.items() if token not in spoken}
        if not hasattr(self.tokenizer, "backend_tokenizer"):
            raise UsageError(
                f"the policy's tokenizer, {type(self.tokenizer).__name__}, is no fast one: save it with a tokenizer.json"
            )
        self._plain = _with_words(self.tokenizer.backend_tokenizer.to_str(), spoken)
        self._plain.encode_special_tokens = True
        # Some decoders drop the space before the first word, which is only right at the beginning of a sequence.
        some = self._plain.encode("x").ids
        self._before = some[-1:] if self._plain.decode(self._plain.encode("x x").ids[len(some) :]) == "x" else []
        self._reserved = frozenset(self._special_ids.values())
        tokens = sorted(self._special_ids, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")
        self._constant = lru_cache(maxsize=256)(self._encode_plain)
        self._parts = frozenset() if self.images is None else frozenset({"user", "tool"})
        self._takes = frozenset({"system", "tool", "neighbours"})
        self._check()

    @classmethod
    def from_directory(cls, directory: str | Path) -> ChatFormat:
        """The chat format of a policy in the Hugging Face layout. Raises UsageError if its files cannot be read."""
        try:
            with importing():
                from transformers import AutoProcessor

                processor = AutoProcessor.from_pretrained(str(directory))
        except Exception as error:  # whatever a library finds wrong with somebody's files
            raise UsageError(f"the tokenizer or processor in {directory} cannot be read: {_line(error)}") from error
        require_vocabulary(getattr(processor, "tokenizer", processor), directory)
        return cls(processor)

    def _check(self) -> None:
        if not getattr(self._processor, "chat_template", True):
            raise UsageError("the policy has no chat template: put a chat_template.jinja into its directory")
        first, second = ChatMessage("user", _FIRST), ChatMessage("user", _SECOND)
        self._learn()
        prompt = self._render([first])
        if prompt.count(_FIRST) != 1:
            raise UsageError("the chat template does not show a user's text just once: choose one that does")
        closing = self.continuation([second])
        if not closing or closing[0] != self.tokenizer.eos_token_id:
            shown = next(
                (repr(token) for token, token_id in self._special_ids.items() if closing[:1] == [token_id]), "no special token"
            )
            raise UsageError(
                f"the chat template ends a turn with {shown}, but eos_token is {self.tokenizer.eos_token!r}: make them agree, in "
                "tokenizer_config.json or in chat_template.jinja"
            )
        self.end_of_turn: int = self.tokenizer.eos_token_id
        answered = self._render([first, ChatMessage("assistant", _ACTION)]).partition(_ACTION)[0]
        lead = answered.removeprefix(prompt)
        # Some templates write "Assistant: text" behind a prompt that ends in "Assistant:": the space is the model's to sample.
        self._lead = lead if answered.startswith(prompt) and lead.isspace() else ""
        self.shows_tools = self._takes_tools()
        begun = prompt.partition(_FIRST)[2]
        opened, closed = (
            max((match.start() for match in tag.finditer(begun)), default=-1) for tag in (THOUGHTS_BEGIN, THOUGHTS_END)
        )
        self.opens_thoughts = opened > closed
        self.image_token: int | None = None
        if self.images is not None:
            one, two, three = (self._render([first], images=[count]).split(_FIRST)[0] for count in (1, 2, 3))
            image = two[len(one) :]
            if not one.endswith(image) or two != one + image or three != two + image:
                raise UsageError("the chat template numbers or moves images: choose one that puts an image where its part stands")
            self.image_token = self.images.token_id
            if self._split(image).count(self.image_token) != 1:
                raise UsageError("the chat template does not show an image as one placeholder: choose one that does")

    def _learn(self) -> None:
        """Find out what the template takes: parts or a string as the content of each role, and which roles in which order."""
        user, action = ChatMessage("user", _FIRST), ChatMessage("assistant", _ACTION)
        second, system = ChatMessage("user", _SECOND), ChatMessage("system", _SYSTEM)
        for role, messages, text in (
            ("user", [user], _FIRST),
            ("assistant", [user, action], _ACTION),
            ("system", [system, user], _SYSTEM),
        ):
            if not self._shows(messages, text):
                parts = self._parts
                self._parts = parts ^ {role}
                if not self._shows(messages, text):
                    self._parts = parts
        for name, messages, text in (
            ("system", [system, user], _SYSTEM),
            ("tool", [user, action, ChatMessage("tool", _SECOND)], _SECOND),
            ("neighbours", [user, action, ChatMessage("user", _SYSTEM), second], _SECOND),
        ):
            if not self._shows(messages, text):
                self._takes -= {name}

    def _shows(self, messages: Sequence[ChatMessage], text: str) -> bool:
        try:
            return text in self._render(messages)
        except UsageError:
            return False

    def _adapted(self, messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
        """The messages in roles and in an order that the template takes."""
        if len(self._takes) == 3:
            return messages
        adapted: list[ChatMessage] = []
        system = ""
        for message in messages:
            if message.role == "system" and "system" not in self._takes:
                system = f"{message.text}\n\n"
                continue
            if message.role == "tool" and "tool" not in self._takes:
                message = replace(message, role="user", text=f"<tool_response>\n{message.text}\n</tool_response>")
            if message.role == "user" and system:
                message, system = replace(message, text=system + message.text), ""
            if adapted and adapted[-1].role == message.role != "assistant" and "neighbours" not in self._takes:
                last = adapted.pop()
                message = replace(message, text=f"{last.text}\n{message.text}", images=last.images + message.images)
            adapted.append(message)
        return adapted

    def _takes_tools(self) -> bool:
        try:
            return "TOOL-NAME" in self._render([ChatMessage("user", _FIRST)], [_TOOL])
        except UsageError:
            return False

    def _render(
        self, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]] | None = None, images: Sequence[int] | None = None
    ) -> str:
        """The template's text of a conversation up to the next action. `images` are the numbers of images, if not the messages'."""
        messages = self._adapted(messages)
        counts = images or [len(message.images) for message in messages]
        turns = [
            {"role": message.role, "content": self._content(message, count)}
            for message, count in zip(messages, counts, strict=True)
        ]
        options: dict[str, Any] = {"tools": [dict(tool) for tool in tools]} if tools else {}
        try:
            return self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **options)
        except _TEMPLATE_ERRORS as error:
            roles = ", ".join(dict.fromkeys(message.role for message in messages))
            remedy = "correct chat_template.jinja in the policy's directory"
            raise UsageError(f"the chat template takes no conversation of the roles {roles}: {_line(error)}: {remedy}") from error

    def _content(self, message: ChatMessage, images: int) -> Any:
        if message.role not in self._parts:
            return message.text
        return [{"type": "image"}] * images + [{"type": "text", "text": message.text}]

    def prompt(self, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]] | None = None) -> list[Piece]:
        """A whole conversation up to the next action, as the chat template renders it; an image is one placeholder."""
        marks = self._hide(messages, tools or ())
        return self._split(self._render(_marked(messages, marks), marks.hide(list(tools or ()))), marks)

    def reply(self, message: Mapping[str, Any]) -> str:
        """What the template writes for a message of the assistant that answers a user, as a trainer has it rendered, whatever
        `content` and `tool_calls` are. Raises UsageError if the template does not take it."""
        turns = [{"role": "user", "content": self._content(ChatMessage("user", _FIRST), 0)}, dict(message)]
        try:
            return self._processor.apply_chat_template(turns, tokenize=False).partition(_FIRST)[2]
        except _TEMPLATE_ERRORS as error:
            raise UsageError(f"the chat template does not take this message of the assistant: {_line(error)}") from error

    def continuation(self, messages: Sequence[ChatMessage]) -> list[Piece]:
        """What stands between the text of an action, whose end of turn comes first, and the next one, whatever stands before."""
        marks = self._hide(messages)
        rendered = self._render([ChatMessage("user", _FIRST), ChatMessage("assistant", _ACTION), *_marked(messages, marks)])
        return self._split(rendered.partition(_ACTION)[2], marks)

    def _hide(self, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]] = ()) -> Marks:
        """Marks for each text of the messages and tools that reads like a special token."""
        texts = [*(message.text for message in messages), *texts_in(list(tools))]
        return Marks(self._special_pattern, tuple(self._special_ids), texts)

    def _split(self, rendered: str, marks: Marks | None = None) -> list[Piece]:
        """Rendered text as pieces: ids of special tokens, and the plain text between them, with what was hidden put back."""
        pieces: list[Piece] = []
        position = 0
        for match in self._special_pattern.finditer(rendered):
            pieces += [rendered[position : match.start()], self._special_ids[match.group()]]
            position = match.end()
        pieces.append(rendered[position:])
        return [piece if isinstance(piece, int) or marks is None else marks.restore(piece) for piece in pieces if piece != ""]

    @property
    def takes_images(self) -> bool:
        """Whether the policy takes images at all."""
        return self.images is not None

    def image_tokens(self, height: int, width: int) -> int:
        """Number of tokens of an image of this size in pixels, placeholders and what stands between them.

        Raises ValueError for a size that the image processor refuses (an extreme aspect ratio), or if there is no image processor.
        """
        return len(self._image_run(height, width))

    def accepts(self, pixels: Any) -> bool:
        """Whether the policy takes images, and its image processor an array of this shape."""
        if self.images is None:
            return False
        try:
            return self.images.placeholders(*pixels.shape[:2]) > 0
        except ValueError:  # an extreme aspect ratio
            return False

    def _image_run(self, height: int, width: int) -> tuple[int, ...]:
        if self.images is None:
            raise ValueError("this policy takes no images")
        return self.images.run(height, width)

    def encode(self, pieces: Iterable[Piece], images: Sequence[EncodedImage] = ()) -> list[int]:
        """Token ids of pieces, with the tokens of each of `images` in place of its placeholder.

        Neighbouring texts are joined first, so that the result is what the whole text would give.
        """
        token_ids: list[int] = []
        run = ""
        shown = iter(images)
        for piece in pieces:
            if isinstance(piece, str):
                run += piece
                continue
            if run:
                token_ids += self._constant(run) if len(run) < 32 else self._encode_plain(run)
                run = ""
            token_ids += self._image_run(*next(shown).pixels.shape[:2]) if piece == self.image_token else (piece,)
        return token_ids + list(self._encode_plain(run)) if run else token_ids

    def _encode_plain(self, text: str) -> tuple[int, ...]:
        token_ids = self._plain.encode(text, add_special_tokens=False).ids
        if not self._reserved.isdisjoint(token_ids):
            raise ValueError("the tokenizer makes special tokens of plain text: it is not safe for observations")
        return tuple(token_ids)

    def pieces(self, token_ids: Sequence[int]) -> list[Piece]:
        """The inverse of `encode`: special tokens, each run of image placeholders as one, and the plain text between them."""
        pieces: list[Piece] = []
        for special, run in groupby(token_ids, key=lambda token: token if token in self._reserved else None):
            if special is None:
                pieces.append(self.decode(list(run)))
            else:
                pieces += [special] if special == self.image_token else run
        return pieces

    def encode_action(self, text: str, stop: Sequence[str] = ()) -> list[int]:
        """Token ids of a scripted action: the text, and the end-of-turn token unless the text ends in one of `stop`."""
        end = [] if stop and text.endswith(tuple(stop)) else [self.end_of_turn]
        return [*self._encode_plain(self._lead + text.removeprefix(self._lead)), *end]

    def action(self, text: str) -> ChatMessage:
        """The message of an action that was sampled as `text`: without the space that the template itself puts before it."""
        return ChatMessage("assistant", text.removeprefix(self._lead))

    def count(self, text: str) -> int:
        """Number of tokens of a text that stands alone."""
        return len(self.encode([text]))

    def cut(self, text: str, tokens: int) -> str:
        """The prefix of `text` that its first `tokens` tokens cover."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        return text if len(encoding.ids) <= tokens else text[: encoding.offsets[tokens][0]]

    def decode(self, token_ids: list[int]) -> str:
        """The text of sampled tokens, without the end-of-turn token."""
        text = self._plain.decode([*self._before, *token_ids], skip_special_tokens=True)
        return text[1:] if self._before else text


def _with_words(serialized: str, words: set[str]) -> tokenizers.Tokenizer:
    """A tokenizer for which the added tokens `words` are ordinary ones, and for which no text is the first of its sequence."""
    content = json.loads(serialized)
    for token in content["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in words
    pre_tokenizer = content["pre_tokenizer"] or {}
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        # Sentencepiece's mark of a word's beginning, where nothing stands before: here a special token always does.
        if step.get("prepend_scheme") == "first":
            step["prepend_scheme"] = "never"
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _marked(messages: Sequence[ChatMessage], marks: Marks) -> list[ChatMessage]:
    return [replace(message, text=marks.hide(message.text)) for message in messages]
