"""`module:name` on a user's command line: the object, or one line that says what is wrong with it."""

import sys

import pytest

from envs.errors import UsageError
from envs.runtime.imports import load, unknown


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module outside the checkout and puts its folder on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)


def refusal(path):
    with pytest.raises(UsageError) as refused:
        load(path, "tools")
    assert str(refused.value).startswith(f"tools={path}")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_an_object_of_a_module_is_loaded(module):
    assert load(f"{module('mine_ok', 'value = 5')}:value", "tools") == 5


def test_a_name_may_lead_through_a_class(module):
    assert load(f"{module('mine_class', 'class A: value = 5')}:A.value", "tools") == 5


def test_a_module_that_is_not_there_asks_for_its_folder():
    assert "no module nowhere_at_all; put its directory into PYTHONPATH" in refusal("nowhere_at_all:x")


def test_a_file_in_place_of_a_module_is_answered_with_how_a_module_is_written():
    assert "write its name without .py and folders" in refusal("nowhere_at_all.py:x")


def test_a_dot_in_place_of_the_colon_is_answered_with_the_colon():
    assert "or mine:look for your own" in str(unknown("tools", "mine.look", ["code"]))


def test_a_package_that_is_not_there_is_named():
    assert "no module nowhere_at_all; put" in refusal("nowhere_at_all.inside:x")


def test_a_name_that_is_not_there_is_answered_with_the_nearest(module):
    assert "has no looks: did you mean look?" in refusal(f"{module('mine_names', 'def look(): pass')}:looks")


def test_a_module_that_imports_what_is_not_installed_names_that(module):
    text = refusal(f"{module('mine_dependent', 'import not_installed_anywhere')}:x")
    assert "imports not_installed_anywhere, which is not installed" in text


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def (:", "SyntaxError"),
        ("import math\nmath.nothing", "AttributeError"),
        ("from math import nothing", "ImportError"),
        ("raise ValueError('first\\nsecond')", "ValueError: first second"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why_in_one_line(module, source, error):
    name = f"mine_broken_{abs(hash(source))}"
    assert f"cannot be imported: {error}" in refusal(f"{module(name, source)}:x")


@pytest.mark.parametrize("path", [":x", "math:", ":", ".relative:x"])
def test_half_a_path_is_refused(path):
    assert "write module:name" in refusal(path)
