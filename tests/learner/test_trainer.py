"""`learner.kind` names a trainer of the project or anybody's class, and a wrong name is answered in one line."""

import pytest
import scripted

from envs.errors import UsageError
from learner.config import LearnerConfig
from learner.trainer import find_trainer


def test_the_projects_trainer_is_found_by_its_name():
    from learner.verl.trainer import VerlTrainer

    assert find_trainer(LearnerConfig().kind) is VerlTrainer


def test_anybodys_trainer_is_found_by_its_import_path():
    assert find_trainer("scripted:ScriptedTrainer") is scripted.ScriptedTrainer


@pytest.mark.parametrize("kind", ["verrl", "", "scripted:", ":ScriptedTrainer", "scripted:Nobody", "no_such_module:Trainer"])
def test_a_wrong_name_is_answered_with_what_to_write(kind):
    with pytest.raises(UsageError, match=f"^learner.kind={kind}: .*(write|Write|put its|has no)") as error:
        LearnerConfig(kind=kind).check()
    assert "\n" not in str(error.value)
