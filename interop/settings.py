"""Settings of `toolwise export` and `toolwise import`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Format(StrEnum):
    """What an export is read by; docs/formats.md says what each keeps."""

    inspect = "inspect"
    atif = "atif"
    messages = "messages"
    sharegpt = "sharegpt"
    parquet = "parquet"


class Only(StrEnum):
    """Which episodes are written."""

    all = "all"
    right = "right"


class Images(StrEnum):
    """Where the images of `messages` and `parquet` are."""

    files = "files"
    inline = "inline"


class LogFormat(StrEnum):
    """What an imported file is written in."""

    guess = "guess"
    openai = "openai"
    deepeyes = "deepeyes"


@dataclass
class ExportConfig:
    """A run's episodes in a format that others read."""

    run: str = ""
    """The directory of a run, which has `trajectories/`."""
    out: str = "runs/export"
    """Directory to write to; it must not exist, or be empty."""
    format: Format = Format.inspect
    """"inspect", logs of `inspect view`; "atif", Harbor's trajectories; "messages", OpenAI's chat messages for TRL and others;
    "sharegpt", for LLaMA-Factory; "parquet", for verl, pandas and `datasets`."""
    names: list[str] | None = None
    """Files of `trajectories/` by name, as in names=[rl_000010,rl_000020]; null takes all."""
    episodes: int | None = None
    """Most episodes, in the order of the files; null takes all."""
    only: Only = Only.all
    """"right" leaves out the episodes whose answer was wrong, as for rejection sampling."""
    images: Images = Images.files
    """"files" puts images into `images/` beside the file; "inline" puts them into it. Inspect's logs always hold them, ATIF and
    ShareGPT always name them."""
    tokens: bool = True
    """Whether token ids and log-probabilities are written, if the format has a place for them."""
    policy: str = ""
    """The policy in whose tokens the episodes are, in the Hugging Face layout. Empty: one of the run's checkpoints, else the
    policy that its `config.yaml` names."""
    protocol: str | None = None
    """The protocol in which the policy acts. null: the one that the run's `config.yaml` names, else deepeyes."""


@dataclass
class ImportConfig:
    """Others' logs as a run."""

    file: str = ""
    """The log: .jsonl, .json, .parquet, or a directory of `datasets`; each row is an episode."""
    format: LogFormat = LogFormat.guess
    """"openai", chat messages with `tool_calls`; "deepeyes", turns with DeepEyesV2's tags, as messages or as one text; "guess"
    decides by the first rows, and says so."""
    out: str = "runs/import"
    """Directory to write to; it must not exist, or be empty."""
    policy: str = "starter"
    """The policy in whose tokens the episodes are written."""
    protocol: str | None = None
    """The protocol in which calls are written. null: hermes for format=openai, deepeyes for format=deepeyes."""
    max_tokens: int = 32768
    """Longest transcript in tokens; a longer row is counted as unreadable."""
    max_observation_tokens: int = 8192
    """Longest question or result of a tool in tokens; a longer one is cut and marked, and counted."""
    max_pixels: int = 12_845_056
    """Most pixels of an image; larger ones are scaled down."""
