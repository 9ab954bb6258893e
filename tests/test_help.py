"""`toolwise help` and `toolwise COMMAND --help`: what the commands are for, and their settings with values and meanings."""

import re
from dataclasses import is_dataclass
from importlib.metadata import version
from typing import get_type_hints

import pytest
from command_line import assert_one_line, run_here

from configs.describing import meanings
from toolwise import COMMANDS
from usage import ABOUT, SETTINGS, schema

WIDTH = 132


@pytest.mark.parametrize("argument", ["help", "--help", "-h"])
def test_it_names_each_command(argument):
    result = run_here(argument)
    assert result.returncode == 0
    assert re.findall(r"^  ([a-z-]+) ", result.stdout, re.MULTILINE) == [*COMMANDS] == [*ABOUT]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_is_for(command):
    result = run_here(command, "--help")
    out = result.stdout
    assert result.returncode == 0
    assert out.startswith(f"toolwise {command}: {ABOUT[command]}")
    assert max(map(len, out.splitlines())) <= WIDTH


def test_help_of_a_command_is_its_help():
    assert run_here("help", "lint").stdout == run_here("lint", "--help").stdout


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_it_tells_its_version(argument):
    assert run_here(argument).stdout == f"toolwise {version('toolwise')}\n"


def test_a_misspelt_command_is_answered_with_the_nearest():
    assert_one_line(run_here("trian"), "there is no command 'trian': did you mean train?")


def test_a_setting_has_its_default_and_meaning():
    out = run_here("collect", "-h").stdout
    assert re.search(r"^  episodes=64 +Number of tasks\. Of a file", out, re.MULTILINE)


def test_values_are_those_of_what_stands_before_it():
    out = run_here("train", "experiment=smollm2", "rl.steps=7", "--help").stdout
    assert re.search(r"^  policy=runs/smollm2 ", out, re.MULTILINE)
    assert re.search(r"^  rl\.steps=7 ", out, re.MULTILINE)


def test_only_what_stands_behind_it_is_shown():
    out = run_here("train", "--help", "checkpoint", "max_tokens").stdout
    assert re.findall(r"^  ([\w.]+)=", out, re.MULTILINE) == ["checkpoint.dir", "checkpoint.best", "rollout.episode.max_tokens"]


def test_what_each_entry_of_a_mapping_has_is_shown():
    out = run_here("synthesize", "--help", "teachers").stdout
    assert re.search(r"^  teachers\.NAME\.price_in=0\.0 +Price of a million", out, re.MULTILINE)


def test_an_entry_of_a_list_is_shown_as_it_is_written():
    out = run_here("train", "--help", "sources").stdout
    assert re.search(r"^an entry of cold_start\.sources, \{name: value, …\}: One of", out, re.MULTILINE)
    assert re.search(r"^  path: expert +A file of conversations", out, re.MULTILINE)


def test_the_kind_of_a_model_chooses_its_settings():
    out = run_here("model", "smollm2", "--help").stdout
    assert "settings of toolwise model smollm2" in out
    assert "model starter" not in out.partition("settings of")[2]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [(["train", "--help", "max_tokns"], "write max_tokens or"), (["train", "rl.stepps=1", "--help"], "did you mean rl.steps=…?")],
    ids=["part", "override"],
)
def test_a_misspelt_name_is_answered_with_the_right_one(arguments, remedy):
    assert_one_line(run_here(*arguments), remedy)


@pytest.mark.parametrize("command", [command for command, settings in SETTINGS.items() if settings])
def test_every_setting_has_a_meaning(command):
    def unexplained(made):
        hints = get_type_hints(made)
        nested = [name for name, hint in hints.items() if is_dataclass(hint)]
        own = [name for name in hints if name not in {*meanings(made), *nested}]
        return own + [name for one in nested for name in unexplained(hints[one])]

    assert unexplained(schema(SETTINGS[command][1])) == []
