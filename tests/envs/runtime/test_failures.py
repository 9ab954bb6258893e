"""The line of an error names the place in the user's own code, and no place where there is none."""

import json
from functools import partial

import pytest
from command_line import ROOT

from configs import compose
from envs.runtime.failures import _ROOMS, told


def error_of(function, *arguments):
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return told(caught.value)


@pytest.fixture
def module(tmp_path):
    """The names of a user's file."""
    file = tmp_path / "mine.py"
    file.write_text("import json\n\ndef tasks(rng):\n    return [][3]\n\ndef parsed(text):\n    return json.loads(text)\n")
    names = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    return names


def test_the_place_is_the_users(module):
    assert error_of(module["tasks"], None) == "IndexError: list index out of range (mine.py, line 4, in tasks)"


def test_what_the_users_code_called_is_not_the_place(module):
    assert error_of(module["parsed"], "{").endswith("(mine.py, line 7, in parsed)")


@pytest.mark.parametrize(
    ("function", "argument"), [(json.loads, "x"), (partial(compose, "train", int), ["x"])], ids=["of Python", "of the project"]
)
def test_code_that_is_not_the_users_is_no_place(function, argument, monkeypatch):
    monkeypatch.setattr("envs.runtime.failures._ROOMS", (*_ROOMS, "tests"))
    assert ", line " not in error_of(function, argument)


def test_lines_become_one():
    assert told(ValueError("one\n  two")) == "ValueError: one two"


def test_a_copied_example_is_the_users():
    source = compile("def f():\n    raise KeyError('x')\n", str(ROOT / "examples" / "mine.py"), "exec")
    names = {}
    exec(source, names)
    assert error_of(names["f"]) == "KeyError: 'x' (mine.py, line 2, in f)"


def test_every_room_of_the_project_is_known():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {path.name for path in ROOT.glob("*.py")}
    assert rooms == {*_ROOMS}
