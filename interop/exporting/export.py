"""The export of a run: its episodes, one after the other, through the writer of a format, into a directory that appears whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from envs.runtime.atomic import new_directory
from envs.runtime.progress import Advance
from interop.exporting.atif import AtifWriter
from interop.exporting.inspect_log import InspectWriter
from interop.exporting.messages import MessagesWriter, ShareGptWriter
from interop.exporting.runs import Source
from interop.exporting.table import ParquetWriter
from interop.exporting.writing import Writer
from interop.settings import ExportConfig, Format, Images

_WRITERS: dict[Format, type[Writer]] = {
    Format.inspect: InspectWriter,
    Format.atif: AtifWriter,
    Format.messages: MessagesWriter,
    Format.sharegpt: ShareGptWriter,
    Format.parquet: ParquetWriter,
}


_READERS = {
    Format.inspect: "inspect view --log-dir {out}",
    Format.atif: "harbor.models.trajectories.Trajectory.model_validate_json, for each file in {out}",
    Format.messages: "datasets.load_dataset('json', data_files='{out}/messages.jsonl', split='train'), for TRL's SFTTrainer: "
    "docs/formats.md has the lines",
    Format.sharegpt: "llamafactory-cli train … dataset_dir={out} media_dir={out} dataset=toolwise",
    Format.parquet: "data.train_files={out}/episodes.parquet of verl's SFT trainer, or datasets.load_dataset('parquet', …)",
}


def followed_by(config: ExportConfig) -> str:
    """Who reads what was written, and how."""
    if config.format is Format.messages and config.images is Images.inline:
        return f"send the messages of each line of {config.out}/messages.jsonl to an API like OpenAI's"
    return _READERS[config.format].format(out=config.out)


@dataclass(frozen=True, slots=True)
class Exported:
    """The number of episodes, what was written below the directory, and what was left out or changed, a line each."""

    episodes: int
    wrote: list[str]
    notes: list[str]


def export(source: Source, config: ExportConfig, advance: Advance) -> Exported:
    """Write the episodes of a run. `advance` counts names. Raises UsageError if `out` is not empty, or the policy is another's."""
    episodes = 0
    with new_directory(Path(config.out)) as directory:
        source.load()
        writer = _WRITERS[config.format](directory, source, config)
        for number, name in enumerate(source.names, 1):
            for conversation in source.conversations(name):
                if config.episodes is not None and episodes >= config.episodes:
                    break
                episodes += writer.add(conversation)
            advance(number, f"{name}, {episodes} episodes")
            if config.episodes is not None and episodes >= config.episodes:
                break
        wrote = writer.close()
    notes = source.notes.lines()
    if unfinished := source.unfinished():
        notes.append(f"not read: {', '.join(unfinished)}: a step that is under way, or that was killed")
    return Exported(episodes, wrote, notes)
