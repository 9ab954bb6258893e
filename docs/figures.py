"""Draws the pictures of the README and of the documents from stored runs, and prints the tables of docs/results.md.

    .venv/bin/python docs/figures.py                               # what `make figures` runs: all runs below runs/
    .venv/bin/python docs/figures.py runs=/data/runs out=/tmp/images '+pictures.mine=[grpo,gspo]'

Settings: FiguresConfig in evaluation/settings.py. What stands in the pages of runs draws the pictures as well
(`evaluation.pages`); only the one episode is a PNG, since its pictures are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageFont

from configs import choices, compose
from envs.errors import UsageError
from envs.runtime.atomic import write_file
from evaluation.pages.document import Plot, picture
from evaluation.pages.experiments import (
    Experiment,
    abilities_of,
    abilities_table,
    by_ability,
    code_quality,
    demonstrations,
    dynamics,
    dynamics_table,
    read_experiment,
    study,
)
from evaluation.settings import FiguresConfig
from rollout.store import Store
from rollout.tokens.prompts import Questions
from rollout.types import Episode, Trajectory
from starter.policies import find_policy

INK, GREY, BLUE, GREEN = "#1f2328", "#6e7781", "#0969da", "#1a7f37"
PANEL = 224
"""Side of a picture in the figure of an episode, in pixels."""


class Runs:
    """The stored runs. `missing` collects a line for each that is not there, with the command that makes it."""

    def __init__(self, config: FiguresConfig) -> None:
        self._root, self._seeds = Path(config.runs), config.seeds
        self.missing: dict[str, None] = {}
        self._read: dict[str, Experiment] = {}

    def experiment(self, name: str) -> Experiment:
        """The seeds of an experiment that are there; the run of its own name, if it has no seeds."""
        if name not in self._read:
            runs = {seed: self._root / f"{name}_{seed}" for seed in self._seeds}
            if not any(run.is_dir() for run in runs.values()) and (self._root / name).is_dir():
                runs = {0: self._root / name}
            self._read[name] = read_experiment(name, [run for run in runs.values() if run.is_dir()])
            known = {seed.name for seed in self._read[name].seeds}
            for seed, run in runs.items():
                if run.name not in known:
                    what = "has no step of RL yet" if run.is_dir() else "is not there"
                    self.missing[f"{run} {what}: {command_of(name, seed, run)}"] = None
        return self._read[name]

    def experiments(self, names: Sequence[str]) -> list[Experiment]:
        """Those experiments of which there is a run."""
        return [one for one in map(self.experiment, names) if one.seeds]

    def directory(self, name: str) -> Path | None:
        """The directory of a run; None if it is not there."""
        run = self._root / name
        if not (run / "trajectories").is_dir():
            self.missing[f"{run} is not there: {command_of(name, 0, run)}"] = None
            return None
        return run


def command_of(name: str, seed: int, run: Path) -> str:
    """The command that makes a run of an experiment."""
    if name in ("demo", "study"):
        return f"make {name}"
    chosen = {"with_cold_start": "demo"}.get(name, name)
    if (count := name.removeprefix("demonstrations_")) != name:
        chosen = f"few_demonstrations cold_start.demonstrations={count}"
    inner = f"dynamics/{chosen}"
    experiment = inner if inner.partition(" ")[0] in choices() else chosen
    return f".venv/bin/toolwise train experiment={experiment} seed={seed} out={run} resume=true"


def episodes_of(run: Path, name: str) -> Iterator[Trajectory]:
    """The episodes of one file, each in one record, without those that infrastructure failed."""
    for _, chains in groupby(Store(run).trajectories(name), key=lambda trajectory: trajectory.episode_id):
        episode = Episode(tuple(chains))
        if not episode.failed:
            yield episode.trajectory


def find_crop_episode(run: Path) -> Trajectory:
    """The latest RL episode, or collected one, that cropped once and answered right."""
    names = [name for name in Store(run).names() if name == "episodes" or name.startswith("rl_")]
    for name in reversed(names):
        for episode in episodes_of(run, name):
            first = episode.turns[0]
            if len(episode.turns) == 2 and episode.correct and ".crop(" in first.action and len(first.images) == 1:
                return episode
    raise UsageError(f"{run}: no episode has one crop and the right answer: give a longer run")


def question_of(run: Path, episode: Trajectory) -> str:
    """The question, from the prompt's tokens: a record holds no other text of it."""
    saved = run / "config.yaml"
    policy = OmegaConf.load(saved).policy if saved.exists() else "starter"
    return " ".join(Questions(find_policy(policy))(episode).split())


def draw_episode(run: Path, path: Path) -> None:
    """What the policy sees, the code that it writes, what comes back, and its answer, from left to right."""
    episode = find_crop_episode(run)
    view, crop = (_opened(run, name) for name in episode.images)
    code = episode.turns[0].action.split("```python\n")[1].split("\n```")[0]
    figure = Image.new("RGB", (1080, 352), "white")
    draw = ImageDraw.Draw(figure)
    _heading(draw, 24, "1  What the policy sees", f"{view.width} x {view.height} pixels")
    _picture(figure, draw, view, 24)
    _heading(draw, 296, "2  It writes code", "run in the sandbox")
    draw.rounded_rectangle((296, 156, 296 + 288, 156 + 20 * code.count("\n") + 40), 6, fill="#f6f8fa", outline="#d0d7de")
    draw.multiline_text((310, 166), code, INK, ImageFont.load_default(15), spacing=4)
    _arrow(draw, 256, 288)
    _arrow(draw, 592, 624)
    _heading(draw, 632, "3  The crop comes back", "at full resolution")
    _picture(figure, draw, crop, 632)
    _arrow(draw, 864, 896)
    _heading(draw, 904, "4  It answers", "reward: " + f"{episode.reward:.2f}")
    draw.text((940, 128), episode.answer or "", GREEN, ImageFont.load_default(72))
    draw.text((24, 322), f"“{question_of(run, episode)}”", INK, ImageFont.load_default(15))
    _save(figure, path)


def _opened(run: Path, name: str) -> Image.Image:
    with Image.open(run / "trajectories" / "images" / f"{name}.png") as opened:
        return opened.convert("RGB")


def _heading(draw: ImageDraw.ImageDraw, left: int, title: str, remark: str) -> None:
    draw.text((left, 20), title, INK, ImageFont.load_default(17))
    draw.text((left, 44), remark, GREY, ImageFont.load_default(13))


def _picture(figure: Image.Image, draw: ImageDraw.ImageDraw, image: Image.Image, left: int) -> None:
    figure.paste(image.resize((PANEL, PANEL), Image.Resampling.NEAREST), (left, 76))
    draw.rectangle((left - 1, 75, left + PANEL, 76 + PANEL), outline="#d0d7de")


def _arrow(draw: ImageDraw.ImageDraw, left: int, right: int) -> None:
    draw.line((left, 176, right - 6, 176), BLUE, 2)
    draw.polygon(((right - 8, 170), (right, 176), (right - 8, 182)), BLUE)


def _save(figure: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(path, optimize=True)
    print(f"wrote {path}: {path.stat().st_size / 1000:.0f} kB")


def draw(plots: Sequence[Plot], path: Path, columns: int = 2) -> None:
    """Write plots as one SVG."""
    write_file(path, picture(plots, columns))
    print(f"wrote {path}: {path.stat().st_size / 1000:.0f} kB")


def main(overrides: Sequence[str]) -> None:
    """Draw what there are runs for, and print the tables; then name the runs that are missing."""
    config = compose("figures", FiguresConfig, overrides)
    runs, out = Runs(config), Path(config.out)
    if (run := runs.directory(config.episode)) is not None:
        draw_episode(run, out / "episode.png")
    if (shown := runs.experiment(config.study)).seeds:
        draw(study(shown), out / "study.svg")
    tables = []
    for name, experiments in config.pictures.items():
        if found := runs.experiments(experiments):
            draw([*dynamics(found), *(code_quality(found) if name == "calls" else ())], out / f"dynamics_{name}.svg")
            tables.append(f"{name}\n\n{dynamics_table(found)}")
    if abilities_of(several := runs.experiment(config.abilities)):
        draw(by_ability(several), out / "dynamics_abilities.svg")
        tables.append(f"{several.name}\n\n{dynamics_table([several])}\n{abilities_table(several)}")
    counted = {count: runs.experiment(f"demonstrations_{count}") for count in config.demonstrations}
    if found := [one for one in counted.values() if one.seeds]:
        draw(demonstrations({count: one for count, one in counted.items() if one.seeds}), out / "dynamics_demonstrations.svg")
        tables.append(f"demonstrations\n\n{dynamics_table(found)}")
    print("", *tables, *runs.missing, sep="\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"figures: {error}")
