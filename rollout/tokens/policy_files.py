"""A policy's chat template and tokenizer, read from its files with jinja alone: transformers takes seconds to import.

It is enough to read text. It knows nothing of images but the tokens that stand for them: no prompt with images can be made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from envs.errors import UsageError


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that the tokenizer has beside its vocabulary; `special` ones stand for no text."""

    content: str
    special: bool


def require_vocabulary(tokenizer: Any, directory: str | Path) -> None:
    """Raise UsageError if a tokenizer of transformers has special tokens alone: that is what it makes of no file at all."""
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise UsageError(f"there is no tokenizer in {directory}: copy the tokenizer.json of the model into it")


class PolicyFiles:
    """What `ChatFormat` asks of a tokenizer, under the names that transformers gives it.

    Raises OSError or ValueError if `tokenizer.json` cannot be read.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self.backend_tokenizer = self
        self._text = (self._directory / "tokenizer.json").read_text(encoding="utf-8")
        layout = json.loads(self._text)
        if not isinstance(layout, dict):
            raise ValueError("tokenizer.json holds no tokenizer")
        settings = self._json("tokenizer_config.json")
        added = {
            entry["id"]: AddedToken(entry["content"], bool(entry.get("special"))) for entry in layout.get("added_tokens") or []
        }
        self.added_tokens_decoder: Mapping[int, AddedToken] = added
        self.eos_token = _token(settings.get("eos_token")) or _token(self._json("special_tokens_map.json").get("eos_token"))
        ids = {token.content: token_id for token_id, token in added.items()}
        vocabulary = (layout.get("model") or {}).get("vocab")
        words = vocabulary if isinstance(vocabulary, dict) else {}
        self.eos_token_id = ids.get(self.eos_token, words.get(self.eos_token))
        named = {name: _token(value) for name, value in settings.items() if name.endswith("_token")}
        self._variables = {name: token for name, token in named.items() if token is not None}
        self.chat_template = self._template(settings)

    def to_str(self) -> str:
        """`tokenizer.json`."""
        return self._text

    def apply_chat_template(self, conversation: Sequence[Mapping[str, Any]], *, tokenize: bool = False, **options: Any) -> str:
        """The template's text of a conversation. Raises as jinja does."""
        if self.chat_template is None:
            raise UsageError("the policy has no chat template: put a chat_template.jinja into its directory")
        compiled = _environment().from_string(self.chat_template)
        return compiled.render(messages=conversation, **{"tools": None, "documents": None} | self._variables | options)

    def _template(self, settings: Mapping[str, Any]) -> str | None:
        """The template that transformers would take: the processor's, if there is one, before the tokenizer's."""
        path = self._directory / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        named = (self._json(name).get("chat_template") for name in ("chat_template.json", "processor_config.json"))
        for found in (*named, settings.get("chat_template")):
            if isinstance(found, str):
                return found
            if isinstance(found, list):  # several, by name
                return next((one.get("template") for one in found if isinstance(one, dict) and one.get("name") == "default"), None)
        return None

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self._directory / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


def _token(value: Any) -> str | None:
    """The text of a token, which older files write as an object."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


class _Generation(jinja2.ext.Extension):
    """The tags around what a model says, which only training looks at."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """The environment of a chat template, as transformers makes it (`transformers.utils.chat_template_utils`)."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    names: Any = made.globals
    names |= {"raise_exception": _raise, "strftime_now": _now}
    return made


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _raise(message: str) -> Any:
    raise jinja2.TemplateError(message)
