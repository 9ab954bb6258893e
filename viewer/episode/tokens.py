"""The text of tokens, by the tokenizer of a run's policy: the question of a prompt, and the piece of text of each token.

Read with the library `tokenizers`: what it needs is `tokenizer.json`, which every policy in the Hugging Face layout has, and for
the question the chat template.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.errors import UsageError
from rollout.tokens.prompts import PromptReader

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MOST_TOKENS = 1 << 32


class TokenText:
    """What the tokens of one policy say. Raises OSError or ValueError if `tokenizer.json` cannot be read."""

    def __init__(self, path: Path) -> None:

        text = path.read_text(encoding="utf-8")
        layout = json.loads(text)
        self._tokenizer: Tokenizer = _tokenizer(text)
        self._added = {entry["id"]: entry["content"] for entry in layout.get("added_tokens") or []}
        self._special = {entry["id"] for entry in layout.get("added_tokens") or [] if entry.get("special")}
        self._bytes_of = _has_bytes(layout.get("decoder"))
        self._prompts: PromptReader | None = None
        with suppress(UsageError, OSError, ValueError):
            self._prompts = PromptReader.from_directory(path.parent)

    def question(self, token_ids: Sequence[int]) -> str:
        """The question of a prompt, by the policy's chat template; without a template the whole prompt, but for special tokens."""
        ids = [token_id for token_id in token_ids if 0 <= token_id < _MOST_TOKENS]
        if self._prompts is not None:
            return self._prompts.question(ids)
        return self._tokenizer.decode(ids, skip_special_tokens=True).strip()

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        """The text of each token; joined, they are the text of all.

        A character whose bytes are divided among tokens stands at the last of them; a byte that belongs to none is U+FFFD.
        """
        pieces: list[str] = []
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token_id in token_ids:
            added = self._added.get(token_id)
            raw = None if added is not None else self._raw(token_id)
            if raw is None:
                pieces.append(decoder.decode(b"", True) + (added if added is not None else self._plain(token_id)))
                decoder.reset()
            else:
                pieces.append(decoder.decode(raw))
        if pieces:
            pieces[-1] += decoder.decode(b"", True)
        return pieces

    def _raw(self, token_id: int) -> bytes | None:
        """The bytes of a token of a byte-level vocabulary."""
        token = self._token(token_id) if self._bytes_of else None
        try:
            return None if token is None else bytes(_byte_of_character()[character] for character in token)
        except KeyError:
            return None

    def _plain(self, token_id: int) -> str:
        """A token that is no sequence of bytes: SentencePiece's mark is a space; an unknown id is shown as such."""
        token = self._token(token_id)
        return f"<{token_id}>" if token is None else token.replace("▁", " ")

    def _token(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id) if 0 <= token_id < _MOST_TOKENS else None


def _tokenizer(text: str) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"not a tokenizer: {error}") from error


def _has_bytes(decoder: Any) -> bool:
    """Whether the tokens of a `tokenizer.json` are written in GPT-2's characters, one for each byte."""
    if not isinstance(decoder, dict):
        return False
    return decoder.get("type") == "ByteLevel" or any(_has_bytes(part) for part in decoder.get("decoders") or [])


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others for 256 and up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
