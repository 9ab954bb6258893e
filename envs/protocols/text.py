"""Text from outside the model, made safe to show to it."""

from __future__ import annotations

import re

# The beginning of a special token or of a protocol's tag, in any of the spellings that chat templates use.
_UNSAFE = re.compile(
    r"<(?=[|｜]|\s*/?\s*(?:(?:seed:)?think(?:ing)?|thoughts?|reasoning|code|tool_call|tool_response|tools|function|parameter|answer"
    r"|image|video|img|box|ref|s|bos|eos|pad|unk|start_of|end_of)(?:_\w*)?\b)",
    re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def escape(text: str) -> str:
    """Make tool output harmless: `<` becomes `&lt;` if it would open a special token or a tag of a protocol."""
    return _UNSAFE.sub("&lt;", text)


def encodable(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which JSON may contain but tokenizers and files reject."""
    return _SURROGATE.sub("\ufffd", text)
