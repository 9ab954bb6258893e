"""Parquet: one row for each episode, with nested columns; its `messages` and `images` are what verl's SFT dataset reads."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from envs.protocols.text import encodable
from interop.exporting.conversation import Conversation
from interop.exporting.messages import BETWEEN_RESULTS, is_learnable, placed, unplaced
from interop.exporting.writing import Writer, facts
from interop.settings import Images
from rollout.tokens.chat_format import ChatMessage

_ROWS, _BYTES = 256, 32 << 20  # of a row group, whichever comes first

_CALL = pa.struct({"name": pa.string(), "arguments": pa.string(), "status": pa.string(), "latency_s": pa.float64()})
_TURN = pa.struct(
    {
        "action": pa.string(),
        "reasoning": pa.string(),
        "observation": pa.string(),
        "images": pa.list_(pa.string()),
        "tool_calls": pa.list_(_CALL),
        "generate_s": pa.float64(),
    }
)
_CHAIN = pa.struct(
    {
        "token_ids": pa.list_(pa.int32()),
        "loss_mask": pa.list_(pa.int8()),
        "logprobs": pa.list_(pa.float32()),
        "versions": pa.list_(pa.int32()),
        "prompt_length": pa.int32(),
        "images": pa.list_(pa.string()),
    }
)
_FACTS = {
    **dict.fromkeys(("run", "name"), pa.string()),
    "step": pa.int64(),
    **dict.fromkeys(("episode_id", "task_id", "group_id"), pa.string()),
    **dict.fromkeys(("abilities", "needed_tools"), pa.list_(pa.string())),
    "reward": pa.float64(),
    "reward_parts": pa.list_(pa.struct({"name": pa.string(), "value": pa.float64()})),
    "correct": pa.bool_(),
    **dict.fromkeys(("answer", "stop_reason", "error"), pa.string()),
    "tool_calls": pa.int64(),
    "policy_versions": pa.list_(pa.int32()),
    "source": pa.string(),
    "seed": pa.int64(),
    "temperature": pa.float64(),
    "cut": pa.string(),
    "cut_before": pa.int64(),
    "chains": pa.int64(),
}


class ParquetWriter(Writer):
    """Writes `episodes.parquet`, and `images/` unless images stand in the file.

    `messages` holds role and text, with a placeholder `<image>` for each of `images`: with images=inline the bytes of a PNG, as
    `datasets` keeps them, else `{"image": path}`, relative to the file. Without `tokens` the column of chains is left out.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        fields = {"messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))}
        if self.source.chat.takes_images:
            inline = pa.struct({"bytes": pa.binary(), "path": pa.string()})
            fields["images"] = pa.list_(inline if self.config.images is Images.inline else pa.struct({"image": pa.string()}))
        fields |= _FACTS | {"turns": pa.list_(_TURN)} | ({"token_chains": pa.list_(_CHAIN)} if self.config.tokens else {})
        self._schema = pa.schema(fields)
        self._file = pyarrow.parquet.ParquetWriter(self.directory / "episodes.parquet", self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._size = 0

    def add(self, conversation: Conversation) -> bool:
        if not is_learnable(self, conversation):
            return False
        row = self._row(conversation)
        self._rows.append(row)
        record = conversation.record
        self._size += 16 * len(record.token_ids) + sum(len(turn.action) + len(turn.observation) for turn in record.turns)
        self._size += sum(len(image.get("bytes") or b"") for image in row.get("images", ()))
        if len(self._rows) >= _ROWS or self._size >= _BYTES:
            self._flush()
        return True

    def close(self) -> list[str]:
        self._flush()
        self._file.close()
        return ["episodes.parquet", *(["images/"] if self._copied else [])]

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows, self._size = [], 0

    def _row(self, conversation: Conversation) -> dict[str, Any]:
        given = facts(conversation, self.source.label)
        known = {name: encodable(value) if isinstance(value, str) else value for name, value in given.items()}
        known["reward_parts"] = [{"name": name, "value": value} for name, value in given["reward_parts"].items()]
        row = {"messages": self._messages(conversation), **known, "turns": self._turns(conversation)}
        if self.source.chat.takes_images:
            row["images"] = [self._image(sha) for sha in conversation.shown_images]
        if self.config.tokens:
            names = ("token_ids", "loss_mask", "logprobs", "versions", "prompt_length", "images")
            row["token_chains"] = [{name: getattr(chain, name) for name in names} for chain in conversation.episode.chains]
        return row

    def _messages(self, conversation: Conversation) -> list[dict[str, str]]:
        messages = [{"role": message.role, "content": placed(self, message)} for message in conversation.prompt]
        for turn in conversation.turns:
            messages.append({"role": "assistant", "content": unplaced(self, turn.text)})
            results = [{"role": message.role, "content": placed(self, message)} for message in turn.results]
            if len(results) > 1 and self._joins_results:
                results = [{"role": "tool", "content": BETWEEN_RESULTS.join(result["content"] for result in results)}]
            messages += results
        return messages

    @cached_property
    def _joins_results(self) -> bool:
        """Whether the chat template writes the results of several calls into one message. verl renders each message by itself and
        refuses rows for which that is not what the template writes for all of them."""
        apart, joined = ["1", "2"], [BETWEEN_RESULTS.join("12")]
        return (
            len({tuple(self.source.chat.continuation([ChatMessage("tool", text) for text in texts])) for texts in (apart, joined)})
            == 1
        )

    def _turns(self, conversation: Conversation) -> list[dict[str, Any]]:
        return [
            {
                "action": turn.text,
                "reasoning": turn.reasoning,
                "observation": "\n".join(message.text for message in turn.results),
                "images": [image for message in turn.results for image in message.images],
                "tool_calls": [
                    {
                        "name": use.name,
                        "arguments": encodable(json.dumps(use.arguments, ensure_ascii=False)),
                        "status": use.status,
                        "latency_s": use.latency_s,
                    }
                    for use in turn.calls
                ],
                "generate_s": turn.generate_s,
            }
            for turn in conversation.turns
        ]

    def _image(self, sha: str) -> dict[str, Any]:
        if self.config.images is Images.files:
            return {"image": self.copied_image(sha)}
        return {"bytes": Path(self.source.store.directory, "images", f"{sha}.png").read_bytes(), "path": f"{sha}.png"}
