"""Pages of runs and evaluations: one file each that asks for nothing from outside; whatever the files of a run hold or lack, it is
shown as text, counted, or named as missing. Experiments: means over seeds, in tables and curves."""

import importlib.util
import json
import os
import re
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from trajectories import CODE, grouped, trajectory

from configs import choices, compose
from evaluation.ablation import FULL
from evaluation.pages.evaluation_page import flat, write_evaluation_page
from evaluation.pages.experiments import abilities_table, by_ability, demonstrations, dynamics, dynamics_table, read_experiment
from evaluation.pages.panels import RL_PANELS, drawn
from evaluation.pages.run_page import write_run_page
from evaluation.records import evaluation_record, write_records
from evaluation.referee.outcomes import WITHOUT
from evaluation.referee.report import judged, med_json, referee_json
from evaluation.settings import EvaluateConfig, FiguresConfig
from learner.run_files.report import write_report
from rollout.store import Store
from rollout.types import Episode, Turn

ROOT = Path(__file__).parents[2]
PICTURE = "a" * 64
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e</pre><img src=http://x>"


def line(step, **metrics):
    """A line of `metrics.jsonl`, of a step counted from 0."""
    return {
        "stage": "rl",
        "step": step,
        "global_step": step,
        "reward/accuracy": 0.5,
        "tools/calls_per_episode/mean": 1.0,
        "tools/calls_per_episode/std": 0.5,
        "tools/collapse_alarm": 0.0,
        **metrics,
    }


def written(run, lines):
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines))
    return run


def record(label="rl", **more):
    episodes = [trajectory([CODE], f"g{item}", correct=item < 3, needs=item < 2) for item in range(4)]
    made = evaluation_record(label, grouped(*episodes), policy="p", tasks="t", seed=0, temperature=1.0)
    return replace(made, **more)


class Elements(HTMLParser):
    """The names of a page's elements, and what their attributes would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.names, self.reaching = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.reaching += [value for name, value in attrs if name in ("src", "href", "style", "data") or name.startswith("on")]


def assert_harmless(text):
    """A page runs nothing and asks for nothing."""
    found = Elements(text)
    assert not found.names & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert all(value.startswith("data:image/png;base64,") for value in found.reaching)
    assert not re.search(r"@import|url\(", re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1])


@pytest.fixture
def run(tmp_path):
    """A run of RL with one hostile episode, in which a picture is missing."""
    store = Store(tmp_path)
    (tmp_path / "trajectories/images").mkdir(parents=True)
    Image.new("RGB", (900, 300), "red").save(tmp_path / "trajectories/images" / f"{PICTURE}.png")
    (tmp_path / "trajectories/images" / f"{'c' * 64}.png").symlink_to(tmp_path / "trajectories/images" / f"{PICTURE}.png")
    turns = [Turn(action=HOSTILE, observation=HOSTILE + "x" * 9000, images=[PICTURE, "b" * 64, "../cc", "c" * 64], tool_calls=[])]
    one = replace(trajectory([CODE], correct=True), answer=HOSTILE, task_id=HOSTILE)
    needless = trajectory([CODE], "h", needs=False)
    store.write("rl_000003", [Episode((replace(one, turns=[*one.turns, *turns]),)), Episode((needless,))])
    with (tmp_path / "trajectories/rl_000003.jsonl").open("a") as file:
        file.write('{"half": ')
    write_records(tmp_path / "evaluation.json", [record("base"), record(HOSTILE)])
    (tmp_path / "config.yaml").write_text(f"seed: 3\nsame: 1\nrl:\n  steps: 5\n  note: {json.dumps(HOSTILE)}\n")
    alarmed = [line(step, **{"tools/collapse_alarm": float(step in (2, 3))}) for step in range(4)]
    return written(tmp_path, [*alarmed, '{"stage": "rl", "st', line(4, **{"rollout/infrastructure_failures": 2})])


def page_of(run, question=lambda episode: f"Q {HOSTILE}"):
    return write_run_page(run, {"seed": 0, "same": 1, "rl": {"steps": 9}}, question).read_text()


def test_a_page_shows_hostile_texts_as_text_and_asks_for_nothing(run):
    text = page_of(run)
    assert_harmless(text)
    assert text.count("\x1b") == text.count("\u202e") == 0
    assert "\\x1b[31m\\x202e" in text
    assert "default-src 'none'" in text
    assert "prefers-color-scheme:dark" in text


def test_a_page_has_results_curves_settings_episodes_and_counts(run):
    text = page_of(run)
    for said in (
        "all: accuracy (95 %)",
        "Use of tools by need",
        "began to ring at step 3.",
        "Right, with a call that was needed",
        "A call that was not needed",
        f"({len(HOSTILE) + 6000:,} more characters)",
        "picture bbbbbbbbbbbb is not there",
        "picture ../cc is not there",
        "picture cccccccccccc is not there",
        "2 episodes failed for infrastructure reasons",
        "1 lines of metrics.jsonl are broken or half-written",
        "1 lines of trajectory files are broken or half-written",
        "the run did not record what these plots need: ",
    ):
        assert said in text, said
    assert '<th scope="row">rl.steps</th><td class="number">5</td><td class="number">9</td>' in text
    assert '<th scope="row">same</th>' not in text
    assert 'alt="picture of 900 × 300 pixels"' in text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no step yet"),
        (["", "[]", "{", "null"], "3 lines of metrics.jsonl"),
        ([line(0, **{"reward/accuracy": float("nan"), "actor/entropy": "text", "critic/score/mean": 10**400})], "1 steps of rl"),
        ([{"stage": "rl"}, {"step": None}, {"stage": "cold_start", "step": 0, "train/loss": 2.0}], "1 steps of cold_start"),
    ],
)
def test_whatever_a_runs_metrics_are_there_is_a_page(tmp_path, lines, said):
    text = page_of(written(tmp_path, lines))
    assert said in text
    assert not re.search(r'="-?(nan|inf)', text)


def test_plots_say_what_their_metrics_count():
    metrics = {"num_turns/mean": 8.0, "tools/first_call_turn/mean": 1.0}
    metrics |= {"tools/code/frequency": 0.25, "perf/cpu_memory_used_gb": 8.0}
    shown = {plot.title: plot for plot in drawn(RL_PANELS, [line(0, **metrics), line(1, **metrics)])[0]}
    last = {title: plot.table[-1] for title, plot in shown.items()}
    assert (shown["Tool mix"].caption, last["Tool mix"][1]) == ("The share of episodes that call a tool.", "25 %")
    assert [*last["Turns"]][1:] == ["4", "1"]  # verl counts the prompt and the observations as well
    assert (shown["Memory"].caption, last["Memory"][1]) == ("GiB.", "8")


@pytest.mark.parametrize("broken", ["evaluation.json", "config.yaml"])
def test_a_file_that_cannot_be_read_is_named(run, broken):
    (run / broken).write_text("{]")
    assert f"{broken} cannot be read" in page_of(run)


def test_nothing_is_waited_for_at_what_is_no_regular_file(run):
    (run / "checkpoints/cold_start").mkdir(parents=True)
    names = ("evaluation.json", "config.yaml", "med.json", "evaluation.md", "metrics.jsonl")
    for name in (*names, "checkpoints/cold_start/state.json", "trajectories/rl_000004.jsonl"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
    for text in (write_report(run).read_text(), write_evaluation_page(run, {}).read_text()):
        for name in ("evaluation.json", "config.yaml"):
            assert f"{name} cannot be read: " in text
        assert "2 lines of trajectory files are broken" in text
    assert "evaluation.md cannot be read: " in text


@pytest.mark.parametrize("state", ['{"history": 3}', '{"history": [], "by_ability": [[1]]}', "[" * 20_000, '{"history": [[1]]}'])
def test_a_checkpoint_of_another_form_leaves_the_rest(run, state):
    (run / "checkpoints/cold_start").mkdir(parents=True, exist_ok=True)
    (run / "checkpoints/cold_start/state.json").write_text(state)
    assert "Tool calls per episode" in page_of(run)


def test_pictures_are_read_as_png_alone(run):
    images = list((run / "trajectories/images").glob("*.png"))
    for image in images:
        Image.new("RGB", (4, 4)).save(image, "BMP")
    page = page_of(run)
    assert images and "data:image/png" not in page and "cannot be read: UnidentifiedImageError" in page


def test_a_question_that_cannot_be_read_leaves_the_rest(run):
    def question(episode):
        raise KeyError("tokens")

    assert "the question is not shown: KeyError" in page_of(run, question)


def test_an_evaluations_page_holds_the_referees_plots(tmp_path):
    episodes = [trajectory([CODE], f"g{item}", correct=item != 1, needs=item < 2) for item in range(4)]
    without = [trajectory(group=f"g{item}", correct=item > 1, needs=item < 2) for item in range(4)]
    groups = {FULL: grouped(*episodes), WITHOUT: grouped(*without)}
    referee = judged({"step_1": groups, "base": groups}, ["base", "step_1"])
    records = [record(label, settings={"referee": referee_json(referee, label)}) for label in ("step_1", "base")]
    write_records(tmp_path / "evaluation.json", records)
    (tmp_path / "med.json").write_text(json.dumps(med_json(referee)))
    (tmp_path / "evaluation.md").write_text("| <b> |")
    text = write_evaluation_page(tmp_path, asdict(EvaluateConfig())).read_text()
    assert_harmless(text)
    assert text.count("<svg") == 3 + 6
    assert "| &lt;b&gt; |" in text
    for title in ("Accuracy by setting", "Mode adaptiveness", "Tool effect", "MED: change since base"):
        assert f"<h3>{title}</h3>" in text


def test_settings_have_dotted_names():
    assert flat({"a": {"b": [1], "c": {}}, "d": None, "e": "x"}) == {"a.b": "[1]", "d": "null", "e": "x"}


@pytest.fixture
def experiment(tmp_path):
    """Two seeds of ten steps, one with an alarm and a held-out record."""
    for seed, calls in enumerate((1.0, 2.0)):
        lines = [
            line(
                step,
                **{
                    "tools/calls_per_episode/mean": calls * (0.5 if step > 4 else 1.0),
                    "tools/variance/between_group": 0.25,
                    "tools/collapse_alarm": float(seed == 1 and step == 6),
                    "by_need/needed/tool_use": 0.9,
                    "ability/perception/tools/calls_per_episode/mean": calls,
                },
            )
            for step in range(10)
        ]
        written(tmp_path / f"e_{seed}", lines)
    write_records(tmp_path / "e_1/evaluation.json", [record("cold_start"), record("rl")])
    return read_experiment("e", [tmp_path / "e_0", tmp_path / "e_1"])


def test_the_tables_of_an_experiment_have_means_and_ranges_over_seeds(experiment):
    measured, kinds, trained = dynamics_table([experiment]).split("\n\n")
    cells = [cell.strip() for cell in measured.splitlines()[2].split("|")[1:-1]]
    assert cells == ["e", "2", "10", "–", "75.0", "75.0", "1.00", "1.00", "95.0 (90.0–100.0)", "100.0"]
    assert kinds.splitlines()[::2] == ["| experiment | faking, needed | faking, not needed |", "| e | 100.0 | 50.0 |"]
    cells = [cell.strip() for cell in trained.splitlines()[2].split("|")[1:-1]]
    assert cells[:5] == ["e", "1.50 (1.00–2.00)", "0.75 (0.50–1.00)", "0.50 (0.50–0.50)", "0.50 (0.50–0.50)"]
    assert cells[5:] == ["–", "–", "–", "–", "silent, 7", "–, 1.00"]
    assert abilities_table(experiment).splitlines()[2].startswith("| perception | 1.50 (1.00–2.00) | 1.50 (1.00–2.00) |")


def test_the_plots_of_an_experiment_have_a_curve_for_what_was_recorded(experiment):
    calls, accuracy, needed, not_needed = dynamics([experiment])
    assert "e from 1.50 to 0.75" in calls.description
    assert "alarm: e at 7" in calls.description
    assert (accuracy.description, needed.table[0], not_needed.table) == (
        "e from 50 % to 50 %, lowest 50 %, highest 50 %",
        ["RL step", "e"],
        (),
    )
    assert "perception from 1.50" in by_ability(experiment)[0].description


def test_numbers_of_demonstrations_stand_on_a_logarithmic_axis_by_their_own_names(experiment):
    (plot,) = demonstrations({24: experiment, 240: experiment, 24_000: experiment})
    assert "after RL from 75 %" in plot.description
    assert [line[0] for line in plot.table] == ["demonstrations", "24", "240", "24,000"]
    named = {name: float(place) for place, name in re.findall(r'x="([\d.]+)"[^>]*middle">([\d,]+)<', "".join(plot.parts))}
    assert named["24,000"] - named["240"] == pytest.approx(2 * (named["240"] - named["24"]), abs=0.2)
    assert "24" in "".join(demonstrations({24: experiment})[0].parts)


def figures():
    """The module `docs/figures.py`."""
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs/figures.py")
    sys.modules["figures"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_draw_what_is_there_and_name_what_makes_the_rest(experiment, tmp_path, capsys):
    out = tmp_path / "images"
    figures().main([f"runs={tmp_path}", f"out={out}", "+pictures.mine=[e,no_tools]", "seeds=[0,1,2]", "study=e", "abilities=e"])
    printed = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["dynamics_abilities.svg", "dynamics_mine.svg", "study.svg"]
    assert "| e | 2 | 10 |" in printed
    missing = [line for line in printed.splitlines() if " is not there: " in line]
    run = tmp_path / "no_tools_1"
    command = f".venv/bin/toolwise train experiment=dynamics/no_tools seed=1 out={run} resume=true"
    assert f"{run} is not there: {command}" in missing
    assert f"{tmp_path}/demo is not there: make demo" in missing
    assert sum("cold_start.demonstrations=96" in line for line in missing) == 3


def test_each_picture_of_the_documents_names_experiments_that_a_command_makes():
    module = figures()
    config = FiguresConfig()
    names = {name for group in config.pictures.values() for name in group} | {config.abilities, "demonstrations_24"}
    for name in names:
        experiment = re.search(r"experiment=(\S+)", module.command_of(name, 0, Path("runs/x")))[1]
        assert experiment in choices()


def test_the_documented_commands_for_pictures_compose():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    found = [text for page in pages for text in re.findall(r"docs/figures\.py((?: [^\s`]+)*)$", page.read_text(), re.MULTILINE)]
    assert len(found) >= 3
    for text in found:
        compose("figures", FiguresConfig, [word.strip("'") for word in text.split()])
