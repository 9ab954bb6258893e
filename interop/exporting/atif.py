"""Harbor's Agent Trajectory Interchange Format (ATIF), version 1.7: one JSON document for each episode, its images beside it."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from interop.exporting.conversation import Conversation, Turn
from interop.exporting.writing import Writer, dumped, facts

SCHEMA_VERSION = "ATIF-v1.7"


class AtifWriter(Writer):
    """Writes `NAME/EPISODE.json` for each episode, and `images/`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._files: dict[str, int] = {}

    def add(self, conversation: Conversation) -> bool:
        if not conversation.prompt:
            self.source.notes.add("episodes left out, since they ended before their question", conversation.record.episode_id)
            return False
        folder = self.directory / conversation.name
        folder.mkdir(exist_ok=True)
        self._files[conversation.name] = self._files.get(conversation.name, 0) + 1
        (folder / f"{_file_name(conversation.record.episode_id)}.json").write_text(dumped(self._document(conversation)) + "\n")
        return True

    def close(self) -> list[str]:
        return [f"{name}/ ({count} files)" for name, count in self._files.items()]

    def _document(self, conversation: Conversation) -> dict[str, Any]:
        known = facts(conversation, self.source.label)
        steps: list[dict[str, Any]] = [
            {"source": message.role, "message": self._content(message.text, message.images)} for message in conversation.prompt
        ]
        steps += [self._step(turn) for turn in conversation.turns]
        sampled = [turn.sampled for turn in conversation.turns if turn.sampled is not None]
        return {
            "schema_version": SCHEMA_VERSION,
            "session_id": self.source.label,
            "trajectory_id": f"{conversation.name}/{conversation.record.episode_id}",
            "agent": {"name": "toolwise", "version": "0", "model_name": self.source.policy},
            "steps": [{"step_id": number, **step} for number, step in enumerate(steps, 1)],
            "final_metrics": {
                "total_prompt_tokens": sum(len(one.prompt_ids) for one in sampled),
                "total_completion_tokens": sum(len(one.token_ids) for one in sampled),
                "total_steps": len(steps),
                "extra": {"reward": known["reward"], **known["reward_parts"]},
            },
            "extra": known,
        }

    def _step(self, turn: Turn) -> dict[str, Any]:
        step: dict[str, Any] = {"source": "agent", "message": turn.said, "llm_call_count": 1}
        if turn.reasoning:
            step["reasoning_content"] = turn.reasoning
        if turn.calls:
            step["tool_calls"] = [
                {
                    "tool_call_id": use.id,
                    "function_name": use.name,
                    "arguments": use.arguments,
                    "extra": {"status": use.status, "latency_s": use.latency_s},
                }
                for use in turn.calls
            ]
        if turn.results:
            told_apart = len(turn.results) == len(turn.calls)
            step["observation"] = {
                "results": [
                    {
                        **({"source_call_id": turn.calls[place].id} if told_apart else {}),
                        "content": self._content(message.text, message.images),
                    }
                    for place, message in enumerate(turn.results)
                ]
            }
        step["metrics"] = self._metrics(turn)
        return step

    def _metrics(self, turn: Turn) -> dict[str, Any]:
        metrics: dict[str, Any] = {"extra": {"generate_s": turn.generate_s}}
        if (sampled := turn.sampled) is None:
            return metrics
        metrics |= {"prompt_tokens": len(sampled.prompt_ids), "completion_tokens": len(sampled.token_ids)}
        if self.config.tokens:
            metrics |= {
                "prompt_token_ids": sampled.prompt_ids,
                "completion_token_ids": sampled.token_ids,
                "logprobs": sampled.logprobs,
            }
            metrics["extra"]["policy_versions"] = sampled.versions
        return metrics

    def _content(self, text: str, images: tuple[str, ...]) -> Any:
        if not images:
            return text
        return [*map(self._image, images), {"type": "text", "text": text}]

    def _image(self, sha: str) -> dict[str, Any]:
        name = self.copied_image(sha)
        if name is None:
            return {"type": "text", "text": f"[the image {sha[:12]} is missing]"}
        return {"type": "image", "source": {"media_type": "image/png", "path": f"../{name}"}}


def _file_name(episode_id: str) -> str:
    """The id, if it can be a file's name as it stands; else what can be of it, and a digest that keeps it apart from others."""
    if re.fullmatch(r"\w[\w.-]{0,120}", episode_id):
        return episode_id
    digest = hashlib.sha256(episode_id.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9-]+', '_', episode_id)[:60]}-{digest}"
