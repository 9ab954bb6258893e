"""The record of an episode as it is shown, read from its lines. What breaks the contract is shown as far as it goes, and said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollout.types import Trajectory
from viewer.episode.learned import Learned, on_tokens
from viewer.episode.tokens import TokenText
from viewer.index.lines import Unreadable, calls_of, number, read_line

CUT = 1 << 16
"""Characters of a text that are shown before the whole is asked for."""


class Changed(LookupError):
    """The file no longer holds what the index says: it is being written anew."""


def read_chains(directory: Path, file: str, offset: int, length: int, episode_id: str) -> list[bytes]:
    """The lines of an episode. Raises Changed."""
    try:
        with (directory / file).open("rb") as opened:
            opened.seek(offset)
            lines = [line for line in opened.read(length).split(b"\n") if line.strip()]
    except OSError as error:
        raise Changed(f"{file} cannot be read: {error.strerror}") from error
    try:
        if lines and read_line(lines[0]).row["episode_id"] == episode_id:
            return lines
    except Unreadable:
        pass
    raise Changed(f"{file} was written anew: ask again")


class EpisodeRecord:
    """The chains of one episode, as plain values. `problems` says what in them breaks the contract."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.problems: list[str] = []
        self.chains: list[dict[str, Any]] = []
        for line in lines:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                self.problems.append(str(error)[:CUT])
                continue
            if not isinstance(record, dict):
                continue
            self.chains.append(record)
            try:
                Trajectory.from_json(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError, OverflowError, TypeError) as error:
                self.problems.append(" ".join(str(error).split())[:500])

    def prompt(self) -> list[int]:
        """Token ids of the first chain's prompt."""
        first = self.chains[0] if self.chains else {}
        length = first.get("prompt_length")
        return _integers(first.get("token_ids"))[: length if isinstance(length, int) else 0]

    def question_images(self) -> list[str]:
        """Names of the prompt's images: those before the images that the turns were shown."""
        first = self.chains[0] if self.chains else {}
        images = _strings(first.get("images"))
        turns = [turn for turn in _list(first.get("turns")) if isinstance(turn, dict)]
        if len(self.chains) > 1:
            turns = turns[:-1]  # what the last turn of a chain is shown begins the next one
        shown = [image for turn in turns for image in _strings(turn.get("images"))]
        return images[: len(images) - len(shown)] if images[len(images) - len(shown) :] == shown else images

    def turns(self, whole: bool) -> list[dict[str, Any]]:
        """The turns; a text of more than 64 Ki characters is cut unless the whole is asked for."""
        return [_turn(turn, whole) for chain in self.chains for turn in _list(chain.get("turns")) if isinstance(turn, dict)]

    def tokens(self, text: TokenText | None, known: dict[int, Learned]) -> list[dict[str, Any]]:
        """The tokens of each chain, with what the learner recorded of them."""
        shown = []
        for place, chain in enumerate(self.chains):
            ids, mask = _integers(chain.get("token_ids")), _list(chain.get("loss_mask"))
            taught = known.get(_whole_number(chain.get("chain"), place))
            shown.append(
                {
                    "chain": _whole_number(chain.get("chain"), place),
                    "pieces": text.pieces(ids) if text is not None else [f"<{token_id}>" for token_id in ids],
                    "token_ids": ids,
                    "mask": [1 if one == 1 else 0 for one in mask],
                    "logprobs": [number(value) for value in _list(chain.get("logprobs"))],
                    "versions": [_whole_number(value, -1) for value in _list(chain.get("versions"))],
                    "prompt_length": _whole_number(chain.get("prompt_length"), 0),
                    "learner_logprobs": on_tokens(taught.log_probs, mask) if taught else None,
                    "advantages": on_tokens(taught.advantages, mask) if taught else None,
                }
            )
        return shown


def _turn(turn: dict[str, Any], whole: bool) -> dict[str, Any]:
    texts = {name: str(turn.get(name) or "") for name in ("action", "reasoning", "observation")}
    lengths = {name: len(text) for name, text in texts.items() if len(text) > CUT}
    return {
        **(texts if whole else {name: text[:CUT] for name, text in texts.items()}),
        "images": _strings(turn.get("images")),
        "tool_calls": calls_of(turn),
        "generate_s": number(turn.get("generate_s")),
        "cut": bool(lengths) and not whole,
        "lengths": lengths,
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _strings(value: Any) -> list[str]:
    return [item for item in _list(value) if isinstance(item, str)]


def _integers(value: Any) -> list[int]:
    return [_whole_number(item, -1) for item in _list(value)]


def _whole_number(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53 else otherwise
