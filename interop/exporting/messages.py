"""Chat messages as JSON lines: OpenAI's, and ShareGPT's in the form that LLaMA-Factory reads."""

from __future__ import annotations

import base64
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from envs.datasets.conversations import PLACEHOLDER
from envs.errors import UsageError
from envs.protocols import Protocol
from interop.exporting.conversation import Conversation, Message, Turn
from interop.exporting.writing import Writer, dumped, facts
from interop.settings import Images

BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"
"""What LLaMA-Factory, and Qwen's chat templates, write between the results of several calls."""
RESULT_BEGIN, RESULT_END = "<tool_response>\n", "\n</tool_response>"
"""What stands around the result of a call in a message of the user."""
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
    without a source, and its file is the next of `images`. What the chat template would not write as it was sampled is text, and
    a result with images stands in a message of the user: TRL takes no image in a tool's. With `images=inline` an image is a data
    URL, and calls and results are as OpenAI's API takes them, whatever the template does.
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
        written = {"role": "assistant", "content": self._content(Message("assistant", turn.text), sees, inline)}
        called = self._called(turn, written, sees, inline) if structured and turn.calls else None
        if called is None:
            return [written | thoughts, *self._results(turn, (), sees, inline)]
        return [called | thoughts, *self._results(turn, tuple(use.id for use in turn.calls), sees, inline)]

    def _called(self, turn: Turn, written: Mapping[str, Any], sees: bool, inline: bool) -> dict[str, Any] | None:
        """The message of a turn with its calls apart; None, and counted, if it is not read as what was sampled, `written`."""
        if not turn.structured:
            self.source.notes.add("turns whose calls are text, since written again they would differ from what was sampled")
            return None
        said = turn.said.removesuffix("\n")
        empty = None if inline else [] if sees else ""  # behind a text, be it empty, templates write a line break
        calls = [
            {
                "id": use.id,
                "type": "function",
                "function": {"name": use.name, "arguments": json.dumps(use.arguments, ensure_ascii=False)},
            }
            for use in turn.calls
        ]
        content = self._content(Message("assistant", said), sees, inline) if said else empty
        called = {"role": "assistant", "content": content, "tool_calls": calls}
        if not inline and not self._reads_as(called, written):
            self.source.notes.add("turns whose calls are text, since the policy's chat template would write tool_calls otherwise")
            return None
        return called

    def _reads_as(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether the policy's chat template writes the same for two messages of the assistant."""
        try:
            return self.source.chat.reply(one) == self.source.chat.reply(other)
        except UsageError:
            return False

    def _results(self, turn: Turn, ids: Sequence[str], sees: bool, inline: bool) -> list[dict[str, Any]]:
        """The messages behind a turn. `ids` are those of the calls that they answer; there are none if its calls are text."""
        messages: list[dict[str, Any]] = []
        for message, call in zip_longest(turn.results, ids[: len(turn.results)]):
            if message.role == "tool" and message.images and not inline:
                self.source.notes.add("results with images that stand in a message of the user, since TRL takes none in a tool's")
                frame = ({"type": "text", "text": RESULT_BEGIN}, {"type": "text", "text": message.text + RESULT_END})
                messages.append({"role": "user", "content": [frame[0], *({"type": "image"} for _ in message.images), frame[1]]})
                continue
            role = "tool" if call else "user" if inline else message.role
            answers = {"tool_call_id": call} if call else {}
            messages.append({"role": role, "content": self._content(message, sees, inline), **answers})
        if len(turn.results) in (0, len(ids)) or not ids:
            return messages
        self.source.notes.add("turns whose results stand with their first call, since they cannot be told apart")
        if messages[-1]["role"] == "tool":
            empty = self._content(Message("tool", ""), sees, inline)
            messages += [{"role": "tool", "content": empty, "tool_call_id": call} for call in ids[len(turn.results) :]]
        return messages

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
        asked = [message for message in conversation.prompt if message.role != "system"]
        turns = [{"from": "human", "value": "\n".join(placed(self, message) for message in asked)}]
        images = [image for message in asked for image in message.images]
        for number, turn in enumerate(conversation.turns, 1):
            turns.append({"from": "gpt", "value": unplaced(self, turn.text)})
            if number < len(conversation.turns):
                by_tool = any(message.role == "tool" for message in turn.results)
                shown = (BETWEEN_RESULTS if by_tool else "\n").join(placed(self, message) for message in turn.results)
                turns.append({"from": "observation" if by_tool else "human", "value": shown})
                images += [image for message in turn.results for image in message.images]
        paths = {"images": [str(self.copied_image(sha)) for sha in images]} if sees else {}
        # LLaMA-Factory looks for each column of dataset_info.json in every file.
        return {
            "conversations": turns,
            "system": conversation.system or "",
            **paths,
            "episode_id": conversation.record.episode_id,
        }

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
