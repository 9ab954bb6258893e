"""Chat messages as JSON lines: OpenAI's, and ShareGPT's in the form that LLaMA-Factory reads."""

from __future__ import annotations

import base64
import json
from abc import abstractmethod
from pathlib import Path
from typing import IO, Any

from envs.datasets.conversations import PLACEHOLDER
from envs.protocols import Protocol
from interop.exporting.conversation import Conversation, Message, Turn
from interop.exporting.writing import Writer, dumped, facts
from interop.settings import Images

BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"
"""What LLaMA-Factory writes between the results of several calls."""
_FACTS = (
    *("name", "step", "episode_id", "task_id", "group_id", "abilities", "needed_tools", "reward", "reward_parts", "answer"),
    *("stop_reason", "source", "seed"),
)


class _LinesWriter(Writer):
    """Writes one file of JSON lines; left out are episodes without a turn, those that infrastructure failed, and those of which an
    image is missing: nothing can be learned from them, and placeholders must have their images."""

    file_name: str

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._file: IO[str] = (self.directory / self.file_name).open("w", encoding="utf-8")

    def add(self, conversation: Conversation) -> bool:
        if not is_learnable(self, conversation):
            return False
        self._file.write(dumped(self.row(conversation)) + "\n")
        return True

    @abstractmethod
    def row(self, conversation: Conversation) -> dict[str, Any]:
        """The line of an episode."""

    def close(self) -> list[str]:
        self._file.close()
        return [self.file_name, *(["images/"] if self._copied else [])]


class MessagesWriter(_LinesWriter):
    """Writes `messages.jsonl`: `messages`, `images`, and what is known of each episode.

    If the policy takes images, each content is a list of parts, as TRL and `datasets` want all of them alike; an image is a part
    without a source, and its file is the next of `images`. With `images=inline` it is a data URL, as OpenAI's API takes it.
    """

    file_name = "messages.jsonl"

    def row(self, conversation: Conversation) -> dict[str, Any]:
        sees = self.source.chat.takes_images
        inline = self.config.images is Images.inline
        known = facts(conversation, self.source.label)
        messages = [{"role": message.role, "content": self._content(message, sees, inline)} for message in conversation.prompt]
        structured = has_tool_calls(self.source.protocol)
        for turn in conversation.turns:
            messages += self._turn(turn, sees, inline, structured)
        paths = [] if inline or not sees else [str(self.copied_image(sha)) for sha in conversation.shown_images]
        images = {} if inline or not sees else {"images": paths}
        turns = [
            {
                "tool_calls": [{"tool": call.tool, "status": call.status, "latency_s": call.latency_s} for call in turn.tool_calls],
                "generate_s": turn.generate_s,
            }
            for turn in conversation.record.turns
        ]
        return {"messages": messages, **images, **{name: known[name] for name in _FACTS}, "turns": turns}

    def _turn(self, turn: Turn, sees: bool, inline: bool, structured: bool) -> list[dict[str, Any]]:
        thoughts = {"reasoning_content": turn.reasoning} if turn.reasoning else {}
        if not structured or not turn.structured:
            if structured and turn.calls:
                self.source.notes.add("turns whose calls are text, since written again they would differ from what was sampled")
            action = Message("assistant", turn.text)
            shown = [Message("user", message.text, message.images) for message in turn.results]
            return [
                {"role": "assistant", "content": self._content(action, sees, inline), **thoughts},
                *({"role": message.role, "content": self._content(message, sees, inline)} for message in shown),
            ]
        calls = [
            {
                "id": use.id,
                "type": "function",
                "function": {"name": use.name, "arguments": json.dumps(use.arguments, ensure_ascii=False)},
            }
            for use in turn.calls
        ]
        said = Message("assistant", turn.said.removesuffix("\n"))
        answers = list(turn.results) + [Message("tool", "")] * (len(turn.calls) - len(turn.results) if turn.results else 0)
        if len(turn.results) not in (0, len(turn.calls)):
            self.source.notes.add("turns whose results stand with their first call, since they cannot be told apart")
        return [
            {"role": "assistant", "content": self._content(said, sees, inline), **thoughts, "tool_calls": calls},
            *(
                {"role": "tool", "content": self._content(message, sees, inline), "tool_call_id": use.id}
                for use, message in zip(turn.calls, answers, strict=False)
            ),
        ]

    def _content(self, message: Message, sees: bool, inline: bool) -> Any:
        if not sees:
            return message.text
        return [*(self._image(sha, inline) for sha in message.images), {"type": "text", "text": message.text}]

    def _image(self, sha: str, inline: bool) -> dict[str, Any]:
        if not inline:
            return {"type": "image"}
        data = base64.b64encode(Path(self.source.store.directory, "images", f"{sha}.png").read_bytes()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


class ShareGptWriter(_LinesWriter):
    """Writes `sharegpt.jsonl` and the `dataset_info.json` by which LLaMA-Factory reads it: `dataset_dir` is this directory.

    Turns are the sampled text, calls included; what no turn of the model follows is left out, as the form has a model's turn last.
    """

    file_name = "sharegpt.jsonl"

    def row(self, conversation: Conversation) -> dict[str, Any]:
        sees = self.source.chat.takes_images
        question = next((message for message in conversation.prompt if message.role == "user"), Message("user", ""))
        turns = [{"from": "human", "value": placed(self, question)}]
        images = list(question.images)
        for number, turn in enumerate(conversation.turns, 1):
            turns.append({"from": "gpt", "value": unplaced(self, turn.text)})
            if number < len(conversation.turns):
                by_tool = any(message.role == "tool" for message in turn.results)
                shown = (BETWEEN_RESULTS if by_tool else "\n").join(placed(self, message) for message in turn.results)
                turns.append({"from": "observation" if by_tool else "human", "value": shown})
                images += [image for message in turn.results for image in message.images]
        system = {} if conversation.system is None else {"system": conversation.system}
        paths = {"images": [str(self.copied_image(sha)) for sha in images]} if sees else {}
        return {"conversations": turns, **system, **paths, "episode_id": conversation.record.episode_id}

    def close(self) -> list[str]:
        columns = {"messages": "conversations", "system": "system"} | (
            {"images": "images"} if self.source.chat.takes_images else {}
        )
        info = {"toolwise": {"file_name": self.file_name, "formatting": "sharegpt", "columns": columns}}
        (self.directory / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n")
        return [*super().close(), "dataset_info.json"]


def has_tool_calls(protocol: Protocol) -> bool:
    """Whether the protocol's calls are those of OpenAI's API, and not text with tags of its own."""
    return protocol.tools_in_template or protocol.native


def is_learnable(writer: Writer, conversation: Conversation) -> bool:
    """Whether an episode can be a row to learn from; if not, a note says why."""
    notes, name = writer.source.notes, conversation.record.episode_id
    if conversation.record.failed:
        notes.add("episodes left out, since infrastructure failed them", name)
    elif not conversation.turns or not conversation.prompt:
        notes.add("episodes left out, since they have no turn", name)
    elif not writer.has_images(conversation):
        notes.add("episodes left out, since an image is missing", name)
    else:
        return True
    return False


def placed(writer: Writer, message: Message) -> str:
    """The text of a message with a placeholder `<image>` for each image before it."""
    return "<image>" * len(message.images) + unplaced(writer, message.text)


def unplaced(writer: Writer, text: str) -> str:
    """The text, in which nothing reads like a placeholder: each must have its image."""
    changed = PLACEHOLDER.sub(lambda match: "&lt;" + match.group()[1:], text)
    changed = changed.replace("<video>", "&lt;video>").replace("<audio>", "&lt;audio>")
    if changed != text:
        writer.source.notes.add("texts in which <image> and the like are written &lt;image>, since they are no placeholders")
    return changed
