"""An engine is chosen by its name or by its import path; a wrong one gets one line that says what to write."""

import pytest
from rollout_fakes import ScriptedEngine

from envs.errors import UsageError
from rollout.engines.endpoint import Endpoint
from rollout.engines.registry import ENGINES, find_engine, import_path


def test_names_and_import_paths_are_found():
    assert find_engine("endpoint") is Endpoint
    assert find_engine(ScriptedEngine.KIND) is ScriptedEngine


@pytest.mark.parametrize("kind", ENGINES)
def test_a_name_is_looked_up_without_an_import(kind):
    assert import_path(kind) == ENGINES[kind]


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("vlm", r"did you mean vllm\? Write vllm, endpoint, none, or module:Class"),
        ("Scripted", "write vllm, endpoint, none, or module:Class"),
        ("module:", "module:Class"),
        ("no_such_module:Engine", "no module no_such_module; put its directory into PYTHONPATH"),
        ("rollout_fakes:Missing", "rollout_fakes has no Missing"),
    ],
)
def test_a_wrong_name_gets_one_line(kind, remedy):
    with pytest.raises(UsageError, match=remedy) as error:
        find_engine(kind)
    assert "\n" not in str(error.value)
