"""Reads the question of a row by its columns. A row has one of three forms, in any file format:

- plain: `question`, `answer`, and optionally `images` (or `image`, `image_path`), `ability` (or `category`),
  `needed_tools`, `tools`, `scoring`, `hint`, and options in columns `A`, `B`, … as in VLMEvalKit's TSV. RealX-Bench's labels
  may be a list, or true and false in columns `perception`, `reasoning`, `search`;
- verl: `prompt` (chat messages), `reward_model.ground_truth`, `images`, `ability`, `data_source`, and DeepEyesV2's `env_name`;
- chat: `messages` (OpenAI's, with text and image parts) or `conversations` (ShareGPT's); the truth is `answer`, or else in the
  last message of the assistant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.datasets.pictures import picture
from envs.datasets.types import Question
from envs.errors import RowError
from envs.scoring.types import EXACT, Kind, Scoring

LABELS = ("perception", "reasoning", "search")
"""RealX-Bench's labels. A question may have several and counts for each; with all three it also counts as integration."""

ENVIRONMENTS: dict[str, tuple[str, ...] | None] = {"deepeyes_v2": None, "code_toolbox_lingyi_v1": ("code",)}
"""The tools behind an `env_name` of DeepEyesV2's files; None for all."""

_ABILITIES = {"reason": "reasoning", "integrated": "integration"}
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_PLACEHOLDER = re.compile(r"<image>\s*")
_ROLES = {"human": "user", "gpt": "assistant"}


def question(row: Mapping[str, Any], folder: Path, tools: frozenset[str] | None = None) -> Question:
    """The question of a row, whose paths are relative to `folder` and which may name only `tools`, None for any.

    Raises RowError, which says what to write instead, if the row cannot be used.
    """
    if row.get("prompt") is not None and row.get("reward_model") is not None:
        return _verl(row, folder)
    if conversation(row):
        return _chat(row, folder, tools)
    return _plain(row, folder, tools)


def conversation(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a chat row as `role` and `content`; empty if it has none. Raises RowError for a malformed message."""
    messages = row.get("messages") or row.get("conversations") or []
    parsed = []
    for message in messages if isinstance(messages, Sequence) else ():
        if not isinstance(message, Mapping):
            raise RowError(f"a message is {message!r}: write role and content")
        role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if role is None or content is None:
            raise RowError("a message has no role or no content")
        parsed.append({"role": _ROLES.get(role, role), "content": content})
    return parsed


def text_of(content: Any) -> str:
    """The text of a message without its image placeholders."""
    if not isinstance(content, str):
        content = "\n".join(part.get("text") or "" for part in content if part.get("type") in (None, "text"))
    return _PLACEHOLDER.sub("", content).strip()


def picture_parts(content: Any) -> list[Any]:
    """The image parts of a message, unchanged."""
    if isinstance(content, str):
        return []
    parts = [part.get("image_url") or part.get("image") for part in content if part.get("type") in ("image_url", "image")]
    return [part for part in parts if part]


def _plain(row: Mapping[str, Any], folder: Path, tools: frozenset[str] | None) -> Question:
    text, answer = _required(row, "question"), _required(row, "answer")
    if hint := _text(row.get("hint")):
        text = f"{hint}\n{text}"
    options = {name: _text(row[name]) for name in row if re.fullmatch("[A-Z]", name) and _text(row[name])}
    scoring = EXACT
    if row.get("scoring") is not None:
        try:
            scoring = Scoring.from_mapping({name: value for name, value in row["scoring"].items() if value is not None})
        except (ValueError, TypeError, AttributeError) as error:
            raise RowError(f"the scoring cannot be used ({error})") from None
    elif options:
        if answer not in options and answer not in options.values():
            raise RowError(f"the answer {answer!r} is none of the options {', '.join(options)}")
        scoring = Scoring(Kind.CHOICE, options=tuple(options.items()))
    lines = [f"{letter}. {option}" for letter, option in options.items()]
    named = next((row[name] for name in ("images", "image", "image_path") if row.get(name) not in (None, "", [])), ())
    return Question(
        "\n".join([text, *lines]),
        answer,
        _abilities(row),
        _text(row.get("source")) or None,
        tuple(picture(one, folder) for one in (named if isinstance(named, list | tuple) else [named])),
        needed_tools=_tools(row.get("needed_tools"), "needed_tools", tools),
        tools=_tools(row.get("tools"), "tools", tools),
        scoring=scoring,
    )


def _verl(row: Mapping[str, Any], folder: Path) -> Question:
    messages = conversation({"messages": row["prompt"]})
    prompts = [message["content"] for message in messages if message["role"] == "user"]
    text = text_of(prompts[-1]) if prompts else ""
    answer = _text((row["reward_model"] or {}).get("ground_truth"))
    for name, value in (("question", text), ("answer", answer)):
        if not value:
            raise RowError(f"there is no {name}; every row needs a question and an answer")
    environment = row.get("env_name")
    if environment is not None and environment not in ENVIRONMENTS:
        raise RowError(f"there is no env_name {environment!r}; write one of {', '.join(ENVIRONMENTS)}")
    images = row.get("images")
    return Question(
        text,
        answer,
        _abilities({"ability": row.get("ability") or row.get("data_source")}),
        _text(row.get("data_source")) or None,
        tuple(picture(one, folder) for one in (images if images is not None else ())),
        tools=None if environment is None else ENVIRONMENTS[environment],
    )


def _chat(row: Mapping[str, Any], folder: Path, tools: frozenset[str] | None) -> Question:
    messages = conversation(row)
    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    prompts = [message["content"] for message in messages if message["role"] == "user"]
    answer = _text(row.get("answer"))
    if not answer and replies:
        last = text_of(replies[-1])
        match = _ANSWER.search(last)
        answer = match.group(1).strip() if match else last
    if not prompts or not text_of(prompts[0]):
        raise RowError("there is no question; write a message of the role user")
    if not answer:
        raise RowError('there is no answer; write "answer", or a last message of the role assistant')
    prompt = prompts[0]
    # Rows in OpenAI's form may declare functions here, which are not names of tools.
    declared = any(isinstance(tool, Mapping) for tool in row.get("tools") or ())
    parts = (
        picture_parts(prompt)
        or list(row.get("images") or ())[: prompt.count("<image>") or None if isinstance(prompt, str) else None]
    )
    return Question(
        text_of(prompt),
        answer,
        _abilities(row),
        _text(row.get("source")) or None,
        tuple(picture(part, folder) for part in parts),
        tools=None if declared else _tools(row.get("tools"), "tools", tools),
    )


def _abilities(row: Mapping[str, Any]) -> tuple[str, ...]:
    ability = next((row[name] for name in ("ability", "category", "l2-category") if row.get(name) not in (None, "", [])), None)
    labels = [str(label) for label in ability] if isinstance(ability, list | tuple) else []
    labels = labels or [label for label in LABELS if _text(row.get(label)).lower() in ("true", "1", "yes")]
    if labels:
        return (*labels, *(["integration"] if set(LABELS) <= set(labels) else []))
    return (_ABILITIES.get(str(ability), str(ability)) if ability is not None else "other",)


def _tools(names: Any, column: str, known: frozenset[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    listed = [names] if isinstance(names, str) else list(names)
    if known is not None and (unknown := [name for name in listed if name not in known]):
        raise RowError(f"{column} has {unknown[0]!r}, and there is no such tool; write some of {', '.join(sorted(known))}")
    return tuple(listed)


def _required(row: Mapping[str, Any], name: str) -> str:
    value = _text(row.get(name))
    if not value:
        raise RowError(f"there is no {name}; every row needs a question and an answer")
    return value


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
