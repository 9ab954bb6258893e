"""An engine is chosen by its name or by its import path; a wrong one gets one line that says what to write."""

import pytest
from rollout_fakes import ScriptedEngine

from envs.errors import UsageError
from rollout.engines.endpoint import Endpoint
from rollout.engines.registry import find_engine


def test_names_and_import_paths_are_found():
    assert find_engine("endpoint") is Endpoint
    assert find_engine(ScriptedEngine.KIND) is ScriptedEngine


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("vlm", "did you mean vllm"),
        ("Scripted", "write vllm or verl or endpoint or none, or module:name"),
        ("module:", "module:name"),
        ("no_such_module:Engine", "no module no_such_module; put its directory into PYTHONPATH"),
        ("rollout_fakes:Missing", "rollout_fakes has no Missing"),
    ],
)
def test_a_wrong_name_gets_one_line(kind, remedy):
    with pytest.raises(UsageError, match=remedy) as error:
        find_engine(kind)
    assert "\n" not in str(error.value)
