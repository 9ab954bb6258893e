"""Draws the pictures of the README and of the results from stored runs.

.venv/bin/python docs/figures.py runs/demo                                          # docs/images/episode.png
.venv/bin/python docs/figures.py runs/demo runs/study_0 runs/study_1 runs/study_2   # … and docs/images/study.png
.venv/bin/python docs/figures.py --dynamics runs/no_tools_0 runs/no_tools_1 …        # docs/images/dynamics.png, and abilities.png

The first run, or directory of `toolwise collect`, gives the episode, each further one a line in the curve, which needs matplotlib.
With `--dynamics` runs whose names differ in a number at the end are seeds of one experiment: a line is their mean, a band their
range.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageFont
from transformers import AutoTokenizer

from rollout.store import Store
from rollout.types import Episode, Trajectory
from starter.policies import find_policy

IMAGES = Path(__file__).parent / "images"
INK, GREY, BLUE, GREEN = "#1f2328", "#6e7781", "#0969da", "#1a7f37"
PANEL = 224
"""Side of a picture in the figure, in pixels."""
SMOOTHING_STEPS = 9


def episodes_of(run: Path, name: str) -> Iterator[Trajectory]:
    """The episodes of one file, each in one record, without those that infrastructure failed."""
    for _, chains in groupby(Store(run).trajectories(name), key=lambda trajectory: trajectory.episode_id):
        episode = Episode(tuple(chains))
        if not episode.failed:
            yield episode.trajectory


def rl_steps(run: Path) -> list[str]:
    """The names of a run's stored RL steps, in order."""
    return [name for name in Store(run).names() if name.startswith("rl_")]


def find_crop_episode(run: Path) -> Trajectory:
    """The latest RL episode, or collected one, that cropped once and answered right."""
    for name in reversed(["episodes", *rl_steps(run)] if "episodes" in Store(run).names() else rl_steps(run)):
        for episode in episodes_of(run, name):
            first = episode.turns[0]
            if len(episode.turns) == 2 and episode.correct and ".crop(" in first.action and len(first.images) == 1:
                return episode
    raise SystemExit(f"{run}: no episode has one crop and the right answer: give a longer run")


def question_of(run: Path, episode: Trajectory) -> str:
    """The question, from the prompt's tokens: a record holds no other text of it."""
    saved = run / "config.yaml"
    policy = OmegaConf.load(saved).policy if saved.exists() else "starter"
    tokenizer = AutoTokenizer.from_pretrained(find_policy(policy))
    prompt = tokenizer.decode(episode.token_ids[: episode.prompt_length], skip_special_tokens=True)
    return " ".join(prompt.split("user\n")[-1].removesuffix("assistant\n").split())


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


def draw_study(runs: Sequence[Path], path: Path) -> None:
    """Accuracy and calls per episode against the RL step; cold start and control of each run as horizontal marks."""
    from matplotlib import pyplot

    figure, (accuracy, calls) = pyplot.subplots(1, 2, figsize=(9, 3.3), dpi=110, layout="constrained")
    for number, run in enumerate(runs):
        colour = f"C{number}"
        steps = [list(episodes_of(run, name)) for name in rl_steps(run)]
        if not steps:
            raise SystemExit(f"{run}: there is no RL step in {run}/trajectories")
        axis = range(1, len(steps) + 1)
        accuracy.plot(axis, _smooth([np.mean([one.correct for one in step]) for step in steps]), colour, label=run.name)
        calls.plot(axis, _smooth([np.mean([one.tool_calls for one in step]) for step in steps]), colour)
        calls.plot(axis, _smooth([np.var([one.tool_calls for one in step]) for step in steps]), colour, linestyle=":")
        for label, style in (("cold_start", "--"), ("control", "-.")):
            if (record := _record(run, label)) is not None:
                accuracy.axhline(record["accuracy"], color=colour, linestyle=style, linewidth=0.8, alpha=0.7)
    accuracy.set(xlabel="RL step", ylim=(0, 1))
    accuracy.set_title("accuracy in RL (held out: -- cold start, -· SFT control)", fontsize="medium")
    calls.set(xlabel="RL step", ylim=(0, None))
    calls.set_title("tool calls per episode: mean, and variance (dotted)", fontsize="medium")
    accuracy.legend(loc="lower right", frameon=False)
    _save_figure(figure, path)


CURVES = {
    "tool calls per episode": "tools/calls_per_episode/mean",
    "accuracy": "reward/accuracy",
    "used a tool if one is needed": "by_need/needed/tool_use",
    "used a tool if none is needed": "by_need/not_needed/tool_use",
}


def draw_dynamics(runs: Sequence[Path], path: Path) -> None:
    """Calls, accuracy and use against the RL step, a line for each experiment; a mark where the alarm first rang."""
    from matplotlib import pyplot

    experiments = _experiments(runs)
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), dpi=110, layout="constrained", sharex=True)
    for axis, (title, name) in zip(axes.flat, CURVES.items(), strict=True):
        for number, (experiment, seeds) in enumerate(experiments.items()):
            drawn = _draw_band(axis, seeds, name, f"C{number}", experiment)
            rings = [next((step for step, line in enumerate(lines) if line["tools/collapse_alarm"]), None) for lines in seeds]
            known = [step for step in rings if step is not None and drawn is not None and step < len(drawn)]
            if drawn is not None and known:
                axis.plot(known, drawn[known], f"C{number}v", markersize=6)
        axis.set_title(title, fontsize="medium")
        axis.set(ylim=(0, None if "per episode" in title else 1.02))
    for axis in axes[1]:
        axis.set(xlabel="RL step")
    axes[0, 0].legend(frameon=False, fontsize="small")
    _save_figure(figure, path)


def draw_abilities(run: Path, path: Path) -> None:
    """Calls per episode and their spread, by ability, against the RL step of one run."""
    from matplotlib import pyplot

    lines = rl_lines(run)
    names = sorted({name.split("/")[1] for line in lines for name in line if name.startswith("ability/")})
    figure, (mean, spread) = pyplot.subplots(1, 2, figsize=(9, 3.3), dpi=110, layout="constrained")
    for number, name in enumerate(names):
        _draw_band(mean, [lines], f"ability/{name}/tools/calls_per_episode/mean", f"C{number}", name)
        _draw_band(spread, [lines], f"ability/{name}/tools/calls_per_episode/std", f"C{number}", name)
    for axis, title in ((mean, "tool calls per episode: mean"), (spread, "tool calls per episode: standard deviation")):
        axis.set(xlabel="RL step", ylim=(0, None))
        axis.set_title(title, fontsize="medium")
    mean.legend(frameon=False, fontsize="small")
    _save_figure(figure, path)


def rl_lines(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run's RL steps."""
    lines = [line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if line["stage"] == "rl"]
    if not lines:
        raise SystemExit(f"{run}: there is no RL step in {run}/metrics.jsonl")
    return lines


def _experiments(runs: Sequence[Path]) -> dict[str, list[list[dict[str, Any]]]]:
    """The RL steps of the seeds of each experiment."""
    experiments: dict[str, list[list[dict[str, Any]]]] = {}
    for run in runs:
        experiments.setdefault(re.sub(r"_\d+$", "", run.name), []).append(rl_lines(run))
    return experiments


def _draw_band(axis: Any, seeds: Sequence[Sequence[dict[str, Any]]], name: str, colour: str, label: str) -> np.ndarray | None:
    """The mean of a metric over seeds, and their range; the mean is returned, None if no run has the metric."""
    steps = min(map(len, seeds))
    values = np.array([_smooth([line.get(name, np.nan) for line in lines[:steps]]) for lines in seeds])
    if np.isnan(values).all():
        return None
    mean = np.nanmean(values, axis=0)
    axis.plot(mean, colour, label=label)
    if len(seeds) > 1:
        axis.fill_between(range(steps), np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, alpha=0.15, linewidth=0)
    return mean


def _save_figure(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    _save(Image.open(path), path)


def _smooth(values: Sequence[Any]) -> np.ndarray:
    """The centred mean over `SMOOTHING_STEPS` steps; over fewer at both ends."""
    half = SMOOTHING_STEPS // 2
    windows = [np.array(values[max(0, step - half) : step + half + 1], dtype=np.float64) for step in range(len(values))]
    return np.array([np.nan if np.isnan(window).all() else np.nanmean(window) for window in windows])


def _record(run: Path, label: str) -> dict[str, Any] | None:
    records = json.loads((run / "evaluation.json").read_text())
    return next((record for record in records if record["label"] == label), None)


def _require_matplotlib(what: str) -> None:
    if find_spec("matplotlib") is None:
        raise SystemExit(f"{what} needs matplotlib: .tools/bin/uv pip install matplotlib")
    import matplotlib

    matplotlib.use("Agg")


def main(runs: Sequence[str]) -> None:
    """Draw what the given runs have."""
    if not runs:
        raise SystemExit(__doc__)
    if runs[0] == "--dynamics":
        _require_matplotlib("dynamics.png")
        chosen = [Path(run) for run in runs[1:]]
        if not chosen:
            raise SystemExit(__doc__)
        draw_dynamics(chosen, IMAGES / "dynamics.png")
        several = [run for run in chosen if sum(name.endswith("/tools/use") for name in rl_lines(run)[0]) > 2]
        if several:
            draw_abilities(several[0], IMAGES / "abilities.png")
        return
    first, *others = map(Path, runs)
    draw_episode(first, IMAGES / "episode.png")
    if not others:
        return
    _require_matplotlib("study.png")
    draw_study(others, IMAGES / "study.png")


if __name__ == "__main__":
    main(sys.argv[1:])
